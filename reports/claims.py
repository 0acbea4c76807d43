"""The guide's claims, as the ladder's overlays hold them, and what the runs say of each.

A claim about one change inside a stage is judged on two runs that differ in that change alone.
"""

from __future__ import annotations

import json
import shlex
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from conf.schema import Aim, Claim, Measure, ReportConf
from reports import formats
from reports.compare import Comparison, Group, StageRuns, newest_of_each
from reports.read import ReadRun
from reports.reference import guide_log
from reports.speed import SpeedUp, speed_up
from reports.verdicts import Outcome, Verdict
from runner.record import Conditions
from stages.ladder import Stage, flatten, read_ladder

RULES = (
    "A gain in speed is supported where its interval over interleaved rounds holds the guide's "
    "value and leaves out no gain, contradicted where it leaves out the guide's value, and not "
    "decided otherwise. A loss of the guide's is not comparable: it is of a run whose data, batch "
    "and machine are not stated. Accumulation is judged at equal steps, as in the guide; what "
    "it brings for as many tokens is beside it."
)


class Ruling(str, Enum):
    """What the runs say of a claim."""

    supported = "supported"
    contradicted = "contradicted"
    not_decided = "not decided"
    not_comparable = "not comparable"
    not_measured = "not measured"


# Our conditions, what was measured under them, and the ruling.
Found = tuple[str, str, Ruling]


@dataclass(frozen=True)
class Judgement:
    """A claim and what was measured for it.

    `command` makes the runs that are missing, and is empty where none are.
    """

    claim: str
    theirs: str
    ours: str
    measured: str
    verdict: Ruling
    command: str = ""


@dataclass(frozen=True)
class Evidence:
    """What claims are judged by: groups, all runs, and the verdicts on the first group's stages."""

    groups: Sequence[Group]
    runs: Sequence[ReadRun]
    verdicts: Mapping[str, Verdict]
    control: Comparison | None
    shared: set[str]
    rules: ReportConf


def judge(evidence: Evidence) -> list[Judgement]:
    """The guide's claims in its order, judged on the main group and, for pairs, its variants."""
    return [
        _judgement(claim, stage, evidence)
        for stage in read_ladder()
        for claim in stage.about.claims
    ]


def _judgement(claim: Claim, stage: Stage, evidence: Evidence) -> Judgement:
    found = JUDGES[claim.measure](claim, stage, evidence)
    if found and found[2] is not Ruling.not_decided:
        return Judgement(claim.text, claim.conditions, *found)
    speed = claim.measure in (Measure.speed_up, Measure.step_ms)
    command = _command(claim, stage, evidence) if speed or not found else ""
    if found:
        return Judgement(claim.text, claim.conditions, *found, command)
    none = "", "no run to judge it by", Ruling.not_measured
    return Judgement(claim.text, claim.conditions, *none, command)


def _command(claim: Claim, stage: Stage, evidence: Evidence) -> str:
    """The command that would decide a claim: for a speed, its pair in interleaved rounds."""
    own = next((s.newest for s in evidence.groups[0].stages if s.name == stage.name), None)
    command = own.command if own else f"python -m runner +stage={stage.name}"
    if claim.measure not in (Measure.speed_up, Measure.step_ms) or not claim.change:
        return command
    words = shlex.split(command)[3:]
    kept = [word for word in words if not word.startswith(("seed=", "repeat="))]
    rounds = ",".join(str(2 + i) for i in range(evidence.rules.minimum_rounds))
    alone = f"without=[],[{stage.name}:{claim.change}]"
    return f"python -m runner -m {shlex.join([f'repeat={rounds}', *kept, alone])}"


def _interval(claim: Claim, stage: Stage, evidence: Evidence) -> Found | None:
    ours = _finished(stage.name, evidence)
    if ours is None:
        return None
    return conditions(ours), formats.interval(ours.mean), Ruling.not_comparable


def _speed_up(claim: Claim, stage: Stage, evidence: Evidence) -> Found | None:
    pair = _pair(claim, stage, evidence)
    speed = pair and speed_up(*pair, evidence.shared, evidence.rules)
    if not pair or not speed:
        return None
    before, after = (runs[0].record for runs in pair)
    names = [" ".join((run.stage.name, *run.variant)) for run in (before, after)]
    ours = f"{claim.change} alone, {' to '.join(names)}; {after.settings.model}, "
    ours += after.environment.machine
    measured = f"{formats.gain(speed)} tokens/s"
    measured += f" over {speed.estimate.n} rounds" if speed.claims else f"; {speed.why_no_claim}"
    if claim.measure is Measure.speed_up:
        return ours, measured, _held(speed, claim.values[0])
    times = [np.mean([run.record.results.step_ms for run in runs]) for runs in pair]
    measured = f"{times[0]:,.0f} ms to {times[1]:,.0f} ms a step; {measured}"
    return ours, measured, _held(speed, claim.values[0] / claim.values[1])


