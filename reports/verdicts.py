"""A verdict on each stage, by its own aim, against the stage that it stands on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from conf.schema import Aim, ReportConf
from reports import formats
from reports.compare import Group, StageRuns
from reports.curves import Stop
from reports.speed import SpeedUp
from reports.statistics import Estimate, Sample, holm, seeds_to_decide
from runner.record import Run, Status

# The aims whose stages are the one family of tests: what Holm's method corrects for.
FAMILY = (Aim.loss, Aim.stability)


class Outcome(Enum):
    """What several seeds say of a stage's held-out loss against the stage that it stands on."""

    lower = "lower"
    higher = "higher"
    equivalent = "equivalent"
    inconclusive = "inconclusive"


@dataclass(frozen=True)
class Verdict:
    """A judgement of a stage: `tone` is good, bad, even or none; `text` says why.

    `outcome` is None where nothing is claimed: with one seed, and for stages outside the family.
    `p` is Holm's adjusted p-value. `why` says why an outcome is inconclusive, and `seeds_needed`
    how many seeds would decide it: None where seeds would not, or more than a thousand would.
    """

    tone: str
    text: str
    outcome: Outcome | None = None
    p: float = math.nan
    why: str = ""
    seeds_needed: int | None = None


@dataclass(frozen=True)
class Tested:
    """A difference over several seeds, and its two p-values, adjusted over the family."""

    loss: Estimate
    p: float
    p_equivalent: float


def judge(group: Group, rules: ReportConf) -> dict[str, Verdict]:
    """The verdict on each stage of a group, by the stage's name."""
    found = {
        stage.name: stage.vs_previous.loss
        for stage in group.ladder
        if stage.finished and stage.aim in FAMILY and not stage.vs_previous.skipped
        if not stage.newest.stage.same_as
    }
    tested = correct_family({name: e for name, e in found.items() if e and several_seeds(e)})
    return {stage.name: _verdict(stage, tested, rules) for stage in group.stages}


def several_seeds(loss: Estimate) -> bool:
    """Whether a difference is over seeds, and not over the windows of one."""
    return loss.over is Sample.seeds and loss.n > 1


def correct_family(losses: Mapping[str, Estimate]) -> dict[str, Tested]:
    """Each difference of a family with its p-values, adjusted by Holm's method."""
    p, p_equivalent = (
        holm([getattr(e, name) for e in losses.values()]) for name in ("p", "p_equivalent")
    )
    adjusted = zip(losses.items(), p, p_equivalent, strict=True)
    return {name: Tested(e, first, second) for (name, e), first, second in adjusted}


def _verdict(stage: StageRuns, tested: Mapping[str, Tested], rules: ReportConf) -> Verdict:
    if not stage.finished:
        return _unfinished(stage.newest)
    if stage.aim is Aim.flow:
        return _flow(stage.newest)
    if stage.aim is Aim.baseline:
        return Verdict("none", f"what the others are measured against{_lost(stage.lost)}")
    if same := stage.newest.stage.same_as:
        return Verdict("none", f"not applicable to this model: trains exactly as {same}")
    versus = stage.vs_previous
    if versus.loss is None:
        none = "no earlier stage to compare with"
        if versus.other:
            none = f"no seed in common with {versus.other}"
        return Verdict("none", f"{none}{_lost(stage.lost)}")
    if stage.aim is Aim.speed:
        return _speed(stage, versus.loss, rules)
    around = f"{_events(stage)}{_lost([*versus.lost_before, *versus.lost_after])}"
    if stage.name in tested:
        return _several_seeds(stage, tested[stage.name], len(tested), around, rules)
    if versus.skipped:
        between = formats.together(versus.skipped[::-1])
        several = several_seeds(versus.loss)
        change = formats.change(versus.loss) if several else _one_seed(versus.loss)
        text = f"not judged, because {between} did not finish; against {versus.other} {change}"
        return Verdict("none", f"{text}{around}")
    stop = f"; on this seed it {stop_words(versus.stop)}" if versus.stop else ""
    return Verdict("none", f"{_one_seed(versus.loss)}{stop}{around}")


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


def _one_seed(loss: Estimate) -> str:
    """The difference of a single seed, called what it is."""
    if math.isnan(loss.low):
        return f"{formats.signed(loss.value)} on this seed; the text's sampling error is unknown"
    return (
        f"{formats.signed(loss.value)} on this seed, {formats.bounds(loss)} by the text's sampling "
        "error only"
    )


def _several_seeds(
    stage: StageRuns, tested: Tested, family: int, around: str, rules: ReportConf
) -> Verdict:
    versus, loss = stage.vs_previous, tested.loss
    lost = bool(versus.lost_before), bool(versus.lost_after)
    outcome, why = decide(tested, versus.stop, lost, rules)
    words, tone = {
        Outcome.lower: ("lower loss", "good"),
        Outcome.higher: ("higher loss", "bad"),
        Outcome.equivalent: (f"no difference beyond {rules.margin:g}", "even"),
        Outcome.inconclusive: (f"inconclusive: {why}", "even"),
    }[outcome]
    if versus.times_the_tokens > 1.01 and outcome is not Outcome.inconclusive:
        words += f" at equal steps, with {versus.times_the_tokens:.3g} times the tokens"
    if versus.stop and "depends" not in why:
        words += f"; {stop_words(versus.stop)}"
    more_seeds = why in (UNDECIDED, _too_few(loss.n, rules)) and not versus.stop
    needed = seeds_to_decide(loss, family, rules) if more_seeds else None
    return Verdict(tone, f"{words}{around}", outcome, tested.p, why, needed)


