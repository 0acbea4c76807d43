"""The loss on held-out text."""

import torch

from gpt2.model import GPT
from runner.training.device import upload


@torch.no_grad()
def held_out_loss(
    model: GPT, batches: list[tuple[torch.Tensor, torch.Tensor]], autocast: torch.autocast
) -> float:
    """Mean cross entropy in nats per token over held-out text, padded rows left out."""
    device = next(model.parameters()).device
    model.eval()
    total, count = 0.0, 0
    # What is compiled is so for training; an evaluation is too short to compile them again.
    with torch.compiler.set_stance("force_eager"):
        for batch in batches:
            with autocast:
                _, loss = model(*upload(batch, device))
            total += loss.item() * batch[1].numel()
            count += batch[1].numel()
    model.train()
    return total / count
