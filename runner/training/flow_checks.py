"""Step 1 of the guide: does the flow work at all? Five checks of a model on one small batch."""

import copy
import math
import time
from collections.abc import Callable, Iterator

import torch
from rich.console import Console
from torch import Tensor

from gpt2.language_model import LanguageModel
from runner.findings import FIRST_LOSS_DISTANCE, LEAK
from runner.folder import RunFolder
from runner.messages import say
from runner.record import Check

OVERFIT_TOKENS = 8
OVERFIT_STEPS = 40
# A deep plain network diverges at the rate that a small one needs.
OVERFIT_RATES = (3e-4, 3e-3)

Outcome = tuple[bool, str]


class FlowCheckFailed(Exception):
    """At least one flow check failed; the message names each and what was measured."""


def run_flow_checks(
    model: LanguageModel, batch: tuple[Tensor, ...], folder: RunFolder, console: Console
) -> None:
    """Check a model on a batch; prints and records each check. Raises FlowCheckFailed."""
    failed = []
    for check in check_flow(model, *batch):
        mark, colour = ("✓", "green") if check.passed else ("✗", "red")
        say(console, f"{mark} {check.name}: {check.detail}", colour)
        folder.run.checks.append(check)
        failed += [] if check.passed else [f"{check.name}: {check.detail}"]
    folder.save()
    if failed:
        raise FlowCheckFailed(f"Flow check failed: {'; '.join(failed)}.")


def check_flow(model: LanguageModel, idx_BT: Tensor, targets_BT: Tensor) -> Iterator[Check]:
    """Check shapes, first loss, causality, gradients and learning, yielding each when it is done.

    The model is not changed, except that its gradients are cleared. `idx_BT` and `targets_BT` are
    int64 (B, T) with T of at least 2, on the model's device.
    """
    for name, check in CHECKS.items():
        started = time.perf_counter()
        passed, detail = check(model, idx_BT, targets_BT)
        model.zero_grad(set_to_none=True)
        yield Check(name, passed, detail, time.perf_counter() - started)


@torch.no_grad()
def _shapes(model: LanguageModel, idx_BT: Tensor, targets_BT: Tensor) -> Outcome:
    shape = tuple(model(idx_BT)[0].shape)
    loss = model(idx_BT, targets_BT)[1]
    expected = (*idx_BT.shape, model.vocab_size)
    if (
        shape[:2] == expected[:2]
        and shape[2] >= expected[2]
        and loss is not None
        and loss.dim() == 0
    ):
        return True, f"logits {shape}, loss a scalar"
    return False, f"logits {shape}, loss {loss}; expected logits {expected} and a scalar loss"


@torch.no_grad()
def _first_loss(model: LanguageModel, idx_BT: Tensor, targets_BT: Tensor) -> Outcome:
    loss = float(model(idx_BT, targets_BT)[1])
    uniform = math.log(model.vocab_size)
    measured = f"{loss:.3f}, and ln({model.vocab_size:,}) = {uniform:.3f}"
    if abs(loss - uniform) <= FIRST_LOSS_DISTANCE:
        return True, f"{measured}: within {FIRST_LOSS_DISTANCE}"
    if loss > uniform:
        return False, f"{measured}: too high, the first logits vary too much; check the init"
    return False, f"{measured}: too low for an untrained model; check for targets in the input"


def _causality(model: LanguageModel, idx_BT: Tensor, targets_BT: Tensor) -> Outcome:
    """The gradient of a middle position's logits with respect to later embeddings must be zero.

    Uses a deep copy, since a batch norm updates its statistics at every forward pass.
    """
    probe = copy.deepcopy(model)
    embedding = probe.token_embedding()
    if embedding is None:
        return True, "not checked: the model has no nn.Embedding of the vocabulary"
    embedded_BTC = embedding(idx_BT).detach().requires_grad_()
    embedding.register_forward_hook(lambda *_: embedded_BTC)
    middle = idx_BT.shape[1] // 2
    # All logits with different weights: in a plain sum a normalisation could cancel a leak.
    logits_V = probe(idx_BT)[0][0, middle - 1].float()
    weighted = logits_V @ torch.linspace(-1, 1, len(logits_V), device=logits_V.device)
    gradient = torch.autograd.grad(weighted, embedded_BTC, allow_unused=True)[0]
    if gradient is None:
        return True, "not checked: the model does not call its nn.Embedding of the vocabulary"
    grad_T = gradient[0].abs().amax(dim=-1)
    if grad_T[middle:].max() > LEAK * grad_T.max():
        batch_norm = ": batch norm takes its statistics over positions"
        reason = batch_norm if model.mixes_positions() else ""
        return False, f"a later token changes an earlier position's logits{reason}"
    if not grad_T[:middle].any():
        return False, "no token changes the logits at all"
    exactly = "" if grad_T[middle:].any() else "exactly "
    return True, f"the gradient of a position with respect to every later token is {exactly}zero"


def _gradients(model: LanguageModel, idx_BT: Tensor, targets_BT: Tensor) -> Outcome:
    probe = copy.deepcopy(model)
    probe(idx_BT, targets_BT)[1].backward()
    parameters = {name: p for name, p in probe.named_parameters() if p.requires_grad}
    without = [name for name, p in parameters.items() if p.grad is None or not p.grad.any()]
    if without:
        names = ", ".join(without[:3])
        return False, f"{len(without)} of {len(parameters)} parameters have none: {names}"
    return True, f"all {len(parameters)} parameters have one"


def _overfit(model: LanguageModel, idx_BT: Tensor, targets_BT: Tensor) -> Outcome:
    """Plain AdamW on a few tokens must halve the loss."""
    batch = idx_BT[:1, :OVERFIT_TOKENS], targets_BT[:1, :OVERFIT_TOKENS]
    for rate in OVERFIT_RATES:
        probe = copy.deepcopy(model).train()
        optimizer = torch.optim.AdamW(probe.parameters(), lr=rate)
        losses = []
        for step in range(OVERFIT_STEPS):
            loss = probe(*batch)[1]
            losses.append(loss.item())
            fell = f"loss {losses[0]:.2f} to {min(losses):.2f}"
            if losses[-1] < losses[0] / 2:
                return True, f"{fell} in {step} steps at a rate of {rate:g}"
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return False, f"only {fell} in {OVERFIT_STEPS} steps"


CHECKS: dict[str, Callable[[LanguageModel, Tensor, Tensor], Outcome]] = {
    "logits and loss have the right shapes": _shapes,
    "the first loss is near ln(vocabulary)": _first_loss,
    "no token sees the future": _causality,
    "every parameter gets a gradient": _gradients,
    "one small batch can be overfitted": _overfit,
}