UNDECIDED = "the seeds differ too much"
NOT_ALL = "not every seed finished"


def decide(
    tested: Tested, stop: Stop | None, lost: tuple[bool, bool], rules: ReportConf
) -> tuple[Outcome, str]:
    """The outcome of a difference over several seeds, and why it is inconclusive if it is.

    `lost` says whether seeds of the stage below, and of the stage itself, did not finish: the loss
    of a stage without its lost seeds is too low.
    """
    error, loss = 1 - rules.confidence, tested.loss
    if loss.n < rules.minimum_seeds:
        return Outcome.inconclusive, NOT_ALL if any(lost) else _too_few(loss.n, rules)
    if stop is not None:
        return Outcome.inconclusive, stop_words(stop)
    lost_before, lost_after = lost
    if tested.p_equivalent < error:
        found, ruled_out = Outcome.equivalent, any(lost)
    elif tested.p < error:
        lower = loss.value < 0
        found = Outcome.lower if lower else Outcome.higher
        ruled_out = lost_after if lower else lost_before
    else:
        return Outcome.inconclusive, UNDECIDED
    return (Outcome.inconclusive, NOT_ALL) if ruled_out else (found, "")


def _too_few(seeds: int, rules: ReportConf) -> str:
    return f"{seeds} of the {rules.minimum_seeds} seeds that decide"


def stop_words(stop: Stop) -> str:
    """That a difference depends on where one stops, and where it was another."""
    return (
        f"depends on when you stop: {formats.signed(stop.difference)} in training loss at step "
        f"{stop.step}, {formats.signed(stop.at_end)} at the end"
    )


def _speed(stage: StageRuns, loss: Estimate, rules: ReportConf) -> Verdict:
    """Speed stages are judged on speed; their loss is described, and never an outcome."""
    tone, words = _speed_words(stage.vs_previous.speed)
    lost = _lost([*stage.vs_previous.lost_before, *stage.vs_previous.lost_after])
    if not several_seeds(loss):
        return Verdict(tone, f"{words}; loss {_one_seed(loss)}{lost}")
    if keeps_loss(loss, rules):
        return Verdict(tone, f"{words}; loss within {rules.margin:g}{lost}")
    if loss.n >= rules.minimum_seeds and loss.low > rules.margin:
        tone = "bad"
    return Verdict(tone, f"{words}; loss {formats.change(loss)}{lost}")


def keeps_loss(loss: Estimate, rules: ReportConf) -> bool:
    """Whether enough seeds place a difference within the margin, tested alone."""
    enough = several_seeds(loss) and loss.n >= rules.minimum_seeds
    return enough and loss.p_equivalent < 1 - rules.confidence


def _speed_words(speed: SpeedUp | None) -> tuple[str, str]:
    if speed is None:
        return "none", "its speed cannot be compared"
    if not speed.claims:
        return "none", f"{formats.times(speed)} as fast, not decided ({speed.why_no_claim})"
    if speed.faster:
        return "good", "faster"
    return ("bad", "slower") if speed.slower else ("even", "no difference in speed was shown")


def _events(stage: StageRuns) -> str:
    """What clipping did, and spikes and plateaus, of the first run that has them."""
    said = []
    if stage.aim is Aim.stability and stage.clipped:
        over, of = stage.clipped
        said.append(f"{over} of {of} steps clipped" if over else "the threshold was never reached")
    runs = [run for run in stage.runs if run.name in stage.spikes]
    if runs:
        curve, steps = runs[0].curve, stage.spikes[runs[0].name]
        loss = float(curve.loss[curve.step == steps[0]][0])
        said.append(f"{_in(len(runs), stage, 'spikes')} to {loss:.2f} at step {steps[0]}")
    if stage.plateaus:
        flat = next(iter(stage.plateaus.values()))
        said.append(
            f"{_in(len(stage.plateaus), stage, 'plateaus')} at {flat.loss:.2f} in steps "
            f"{flat.first} to {flat.last}"
        )
    return "".join(f"; {words}" for words in said)


def _in(runs: int, stage: StageRuns, events: str) -> str:
    if len(stage.runs) == 1:
        return events.removesuffix("s")
    return f"{events} in {runs} of {len(stage.runs)} seeds, such as one"


def _lost(runs: Sequence[Run]) -> str:
    """The seeds that did not finish."""
    states = [f"{run.stage.name} seed {run.seed} {run.status.value}" for run in runs]
    return f"; but {formats.together(states)}" if states else ""
