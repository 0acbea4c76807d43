"""A verdict on each stage, by its own aim, against the stage before it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from conf.schema import Aim
from reports.compare import StageRuns
from reports.statistics import Estimate
from runner.record import Run, Status


@dataclass(frozen=True)
class Verdict:
    """A judgement of a stage: `tone` is good, bad, even or none; `text` says why."""

    tone: str
    text: str


def verdict(stage: StageRuns) -> Verdict:
    """What the stage did, as far as the data shows it."""
    if not stage.finished:
        return _unfinished(stage.newest)
    if stage.aim is Aim.flow:
        return _flow(stage.newest)
    found = _finished(stage)
    lost = [run.record for run in stage.runs if not run.finished]
    if lost:
        states = ", ".join(f"seed {run.seed} {run.status.value}" for run in lost)
        bad = any(run.status in (Status.diverged, Status.failed) for run in lost)
        return Verdict("bad" if bad else "even", f"{found.text}; but {states}")
    return found


def _unfinished(run: Run) -> Verdict:
    if run.status is Status.diverged:
        at = "" if run.diverged_at is None else f" at step {run.diverged_at}"
        return Verdict("bad", f"diverged{at}")
    if run.status is Status.failed:
        return Verdict("bad", f"failed: {run.message}" if run.message else "failed")
    words = "still running" if run.status is Status.running else "interrupted"
    planned = run.settings.steps
    return Verdict("none", f"{words}, {run.results.steps:.0f} of {planned} steps done")


def _flow(run: Run) -> Verdict:
    if not run.checks:
        return Verdict("none", "ran; no checks recorded")
    failed = [check.name for check in run.checks if not check.passed]
    if failed:
        count = f"{len(failed)} of {len(run.checks)} checks failed"
        return Verdict("bad", f"{count}: {'; '.join(failed)}")
    return Verdict("good", "all checks passed")


def _finished(stage: StageRuns) -> Verdict:
    loss, speed = stage.vs_previous.loss, stage.vs_previous.speed
    if stage.aim is Aim.baseline:
        return Verdict("none", "what the others are measured against")
    if loss is None:
        return Verdict("none", "no earlier stage to compare with")
    if stage.aim is Aim.speed:
        return _speed(loss, speed)
    tone, words = _loss(loss)
    if stage.aim is Aim.stability and stage.clipped is not None:
        over, steps = stage.clipped
        if not over:
            return Verdict("even", "the threshold was never reached, so it could change nothing")
        words = f"{over} of {steps} steps clipped; {words}"
    return Verdict(tone, words)


def _loss(loss: Estimate) -> tuple[str, str]:
    if math.isnan(loss.low):
        return "none", "too few steps to estimate the noise"
    if loss.lower:
        return "good", "lower loss"
    if loss.higher:
        return "bad", "higher loss"
    return "even", "no significant difference in loss"


def _speed(loss: Estimate, speed: Estimate | None) -> Verdict:
    if speed is None or math.isnan(speed.low):
        return Verdict("none", "too few steps to estimate the noise of its speed")
    tone, words = "even", "no significant difference in speed"
    if speed.significant:
        tone, words = ("good", "faster") if speed.higher else ("bad", "slower")
    if math.isnan(loss.low):
        return Verdict(tone, f"{words}; too few steps to say whether the loss changed")
    if loss.higher:
        return Verdict("bad", f"{words}, but the loss rose")
    if loss.lower:
        return Verdict(tone, f"{words}, and the loss fell, which a speed stage is not meant to do")
    return Verdict(tone, f"{words}, loss unchanged")
