"""A verdict on each comparison: enums and numbers, which the templates put into words."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from conf.schema import Aim, ReportConf
from reports.arm import Versus
from reports.compare import Comparison
from reports.curves import holds_from
from reports.speed import Pace
from reports.statistics import Estimate, Sample, holm, seeds_to_decide
from runner.record import Status

# The aims whose stages are the one family of tests: what Holm's method corrects for.
FAMILY = (Aim.loss, Aim.stability)


class Outcome(Enum):
    """What several seeds say of the held-out loss at the end, against the reference's."""

    lower = "lower"
    higher = "higher"
    equivalent = "equivalent"
    inconclusive = "inconclusive"

    @property
    def flipped(self) -> Outcome:
        """That of the difference the other way round."""
        turned = {Outcome.lower: Outcome.higher, Outcome.higher: Outcome.lower}
        return turned.get(self, self)


class Reason(Enum):
    """Why a difference is inconclusive."""

    few = "few"  # fewer seeds than decide
    lost = "lost"  # not every seed finished
    spread = "spread"  # the seeds differ too much


class Kind(Enum):
    """What a verdict is about."""

    unfinished = "unfinished"  # its own runs have not finished
    flow = "flow"
    baseline = "baseline"
    same = "same"  # it trains exactly as its reference
    alone = "alone"  # it has no reference
    no_reference = "no_reference"  # which has not finished, or was never run
    no_seed = "no_seed"  # none in common with the reference
    speed = "speed"
    one_seed = "one_seed"
    tested = "tested"


class Tone(Enum):
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
    has the outcome's sign, where it clearly was the other way before. `seeds_needed` would decide
    what is inconclusive: None where seeds would not, or more than a thousand would.
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
    found: Sequence[Comparison], rules: ReportConf, in_family: Callable[[Comparison], bool]
) -> list[Verdict]:
    """The verdict on each comparison, with those of the family corrected together."""
    family: dict[frozenset[str], Estimate] = {}  # the same two the other way round are no other
    for each in found:
        loss, pair = each.versus.loss, frozenset((each.settings, each.reference))
        if loss and several_seeds(loss) and in_family(each):
            family.setdefault(pair, loss)
    tested = dict(zip(family, correct_family(list(family.values())), strict=True))
    verdicts = []
    for each in found:
        loss = each.versus.loss
        known = tested.get(frozenset((each.settings, each.reference)))
        if loss and known and in_family(each):
            loss = replace(loss, p=known.p, p_equivalent=known.p_equivalent)
            verdicts.append(_tested(each, loss, len(tested), rules))
        else:
            verdicts.append(_untested(each, rules))
    return verdicts


def is_judged_by_loss(found: Comparison) -> bool:
    """Whether a stage of a ladder is in the family of tests."""
    return found.aim in FAMILY and not found.same_as


def several_seeds(loss: Estimate) -> bool:
    """Whether a difference is over seeds, and not over the windows of one."""
    return loss.over is Sample.seeds and loss.n > 1


def correct_family(losses: Sequence[Estimate]) -> list[Estimate]:
    """Each difference of a family with its p-values adjusted by Holm's method."""
    p, p_equivalent = (holm([getattr(e, name) for e in losses]) for name in ("p", "p_equivalent"))
    return [
        replace(loss, p=one, p_equivalent=other)
        for loss, one, other in zip(losses, p, p_equivalent, strict=True)
    ]


def _untested(found: Comparison, rules: ReportConf) -> Verdict:
    arm, versus = found.arm, found.versus
    if not arm.finished:
        bad = arm.status in (Status.failed, Status.diverged)
        return Verdict(Kind.unfinished, Tone.bad if bad else Tone.none)
    if found.aim is Aim.flow:
        passed = all(check.passed for check in arm.newest.checks)
        tone = (Tone.good if passed else Tone.bad) if arm.newest.checks else Tone.none
        return Verdict(Kind.flow, tone)
    if found.aim is Aim.baseline and found.is_plain:
        return Verdict(Kind.baseline)
    if found.same_as:
        return Verdict(Kind.same)
    if not found.reference:
        return Verdict(Kind.alone)
    if versus.other is None or not versus.other.finished:
        return Verdict(Kind.no_reference)
    if versus.loss is None:
        return Verdict(Kind.no_seed)
    return _speed(versus, rules) if found.aim is Aim.speed else Verdict(Kind.one_seed)


def _tested(found: Comparison, loss: Estimate, family: int, rules: ReportConf) -> Verdict:
    versus = found.versus
    lost = bool(versus.other and versus.other.lost), bool(found.arm.lost)
    outcome, reason = decide(loss, lost, rules)
    made = Verdict(Kind.tested, Tone.even, outcome, reason, loss.p, loss.p_equivalent)
    if reason in (Reason.few, Reason.spread):
        return replace(made, seeds_needed=seeds_to_decide(loss, family, rules))
    if outcome not in (Outcome.lower, Outcome.higher):
        return made
    lower = outcome is Outcome.lower
    bought = versus.takes_more and versus.at_tokens and versus.at_tokens.loss.value > 0
    tone = (Tone.even if bought else Tone.good) if lower else Tone.bad
    return replace(made, tone=tone, holds_from=holds_from(versus.curves, lower, rules))


def decide(
    loss: Estimate, lost: tuple[bool, bool], rules: ReportConf
) -> tuple[Outcome, Reason | None]:
    """The outcome of a difference over several seeds, and why it is inconclusive if it is.

    Its p-values are those of its family. `lost` says whether seeds of the reference, and of the
    runs themselves, have no loss: the mean without its lost seeds is too low.
    """
    error = 1 - rules.confidence
    if loss.n < rules.minimum_seeds:
        return Outcome.inconclusive, Reason.lost if any(lost) else Reason.few
    lost_before, lost_after = lost
    if loss.p_equivalent < error:
        found, ruled_out = Outcome.equivalent, any(lost)
    elif loss.p < error:
        lower = loss.value < 0
        found = Outcome.lower if lower else Outcome.higher
        ruled_out = lost_after if lower else lost_before
    else:
        return Outcome.inconclusive, Reason.spread
    return (Outcome.inconclusive, Reason.lost) if ruled_out else (found, None)


def _speed(versus: Versus, rules: ReportConf) -> Verdict:
    """Speed stages are judged on speed; their loss is described, and never an outcome."""
    tones = {Pace.faster: Tone.good, Pace.slower: Tone.bad, Pace.even: Tone.even}
    loss, tone = versus.loss, tones.get(versus.speed.pace) if versus.speed else None
    if loss and several_seeds(loss) and loss.n >= rules.minimum_seeds and loss.low > rules.margin:
        tone = Tone.bad
    return Verdict(Kind.speed, tone or Tone.none)


def keeps_loss(loss: Estimate | None, rules: ReportConf) -> bool:
    """Whether enough seeds place a difference within the margin, tested alone."""
    if loss is None or not several_seeds(loss) or loss.n < rules.minimum_seeds:
        return False
    return loss.p_equivalent < 1 - rules.confidence
