"""The guide's claims, as the ladder's overlays hold them, and whether each held here.

A claim about one change inside a stage is judged on two runs that differ in that change alone.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from conf.schema import Claim, Measure
from reports import formats
from reports.compare import Group, StageRuns, chosen
from reports.read import ReadRun
from reports.reference import guide_log
from reports.statistics import Estimate, speed_up
from stages.ladder import Stage, flatten, read_ladder

# How far the ends of an interval, and a last loss, may be from the guide's.
INTERVAL_DISTANCE = 0.5
LOSS_DISTANCE = 0.1
# Of a claimed gain in speed, the share that must be there for the claim to have held.
SHARE_OF_GAIN = 0.75

RULES = (
    f"An interval held when both ends are within {INTERVAL_DISTANCE} of the guide's; a gain in "
    f"speed when at least {SHARE_OF_GAIN:.0%} of it was measured; the last loss when it is at most "
    f"{LOSS_DISTANCE} above the guide's. Smaller here: a significant gain in speed, below that "
    "share."
)


# Our conditions, what was measured under them, and the verdict.
Found = tuple[str, str, str]


@dataclass(frozen=True)
class Judgement:
    """A claim and what was measured for it.

    `verdict` is held, held in part, smaller here, did not hold, not decided or not measured;
    `command` makes the run that is missing, and is empty where none is.
    """

    claim: str
    theirs: str
    ours: str
    measured: str
    verdict: str
    command: str = ""


def judge(groups: Sequence[Group]) -> list[Judgement]:
    """The guide's claims in its order, judged on the main group and, for pairs, its variants."""
    return [
        _judgement(claim, stage, groups) for stage in read_ladder() for claim in stage.about.claims
    ]


def _judgement(claim: Claim, stage: Stage, groups: Sequence[Group]) -> Judgement:
    found = JUDGES[claim.measure](claim, stage, groups)
    if found:
        return Judgement(claim.text, claim.conditions, *found)
    own = next((s.newest for s in groups[0].stages if s.name == stage.name), None)
    command = own.command if own else f"python -m runner +stage={stage.name}"
    if own and claim.measure in (Measure.speed_up, Measure.step_ms) and claim.change:
        before, _ = own.stage.changes.get(claim.change, (None, None))
        command += f" {claim.change}={formats.setting(before)}"
    return Judgement(
        claim.text, claim.conditions, "", "no run to judge it by", "not measured", command
    )


def _interval(claim: Claim, stage: Stage, groups: Sequence[Group]) -> Found | None:
    ours = _finished(stage.name, groups[0])
    if ours is None:
        return None
    ends = ours.mean.worst, ours.mean.best
    near = np.allclose(ends, claim.values, rtol=0, atol=INTERVAL_DISTANCE)
    verdict = "held" if near else "did not hold"
    return (conditions(ours), f"[{ends[0]:.2f}, {ends[1]:.2f}]", verdict)


def _speed_up(claim: Claim, stage: Stage, groups: Sequence[Group]) -> Found | None:
    pair = _pair(claim, stage, groups)
    estimate = pair and speed_up(*pair)
    if not pair or not estimate:
        return None
    before, after = (runs[0].record for runs in pair)
    names = [" ".join((run.stage.name, *run.variant)) for run in (before, after)]
    ours = f"{claim.change} alone, {' to '.join(names)}; {after.environment.machine}"
    measured = f"{formats.gain(estimate)} tokens/s"
    if claim.measure is Measure.speed_up:
        return (ours, measured, _held(estimate, claim.values[0]))
    times = [np.mean([run.record.results.step_ms for run in runs]) for runs in pair]
    measured = f"{times[0]:,.0f} ms to {times[1]:,.0f} ms a step; {measured}"
    return (ours, measured, _held(estimate, claim.values[0] / claim.values[1]))


