"""Step 1 of the guide: does the flow work at all? Five checks of a model on one small batch."""

import copy
import math
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from gpt2.config import Norm
from gpt2.model import GPT
from runner.record import Check

FIRST_LOSS_DISTANCE = 1.0
OVERFIT_TOKENS = 8
OVERFIT_STEPS = 40
# A deep plain network explodes at the rate that a small one needs.
OVERFIT_RATES = (3e-4, 3e-3)


class FlowCheckFailed(Exception):
    """A flow check failed; the message names it and what was measured."""


def check_flow(model: GPT, idx_BT: Tensor, targets_BT: Tensor) -> Iterator[Check]:
    """Check shapes, first loss, causality, gradients and learning, yielding each as it is done.

    The model is left unchanged, except for its gradients, which are cleared. `idx_BT` and
    `targets_BT` are int64 (B, T) with T of at least 2, on the model's device.
    """
    for name, check in CHECKS.items():
        started = time.perf_counter()
        passed, detail = check(model, idx_BT, targets_BT)
        model.zero_grad(set_to_none=True)
        yield Check(name, passed, detail, time.perf_counter() - started)


def _shapes(model: GPT, idx_BT: Tensor, targets_BT: Tensor) -> tuple[bool, str]:
    with torch.no_grad():
        logits_BTV = model(idx_BT)[0]
        loss = model(idx_BT, targets_BT)[1]
    expected = (*idx_BT.shape, model.config.padded_vocab_size)
    passed = tuple(logits_BTV.shape) == expected and loss is not None and loss.dim() == 0
    return (
        passed,
        f"logits {tuple(logits_BTV.shape)}, loss {'a scalar' if passed else 'is not right'}",
    )


def _first_loss(model: GPT, idx_BT: Tensor, targets_BT: Tensor) -> tuple[bool, str]:
    with torch.no_grad():
        loss = float(model(idx_BT, targets_BT)[1])
    uniform = math.log(model.config.vocab_size)
    measured = f"{loss:.3f}, and ln({model.config.vocab_size:,}) = {uniform:.3f}"
    if abs(loss - uniform) <= FIRST_LOSS_DISTANCE:
        return True, f"{measured}: within {FIRST_LOSS_DISTANCE}"
    if loss > uniform:
        return False, f"{measured}: too high, so the first logits are too wide; look at the init"
    return False, f"{measured}: too low for an untrained model; look for targets in the input"


def _causality(model: GPT, idx_BT: Tensor, targets_BT: Tensor) -> tuple[bool, str]:
    """The gradient of a middle position's logits with respect to later embeddings must be zero.

    Runs on a deep copy, since a batch norm updates its statistics at every forward pass.
    """
    probe = copy.deepcopy(model)
    embedded: list[Tensor] = []

    def keep(module: torch.nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[0]

    probe.wte.register_forward_hook(keep)
    middle = idx_BT.shape[1] // 2
    # Every other logit, weighted unevenly: a plain sum would hide what a normalisation cancels.
    logits_V = probe(idx_BT)[0][0, middle - 1].float()
    (logits_V * torch.linspace(-1, 1, len(logits_V), device=logits_V.device)).sum().backward()
    assert embedded[0].grad is not None
    grad_T = embedded[0].grad[0].abs().amax(dim=-1)
    past, future = float(grad_T[:middle].max()), float(grad_T[middle:].max())
    if future > 0:
        blame = (
            ": batch norm takes its statistics over positions"
            if model.config.norm is Norm.batch
            else ""
        )
        return False, f"a later token changes an earlier position's logits{blame}"
    if past == 0:
        return False, "no token changes the logits at all"
    return True, "the gradient of a position with respect to every later token is exactly zero"


def _gradients(model: GPT, idx_BT: Tensor, targets_BT: Tensor) -> tuple[bool, str]:
    probe = copy.deepcopy(model)
    probe(idx_BT, targets_BT)[1].backward()
    parameters = dict(probe.named_parameters())
    without = [name for name, p in parameters.items() if p.grad is None or not p.grad.any()]
    if without:
        return (
            False,
            f"{len(without)} of {len(parameters)} parameters get none: {', '.join(without[:3])}",
        )
    return True, f"all {len(parameters)} parameters get one"


def _overfit(model: GPT, idx_BT: Tensor, targets_BT: Tensor) -> tuple[bool, str]:
    """Plain AdamW on a few tokens until the loss is under half of where it began."""
    batch = idx_BT[:1, :OVERFIT_TOKENS], targets_BT[:1, :OVERFIT_TOKENS]
    best = math.inf
    for rate in OVERFIT_RATES:
        probe = copy.deepcopy(model).train()
        optimizer = torch.optim.AdamW(probe.parameters(), lr=rate)
        for step in range(OVERFIT_STEPS):
            loss = probe(*batch)[1]
            if step == 0:
                first = loss.item()
            best = min(best, loss.item())
            if best < first / 2:
                return True, f"loss {first:.2f} to {best:.2f} in {step} steps at a rate of {rate:g}"
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return False, f"loss {first:.2f} fell only to {best:.2f} in {OVERFIT_STEPS} steps"


CHECKS: dict[str, Callable[[GPT, Tensor, Tensor], tuple[bool, str]]] = {
    "logits and loss have the right shapes": _shapes,
    "the first loss is near ln(vocabulary)": _first_loss,
    "no token sees the future": _causality,
    "every parameter gets a gradient": _gradients,
    "one small batch can be overfitted": _overfit,
}
