"""Step 1 of the guide: does the flow work at all? Five checks of a model on one small batch."""

import copy
import math
import time
from collections.abc import Iterator

import torch
from rich.console import Console
from torch import Tensor

from gpt2.language_model import LanguageModel
from runner.findings import FIRST_LOSS_DISTANCE, LEAK, above_uniform
from runner.folder import RunFolder
from runner.messages import say
from runner.observations import FlowCheck
from runner.training.diagnosis import inspect
from runner.training.state import same_buffers, seed_everything, without_dropout

OVERFIT_TOKENS = 8
OVERFIT_STEPS = 40
# A deep plain network diverges at the rate that a small one needs.
OVERFIT_RATES = (3e-4, 3e-3)

CHECKS = (
    "logits and loss have the right shapes",
    "the first loss is near ln(vocabulary)",
    "no token sees the future",
    "every parameter gets a gradient",
    "one small batch can be overfitted",
)
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


def check_flow(model: LanguageModel, idx_BT: Tensor, targets_BT: Tensor) -> Iterator[FlowCheck]:
    """Check shapes, first loss, causality, gradients and learning, yielding each when it is done.

    The model is not changed. `idx_BT` and `targets_BT` are int64 (B, T) with T of at least 2, on
    the model's device.
    """
    started = time.perf_counter()
    outcomes = _outcomes(model, idx_BT, targets_BT)
    with without_dropout(model):
        for name, (passed, detail) in zip(CHECKS, outcomes, strict=True):
            yield FlowCheck(name, passed, detail, time.perf_counter() - started)
            started = time.perf_counter()


def _outcomes(model: LanguageModel, idx_BT: Tensor, targets_BT: Tensor) -> Iterator[Outcome]:
    """Whether each of the CHECKS passed, and what was measured."""
    with torch.no_grad(), same_buffers(model):
        loss, passes = model(idx_BT, targets_BT)[1], []
        for tokens_BT in (idx_BT, (idx_BT + 1) % model.vocab_size):
            seed_everything(0)  # so that only the tokens differ, whatever the model draws
            passes.append(model(tokens_BT)[0])
    logits, others = passes
    shape, expected = tuple(logits.shape), (*idx_BT.shape, model.vocab_size)
    if shape[:2] == expected[:2] and shape[2] >= expected[2] and loss.dim() == 0:
        yield True, f"logits {shape}, loss a scalar"
    else:
        yield False, f"logits {shape}, loss {loss}; expected logits {expected} and a scalar loss"
    yield _first_loss(float(loss), model.vocab_size)

    # A layer that starts at zero hides those before it until it has taken a step.
    stepped = _after_a_step(model, idx_BT, targets_BT)
    no_autocast = torch.autocast(idx_BT.device.type, enabled=False)
    looks = [inspect(each, no_autocast, 0, idx_BT, targets_BT)[0] for each in (model, stepped)]
    later = max((look.later for look in looks if look.later is not None), default=None)
    if model.token_embedding() is None or later is None:
        yield True, "not checked: the model calls no nn.Embedding of the vocabulary"
    elif later > LEAK:
        batch_norm = ": batch norm takes its statistics over positions"
        reason = batch_norm if model.mixes_positions() else ""
        yield False, f"a later token changes an earlier position's logits{reason}"
    elif torch.equal(logits, others):
        yield False, "no token changes the logits at all"
    else:
        exactly = "" if later else "exactly "
        yield True, f"the gradient of a position with respect to every later token is {exactly}zero"
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    found = {name for each in (model, stepped) for name in _with_gradient(each, idx_BT, targets_BT)}
    del stepped
    if without := [name for name in trained if name not in found]:
        names = ", ".join(without[:3])
        yield False, f"{len(without)} of {len(trained)} parameters have none: {names}"
    else:
        yield True, f"all {len(trained)} parameters have one"
    yield _overfit(model, idx_BT[:1, :OVERFIT_TOKENS], targets_BT[:1, :OVERFIT_TOKENS])


def _after_a_step(model: LanguageModel, idx_BT: Tensor, targets_BT: Tensor) -> LanguageModel:
    """A copy of a model that has taken a step of plain AdamW."""
    probe = copy.deepcopy(model)
    probe(idx_BT, targets_BT)[1].sum().backward()
    torch.optim.AdamW(probe.parameters(), lr=OVERFIT_RATES[0]).step()
    probe.zero_grad(set_to_none=True)
    return probe


def _with_gradient(model: LanguageModel, idx_BT: Tensor, targets_BT: Tensor) -> list[str]:
    """The parameters that get a gradient from a batch; one sequence may not use all of a model."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with same_buffers(model):
        loss = model(idx_BT, targets_BT)[1].sum()
        found = torch.autograd.grad(loss, [*parameters.values()], allow_unused=True)
    pairs = zip(parameters, found, strict=True)
    return [name for name, gradient in pairs if gradient is not None and gradient.any()]


def _first_loss(loss: float, vocabulary: int) -> Outcome:
    measured = f"{loss:.3f}, and ln({vocabulary:,}) = {math.log(vocabulary):.3f}"
    above = above_uniform(loss, vocabulary)
    if above == 0:
        return True, f"{measured}: within {FIRST_LOSS_DISTANCE}"
    if above > 0:
        return False, f"{measured}: too high, the first logits vary too much; check the init"
    return False, f"{measured}: too low for an untrained model; check for targets in the input"


def _overfit(model: LanguageModel, idx_BT: Tensor, targets_BT: Tensor) -> Outcome:
    """Plain AdamW on a few tokens must halve the loss."""
    for rate in OVERFIT_RATES:
        probe = copy.deepcopy(model)
        optimizer = torch.optim.AdamW(probe.parameters(), lr=rate)
        losses = []
        for step in range(OVERFIT_STEPS):
            loss = probe(idx_BT, targets_BT)[1]
            losses.append(loss.item())
            fell = f"loss {losses[0]:.2f} to {min(losses):.2f}"
            if losses[-1] < losses[0] / 2:
                return True, f"{fell} in {step} steps at a rate of {rate:g}"
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return False, f"only {fell} in {OVERFIT_STEPS} steps"