def _accumulation(claim: Claim, stage: Stage, groups: Sequence[Group]) -> Found | None:
    after = _finished(stage.name, groups[0])
    before = after and _finished(after.vs_previous.other, groups[0])
    if not after or not before or not (loss := after.vs_previous.loss):
        return None
    slower = after.mean.step_ms / before.mean.step_ms
    more = after.mean.tokens_per_step / before.mean.tokens_per_step
    verdict = ("did not hold", "held in part", "held")[(slower > 1) + loss.lower]
    doubt = "" if loss.significant else ", which is not distinguishable from zero"
    return (
        f"{after.name} after {before.name}, as many steps of {more:.3g} times the tokens; "
        f"{after.newest.environment.machine}",
        f"a step takes {slower:.1f} times as long; held-out loss {formats.change(loss)}{doubt}",
        verdict,
    )


def _last_loss(claim: Claim, stage: Stage, groups: Sequence[Group]) -> Found | None:
    ours = _finished(stage.name, groups[0])
    if ours is None:
        return None
    last = guide_log()["step"].iloc[-1]
    reached = np.concatenate([run.curve.loss[run.curve.step == last] for run in ours.finished])
    if not len(reached):
        return (conditions(ours), "a run of fewer steps", "not measured")
    verdict = "held" if reached.mean() <= claim.values[0] + LOSS_DISTANCE else "did not hold"
    return (conditions(ours), f"{reached.mean():.3f} at step {last}", verdict)


JUDGES: dict[Measure, Callable[[Claim, Stage, Sequence[Group]], Found | None]] = {
    Measure.interval: _interval,
    Measure.speed_up: _speed_up,
    Measure.step_ms: _speed_up,
    Measure.accumulation: _accumulation,
    Measure.last_loss: _last_loss,
}


def conditions(stage: StageRuns) -> str:
    """A stage's own conditions in a line."""
    run, tokens = stage.newest, formats.count(stage.mean.tokens_per_step)
    return (
        f"{run.settings.model}, {run.data.name}, {tokens} tokens a step, "
        f"{run.results.steps:.0f} steps, {run.environment.machine}"
    )


def _finished(name: str, group: Group) -> StageRuns | None:
    return next((stage for stage in group.ladder if stage.name == name and stage.finished), None)


def _held(estimate: Estimate, claimed: float) -> str:
    if estimate.value - 1 >= SHARE_OF_GAIN * (claimed - 1):
        return "held" if estimate.higher else "not decided"
    return "smaller here" if estimate.higher else "did not hold"


def _pair(
    claim: Claim, stage: Stage, groups: Sequence[Group]
) -> tuple[list[ReadRun], list[ReadRun]] | None:
    """Finished runs without and with a change, otherwise equal, one pair for each seed."""
    if claim.change not in stage.changes:
        return None
    after = stage.changes[claim.change]
    alike: dict[str, dict[bool, list[ReadRun]]] = defaultdict(lambda: defaultdict(list))
    for group in groups:
        for run in (run for other in group.ladder for run in other.finished):
            if group.conditions == groups[0].conditions:
                value, rest = _apart(run, claim.change)
                alike[rest][value == after].append(run)
    pairs = [(chosen(runs[False]), chosen(runs[True])) for runs in alike.values() if len(runs) == 2]
    # A pair of the claim's own stage before any other; then the one with most seeds.
    pairs.sort(key=lambda pair: (pair[1][0].record.stage.name == stage.name, len(pair[1])))
    return pairs[-1] if pairs else None


def _apart(run: ReadRun, key: str) -> tuple[Any, str]:
    """The value of a dotted key, and everything else that shapes the training but the seed."""
    config = run.record.config
    sections = {name: config[name] for name in ("model", "train")}
    unlike = ("model.name", "train.checkpoint_every.steps", "train.checkpoint_every.minutes")
    shaping = {k: value for k, value in flatten(sections).items() if k not in unlike}
    value = shaping.pop(key, None)
    return value, json.dumps([shaping, sorted(run.record.not_applied)], sort_keys=True, default=str)
