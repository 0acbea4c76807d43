"""The guide's claims, as the ladder's overlays hold them, and what the runs say of each."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from conf.schema import Claim, Measure, ReportConf
from reports.compare import Comparison
from reports.ladders import Group
from reports.speed import SpeedUp
from reports.statistics import Estimate
from reports.verdicts import Outcome, Verdict
from stages.ladder import Stage


class Ruling(str, Enum):
    """What the runs say of a claim."""

    supported = "supported"
    contradicted = "contradicted"
    not_decided = "not decided"
    not_measured = "not measured"


@dataclass(frozen=True)
class Judgement:
    """A claim and what was measured for it, in `found`, which lacks what the claim is about.

    `speed` is the gain by the change; `step_ms` milliseconds a step without it and with it;
    `control` the difference in held-out loss from the stage below for as many tokens. `command`
    makes the runs that are missing, and is empty where none are.
    """

    claim: Claim
    ruling: Ruling
    found: Comparison | None = None
    speed: SpeedUp | None = None
    step_ms: tuple[float, float] | None = None
    control: Estimate | None = None
    command: str = ""


def judge_claims(
    main: Group,
    found: Sequence[Comparison],
    verdicts: dict[str, Verdict],
    control: Estimate | None,
    ladder: Sequence[Stage],
    rules: ReportConf,
) -> list[Judgement]:
    """The guide's claims in its order, on the main ladder's experiment."""
    own = [each for each in found if each.key[0] == main.experiment]
    return [
        _accumulation(claim, stage, main, verdicts, control)
        if claim.measure is Measure.accumulation
        else _speed_up(claim, stage, main, own, rules)
        for stage in ladder
        for claim in stage.about.claims
    ]


def _speed_up(
    claim: Claim, stage: Stage, main: Group, own: Sequence[Comparison], rules: ReportConf
) -> Judgement:
    """By the pair with the most rounds of those that differ in the claim's change alone."""
    changed = f"{stage.name}:{claim.change}"
    alone = {changed, stage.name} if [*stage.changes] == [claim.change] else {changed}
    gains = [(each, gain) for each in own if (gain := _gain(each, alone))]
    if not gains:
        return Judgement(claim, Ruling.not_measured, command=_command(changed, stage, own, rules))
    each, speed = max(gains, key=lambda gain: (
        not gain[1].doubt, gain[0].key == main.key, gain[0].stage == stage.name, gain[1].estimate.n
    ))  # fmt: skip
    assert each.versus.other is not None
    step_ms = each.versus.other.mean("step_ms"), each.arm.mean("step_ms")
    step_ms = step_ms[::-1] if each.without else step_ms
    claimed = claim.values[0]
    if claim.measure is Measure.step_ms:
        claimed /= claim.values[1]
    estimate, ruling = speed.estimate, Ruling.not_decided
    if not speed.doubt:
        if not estimate.low <= claimed <= estimate.high:
            ruling = Ruling.contradicted
        elif estimate.above:
            ruling = Ruling.supported
    command = _command(changed, stage, own, rules) if ruling is Ruling.not_decided else ""
    return Judgement(claim, ruling, each, speed, step_ms, command=command)


def _gain(each: Comparison, alone: set[str]) -> SpeedUp | None:
    """The speed-up by a change, if that is all in which a question differs from its reference."""
    speed = each.versus.speed
    if speed and (
        (each.stage in alone and each.is_on_parent) or (each.plus and {*each.plus} <= alone)
    ):
        return speed
    if speed and len(each.without) == 1 and each.without[0] in alone and not each.plus:
        return SpeedUp(speed.estimate.flipped, speed.doubt)
    return None


def _accumulation(
    claim: Claim,
    stage: Stage,
    main: Group,
    verdicts: dict[str, Verdict],
    control: Estimate | None,
) -> Judgement:
    """The step is slower, and the loss at equal steps lower."""
    found = next((each for each in main.ladder if each.stage == stage.name), None)
    if found is None or found.versus.loss is None or found.versus.other is None:
        return Judgement(
            claim, Ruling.not_measured, command=f"python -m runner +stage={stage.name}"
        )
    step_ms = found.versus.other.mean("step_ms"), found.arm.mean("step_ms")
    outcome, ruling = verdicts[found.name].outcome, Ruling.not_decided
    if step_ms[1] < step_ms[0] or outcome in (Outcome.higher, Outcome.equivalent):
        ruling = Ruling.contradicted
    elif outcome is Outcome.lower:
        ruling = Ruling.supported
    return Judgement(claim, ruling, found, None, step_ms, control)


def _command(changed: str, stage: Stage, own: Sequence[Comparison], rules: ReportConf) -> str:
    """The command that trains the pair in interleaved rounds."""
    rounds = ",".join(str(2 + i) for i in range(rules.minimum_rounds))
    run = next((each.arm.newest.command for each in own if each.stage == stage.name), None)
    words = [f"repeat={rounds}", f"without=[],[{changed}]"]
    return over_seeds(run or f"python -m runner +stage={stage.name}", (), words)


def over_seeds(command: str, seeds: Sequence[int], words: Sequence[str] = ()) -> str:
    """A run's command for some seeds, with words that replace its own of the same key."""
    words = [*words, *([f"seed={','.join(map(str, seeds))}"] if seeds else [])]
    replaced = {"seed", "repeat", *(word.partition("=")[0] for word in words)}
    kept = [word for word in shlex.split(command)[3:] if word.partition("=")[0] not in replaced]
    sweeps = "-m " if any("," in word for word in words) else ""
    return f"python -m runner {sweeps}{shlex.join([*kept, *words])}"