def _held(speed: SpeedUp, claimed: float) -> Ruling:
    found = speed.estimate
    if not speed.claims:
        return Ruling.not_decided
    if not found.low <= claimed <= found.high:
        return Ruling.contradicted
    return Ruling.supported if found.above else Ruling.not_decided


def _accumulation(claim: Claim, stage: Stage, evidence: Evidence) -> Found | None:
    after = _finished(stage.name, evidence)
    before = after and _finished(after.vs_previous.other, evidence)
    if not after or not before or not (loss := after.vs_previous.loss):
        return None
    slower = after.mean.step_ms / before.mean.step_ms
    more = after.mean.tokens_per_step / before.mean.tokens_per_step
    outcome = evidence.verdicts[after.name].outcome
    ruling = Ruling.not_decided
    if slower < 1 or outcome in (Outcome.higher, Outcome.equivalent):
        ruling = Ruling.contradicted
    elif outcome is Outcome.lower:
        ruling = Ruling.supported
    tokens, control = after.vs_previous.at_tokens, evidence.control
    at_tokens = f"; {formats.change(tokens.loss)} training loss at equal tokens" if tokens else ""
    if control:
        at_tokens += f"; {formats.change(control.loss)} held-out for as many tokens"
    return (
        f"{after.name} after {before.name}, as many steps of {more:.3g} times the tokens; "
        f"{after.newest.environment.machine}",
        f"a step takes {slower:.1f} times as long; held-out loss {formats.change(loss)} at equal "
        f"steps{at_tokens}",
        ruling,
    )


def _last_loss(claim: Claim, stage: Stage, evidence: Evidence) -> Found | None:
    ours = _finished(stage.name, evidence)
    if ours is None:
        return None
    last = guide_log()["step"].iloc[-1]
    reached = np.concatenate([run.curve.loss[run.curve.step == last] for run in ours.finished])
    measured = f"{reached.mean():.3f} at step {last}" if len(reached) else "a run of fewer steps"
    return conditions(ours), measured, Ruling.not_comparable


JUDGES: dict[Measure, Callable[[Claim, Stage, Evidence], Found | None]] = {
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


def _finished(name: str, evidence: Evidence) -> StageRuns | None:
    ladder = evidence.groups[0].ladder
    return next((stage for stage in ladder if stage.name == name and stage.finished), None)


def _pair(
    claim: Claim, stage: Stage, evidence: Evidence
) -> tuple[list[ReadRun], list[ReadRun]] | None:
    """Finished runs without and with a change, otherwise equal, over seeds and repeats.

    Those under the main group's conditions first, unless only others have enough rounds.
    """
    if claim.change not in stage.changes:
        return None
    after = stage.changes[claim.change]
    main = _conditions(evidence.groups[0].conditions, claim.change)
    alike: dict[tuple[Conditions, str], dict[bool, list[ReadRun]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for run in evidence.runs:
        if run.finished and run.record.stage.aim is not Aim.flow:
            value, rest = _apart(run, claim.change)
            under = _conditions(Conditions.of(run.record), claim.change)
            alike[under, rest][value == after].append(run)
    pairs = {
        key: (newest_of_each(runs[False]), newest_of_each(runs[True]))
        for key, runs in alike.items()
        if len(runs) == 2
    }

    def rank(key: tuple[Conditions, str]) -> tuple[bool, bool, bool, int]:
        rounds, own = len(pairs[key][1]), pairs[key][1][0].record.stage.name == stage.name
        return rounds >= evidence.rules.minimum_rounds, key[0] == main, own, rounds

    return pairs[max(pairs, key=rank)] if pairs else None


def _conditions(conditions: Conditions, key: str | None) -> Conditions:
    """The conditions but for a key, which an override sets for every stage."""
    settings = json.loads(conditions.settings)
    settings.pop(key, None)
    return conditions._replace(settings=json.dumps(settings, sort_keys=True))


def _apart(run: ReadRun, key: str) -> tuple[Any, str]:
    """The value of a dotted key, and everything else that shapes the training but the seed."""
    config = run.record.config
    sections = {name: config[name] for name in ("model", "train")}
    unlike = ("model.name", "train.checkpoint_every.steps", "train.checkpoint_every.minutes")
    shaping = {k: value for k, value in flatten(sections).items() if k not in unlike}
    value = shaping.pop(key, None)
    return value, json.dumps([shaping, sorted(run.record.not_applied)], sort_keys=True, default=str)
