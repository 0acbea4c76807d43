"""A verdict on each comparison: enums and numbers, which the templates put into words."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from conf.schema import Aim, ReportConf, StatisticsConf
from reports.comparison import Comparison
from reports.curves import holds_from
from reports.speed import Pace
from reports.statistics import Estimate, Sample, holm, seeds_to_decide
from runner.record import Status

# The aims of the ladder's stages that are one family of tests: what Holm's method corrects for.
FAMILY = (Aim.loss, Aim.stability)


class Outcome(Enum):
    """What several seeds say of the held-out loss at the end, against the reference's."""

    lower = "lower"
    higher = "higher"
    equivalent = "equivalent"
    inconclusive = "inconclusive"

    @property
    def flipped(self) -> "Outcome":
        """That of the difference the other way round."""
        return {"lower": Outcome.higher, "higher": Outcome.lower}.get(self.value, self)


class Reason(str, Enum):
    """Why a difference is inconclusive."""

    few = "few"  # fewer seeds than decide
    lost = "lost"  # not every seed finished
    spread = "spread"  # the seeds differ too much


class Kind(str, Enum):
    """What a verdict is about: the first that holds."""

    unfinished = "unfinished"  # its own runs have not finished
    flow = "flow"
    baseline = "baseline"  # or, where that was never run, the lowest that others are compared with
    same = "same"  # it trains exactly as its reference
    alone = "alone"  # it has no reference
    no_reference = "no_reference"  # which has not finished, or was never run
    no_seed = "no_seed"  # none in common with the reference
    speed = "speed"
    one_seed = "one_seed"
    tested = "tested"


class Tone(str, Enum):
    """How a verdict is coloured."""

    good = "good"
    bad = "bad"
    even = "even"
    none = "none"


@dataclass(frozen=True)
class Verdict:
    """A judgement of a comparison.

    `outcome` is None where nothing is claimed: with one seed, and outside the family. `p` and
    `p_equivalent` are Holm's adjusted p-values. `holds_from` is the step from which a difference
    has the outcome's sign, where it was the other way before. `seeds_needed` would decide what is
    inconclusive, if seeds would, and no more than a thousand.
    """

    kind: Kind
    tone: Tone = Tone.none
    outcome: Outcome | None = None
    reason: Reason | None = None
    p: float = math.nan
    p_equivalent: float = math.nan
    holds_from: int | None = None
    seeds_needed: int | None = None

    @property
    def is_decided(self) -> bool:
        """Whether there is an outcome that is not inconclusive."""
        return self.outcome not in (None, Outcome.inconclusive)


def judge(
    found: Sequence[Comparison], rules: ReportConf, aims: Collection[Aim] = tuple(Aim)
) -> list[Verdict]:
    """The verdict on each comparison; those of stages with these aims are one family of tests."""
    pairs = [frozenset((each.asked.settings, each.asked.reference)) for each in found]
    losses = [e.versus.loss if e.aim in aims and not e.same_as else None for e in found]
    # Differences over the windows of one seed have no p-value.
    tests = [(pair, loss) for pair, loss in zip(pairs, losses, strict=True) if loss and loss.p >= 0]
    family = dict(reversed(tests))  # the same two the other way round are no other
    tested = dict(zip(family, correct_family([*family.values()]), strict=True))
    verdicts = []
    for each, pair, loss in zip(found, pairs, losses, strict=True):
        if loss and (known := tested.get(pair)):
            loss = replace(loss, p=known.p, p_equivalent=known.p_equivalent)
            verdicts.append(_tested(each, loss, len(tested), rules))
        else:
            verdicts.append(_untested(each, rules))
    return verdicts


def correct_family(losses: Sequence[Estimate]) -> list[Estimate]:
    """Each difference of a family with its p-values adjusted by Holm's method."""
    p, p_equivalent = (holm([getattr(e, name) for e in losses]) for name in ("p", "p_equivalent"))
    both = zip(losses, p, p_equivalent, strict=True)
    return [replace(loss, p=one, p_equivalent=other) for loss, one, other in both]


