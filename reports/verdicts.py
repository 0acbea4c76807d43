"""A verdict on each stage, by its own aim, against the stage that it stands on."""

from __future__ import annotations

import math
from collections.abc import Mapping
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
    `p` is Holm's adjusted p-value, and `seeds_needed` how many seeds would decide an inconclusive
    outcome: None where more seeds would not, or more than a thousand would be needed.
    """

    tone: str
    text: str
    outcome: Outcome | None = None
    p: float = math.nan
    seeds_needed: int | None = None


def judge(group: Group, rules: ReportConf) -> dict[str, Verdict]:
    """The verdict on each stage of a group, by the stage's name."""
    tested = {s.name: s.vs_previous.loss for s in group.ladder if s.finished and s.aim in FAMILY}
    family = {name: e for name, e in tested.items() if e and e.over is Sample.seeds and e.n > 1}
    adjusted = dict(zip(family, holm([e.p for e in family.values()]), strict=True))
    return {stage.name: _verdict(stage, adjusted, rules) for stage in group.stages}


def _verdict(stage: StageRuns, adjusted: Mapping[str, float], rules: ReportConf) -> Verdict:
    if not stage.finished:
        return _unfinished(stage.newest)
    if stage.aim is Aim.flow:
        return _flow(stage.newest)
    if stage.aim is Aim.baseline:
        return Verdict("none", f"what the others are measured against{_lost(stage)}")
    loss = stage.vs_previous.loss
    if loss is None:
        return Verdict("none", f"no earlier stage to compare with{_lost(stage)}")
    if stage.aim is Aim.speed:
        return _speed(stage, loss, rules)
    if stage.name not in adjusted:
        return Verdict("none", f"{_one_seed(loss)}{_events(stage)}{_lost(stage)}")
    return _several_seeds(stage, loss, adjusted[stage.name], len(adjusted), rules)


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
    stage: StageRuns, loss: Estimate, p: float, family: int, rules: ReportConf
) -> Verdict:
    outcome, why = decide(loss, p, stage.vs_previous.stop, len(stage.lost), rules)
    margin = f"{rules.margin:g}"
    words, tone = {
        Outcome.lower: ("lower loss", "good"),
        Outcome.higher: ("higher loss", "bad"),
        Outcome.equivalent: (f"no difference beyond {margin}", "even"),
        Outcome.inconclusive: (f"inconclusive: {why}", "even"),
    }[outcome]
    needed = None
    if outcome is Outcome.inconclusive and why in (UNDECIDED, _too_few(loss.n, rules)):
        needed = seeds_to_decide(loss, family, rules)
    text = f"{words}{_events(stage)}{_lost(stage)}"
    return Verdict(tone, text, outcome, p, needed)


UNDECIDED = "the seeds differ too much"


def decide(
    loss: Estimate, p: float, stop: Stop | None, lost: int, rules: ReportConf
) -> tuple[Outcome, str]:
    """The outcome of a difference over several seeds, and why it is inconclusive if it is.

    `p` is the adjusted p-value, and `lost` counts the seeds that diverged or failed.
    """
    error = 1 - rules.confidence
    if loss.n < rules.minimum_seeds:
        return Outcome.inconclusive, _too_few(loss.n, rules)
    if stop is not None:
        return Outcome.inconclusive, stop_words(stop)
    equivalent = loss.p_equivalent < error
    if (equivalent or (p < error and loss.value < 0)) and lost:
        return Outcome.inconclusive, "not every seed finished"
    if equivalent:
        return Outcome.equivalent, ""
    if p < error:
        return (Outcome.lower if loss.value < 0 else Outcome.higher), ""
    return Outcome.inconclusive, UNDECIDED


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
    if loss.over is Sample.windows or math.isnan(loss.low):
        return Verdict(tone, f"{words}; loss {_one_seed(loss)}{_lost(stage)}")
    within = loss.n >= rules.minimum_seeds and loss.p_equivalent < 1 - rules.confidence
    if within:
        return Verdict(tone, f"{words}; loss within {rules.margin:g}{_lost(stage)}")
    if loss.above:
        tone = "bad"
    return Verdict(tone, f"{words}; loss {formats.change(loss)}{_lost(stage)}")


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
    for run in stage.runs:
        if steps := stage.spikes.get(run.name):
            loss = float(run.curve.loss[run.curve.step == steps[0]][0])
            said.append(f"spike to {loss:.2f} at step {steps[0]}{_in(len(stage.spikes), stage)}")
            break
    if stage.plateaus:
        flat = next(iter(stage.plateaus.values()))
        said.append(
            f"flat at {flat.loss:.2f} in steps {flat.first} to {flat.last}"
            f"{_in(len(stage.plateaus), stage)}"
        )
    return "".join(f"; {words}" for words in said)


def _in(runs: int, stage: StageRuns) -> str:
    return "" if len(stage.runs) == 1 else f" ({runs} of {len(stage.runs)} seeds)"


def _lost(stage: StageRuns) -> str:
    """The seeds that did not finish."""
    states = [f"seed {run.seed} {run.status.value}" for run in stage.lost]
    return f"; but {formats.together(states)}" if states else ""
