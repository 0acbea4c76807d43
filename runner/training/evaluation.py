"""The loss on held-out text."""

import math
import statistics
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from gpt2.language_model import LanguageModel
from runner.data.stream import HeldOut
from runner.rows import Window
from runner.training.device import upload


@torch.no_grad()
def evaluate(
    model: LanguageModel, held_out: HeldOut, batch_size: int, autocast: torch.autocast, step: int
) -> list[Window]:
    """The mean cross entropy of each of this process's held-out windows, padded rows left out.

    `step` is the number of steps that the model was trained for.
    """
    device = next(model.parameters()).device
    losses: list[float] = []
    model.eval()
    # The model is compiled for training; an evaluation is too short to compile it again.
    with torch.compiler.set_stance("force_eager"):
        for batch in held_out.batches(batch_size):
            idx_BT, targets_BT = upload(batch, device)
            with autocast:
                logits_BTV = model(idx_BT)[0]
            # A window at a time, since logits in fp32 are large.
            windows = zip(logits_BTV, targets_BT, strict=True)
            losses += [
                F.cross_entropy(logits.float(), targets).item() for logits, targets in windows
            ]
    model.train()
    places = zip(held_out.own, losses, strict=True)
    return [Window(step, first, held_out.context, loss) for first, loss in places]


def mean_and_error(windows: Sequence[Window]) -> tuple[float, float]:
    """The mean loss of windows of one length, and its standard error; NaN for a single one."""
    losses = [window.loss for window in windows]
    mean = statistics.fmean(losses)
    if len(losses) < 2 or not math.isfinite(mean):
        return mean, math.nan
    return mean, statistics.stdev(losses, mean) / math.sqrt(len(losses))