def _untested(found: Comparison, rules: ReportConf) -> Verdict:
    arm, other, loss = found.arm, found.versus.other, found.versus.loss
    kinds = {
        Kind.unfinished: not arm.finished,
        Kind.flow: found.aim is Aim.flow,
        Kind.baseline: (found.aim is Aim.baseline and found.is_plain) or found.is_lowest,
        Kind.same: found.same_as,
        Kind.alone: not found.asked.reference,
        Kind.no_reference: other is None or not other.finished,
        Kind.no_seed: loss is None,
        Kind.speed: found.aim is Aim.speed,
        Kind.one_seed: True,
    }
    kind, tone = next(kind for kind, holds in kinds.items() if holds), Tone.none
    if kind is Kind.unfinished and arm.status in (Status.failed, Status.diverged):
        tone = Tone.bad
    elif kind is Kind.flow and (checks := arm.newest.checks):
        tone = Tone.good if all(check.passed for check in checks) else Tone.bad
    elif kind is Kind.speed and loss:  # the loss of a speed stage is never an outcome
        kept = Tone.good if keeps_loss(loss, rules) else Tone.even
        paces = {Pace.faster: kept, Pace.slower: Tone.bad}
        tone = paces.get(found.versus.speed.pace, Tone.even) if found.versus.speed else tone
        tone = Tone.bad if raises_loss(loss, rules) else tone
    return Verdict(kind, tone)


def _tested(found: Comparison, loss: Estimate, family: int, rules: ReportConf) -> Verdict:
    versus, tone, first = found.versus, Tone.even, None
    lost = bool(versus.other and versus.other.lost), bool(found.arm.lost)
    outcome, reason, needed = decide_or_need(loss, lost, family, rules)
    if outcome in (Outcome.lower, Outcome.higher):
        at, lower = versus.at_tokens, outcome is Outcome.lower
        bought = versus.takes_more and at and at.loss.value > 0
        tone = (Tone.even if bought else Tone.good) if lower else Tone.bad
        first = holds_from(versus.curves, lower, rules)
    return Verdict(Kind.tested, tone, outcome, reason, loss.p, loss.p_equivalent, first, needed)


def decide(
    loss: Estimate, lost: tuple[bool, bool], rules: StatisticsConf
) -> tuple[Outcome, Reason | None]:
    """The outcome of a difference over several seeds, and why it is inconclusive if it is.

    Its p-values are those of its family. `lost` says whether seeds of the reference, and of the
    runs themselves, have no loss: the mean without its lost seeds is too low.
    """
    error, (lost_before, lost_after) = 1 - rules.confidence, lost
    if loss.n < rules.minimum_seeds:
        return Outcome.inconclusive, Reason.lost if any(lost) else Reason.few
    if loss.p_equivalent < error:
        outcome, ruled_out = Outcome.equivalent, any(lost)
    elif loss.p < error and loss.value < 0:
        outcome, ruled_out = Outcome.lower, lost_after
    elif loss.p < error:
        outcome, ruled_out = Outcome.higher, lost_before
    else:
        return Outcome.inconclusive, Reason.spread
    return (Outcome.inconclusive, Reason.lost) if ruled_out else (outcome, None)


def decide_or_need(
    loss: Estimate, lost: tuple[bool, bool], family: int, rules: StatisticsConf
) -> tuple[Outcome, Reason | None, int | None]:
    """The same, and how many seeds would decide what is inconclusive, if seeds would."""
    outcome, reason = decide(loss, lost, rules)
    needs_seeds = reason in (Reason.few, Reason.spread) and loss.known
    return outcome, reason, seeds_to_decide(loss, family, rules) if needs_seeds else None


def keeps_loss(loss: Estimate | None, rules: ReportConf) -> bool:
    """Whether enough seeds place a difference within the margin, tested alone."""
    error = 1 - rules.confidence
    return bool(loss and loss.n >= rules.minimum_seeds and loss.p_equivalent < error)


def raises_loss(loss: Estimate, rules: ReportConf) -> bool:
    """Whether enough seeds place a difference above the margin, tested alone."""
    several = loss.over is Sample.seeds and loss.n >= rules.minimum_seeds
    return several and loss.low > rules.margin
