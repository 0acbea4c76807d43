"""What may be compared with what: groups of like runs, as the stages of a ladder."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from conf.schema import Aim
from reports.read import Floats, ReadRun
from reports.statistics import Estimate, difference, speed_up, spikes
from runner.record import Conditions, Results, Run, Timings


@dataclass(frozen=True)
class Comparison:
    """A stage against another stage, `other`, over the seeds that both have.

    `loss` is of the held-out loss and `best` of the interval's lower end. None where no seed has
    both, or where there is no other stage.
    """

    other: str = ""
    loss: Estimate | None = None
    best: Estimate | None = None
    speed: Estimate | None = None


@dataclass
class StageRuns:
    """The runs of a stage in one group of comparable runs, over its seeds.

    `runs` holds one run a seed: the newest that finished, else the newest. `mean`, `timings` (means
    too) and `spread` (standard deviation over seeds, NaN for one) are over `measured`.
    `vs_previous` compares it with the highest stage below it that finished; `skips` says that
    another is between them.
    `still_without` are the techniques not applied for a reason that a stage below already gave.
    """

    runs: list[ReadRun]
    vs_previous: Comparison = Comparison()
    vs_baseline: Comparison = Comparison()
    skips: bool = False
    still_without: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.finished = [run for run in self.runs if run.finished]
        self.measured = self.finished or self.runs
        self.newest: Run = max((run.record for run in self.measured), key=lambda run: run.started)
        results = [run.record.results for run in self.measured]
        self.mean: Results = _over_seeds(results, np.mean, least=1)
        self.spread: Results = _over_seeds(results, lambda v: np.std(v, ddof=1), least=2)
        timings = [run.record.timings for run in self.measured]
        self.timings: Timings = _over_seeds(timings, np.mean, least=1)
        self.spikes = {run.name: steps for run in self.runs if (steps := spikes(run.curve))}
        about = self.newest.stage
        self.name, self.title, self.number, self.aim = (
            about.name, about.title, about.number, about.aim,
        )  # fmt: skip
        self.status = self.newest.status

    @property
    def not_applied(self) -> dict[str, str]:
        """The techniques that did not act in some run, and why."""
        return {what: why for run in self.runs for what, why in run.record.not_applied.items()}

    @property
    def clipped(self) -> tuple[int, int] | None:
        """How many steps had a gradient above the clipping threshold, of how many."""
        over, steps = 0, 0
        for run in self.measured:
            threshold = run.record.settings.clip_grad_norm
            if threshold is not None:
                over += int((run.curve.grad_norm > threshold).sum())
                steps += len(run.curve.step)
        return (over, steps) if steps else None


def numbers(kind: type) -> list[str]:
    """The fields of a part of the record that are numbers."""
    return [entry.name for entry in fields(kind) if entry.type is float]


def _over_seeds(
    parts: Sequence[Any], statistic: Callable[[Floats], np.floating], least: int
) -> Any:
    """One part of the record, each number a statistic of those that are finite; else NaN."""
    kind, found = type(parts[0]), {}
    for name in numbers(kind):
        values = np.array([getattr(part, name) for part in parts], dtype=float)
        values = values[np.isfinite(values)]
        found[name] = float(statistic(values)) if len(values) >= least else math.nan
    return kind(**found)


@dataclass
class Group:
    """Runs that may be compared, as the stages of a ladder.

    `variant` names what is unusual about the stages' own configuration; empty where nothing is.
    """

    conditions: Conditions
    variant: str
    stages: list[StageRuns]

    @property
    def runs(self) -> list[Run]:
        return [run.record for stage in self.stages for run in stage.runs]

    @property
    def ladder(self) -> list[StageRuns]:
        """The stages that can be compared: all but the short flow check."""
        return [stage for stage in self.stages if stage.aim is not Aim.flow]

    @property
    def baseline(self) -> StageRuns | None:
        """The baseline, where it has finished."""
        found = (s for s in self.stages if s.aim is Aim.baseline and s.finished)
        return next(found, None)

    @property
    def last(self) -> StageRuns | None:
        """The highest stage that has finished."""
        return next((stage for stage in reversed(self.ladder) if stage.finished), None)

    @property
    def seeds(self) -> list[int]:
        return sorted({run.seed for run in self.runs})


def compare(runs: Iterable[ReadRun]) -> list[Group]:
    """The groups of comparable runs, the main one first.

    The main group is the one with the most finished stages, then the most stages, then one without
    overrides, then the newest.
    """
    alike: dict[Conditions, list[ReadRun]] = defaultdict(list)
    for run in runs:
        alike[Conditions.of(run.record)].append(run)
    groups = [
        Group(conditions, variant, _stages(members))
        for conditions, found in alike.items()
        for variant, members in _variants(found)
    ]

    def rank(group: Group) -> tuple[int, int, bool, str]:
        finished = sum(bool(stage.finished) for stage in group.stages)
        plain = not group.variant and not any(run.variant for run in group.runs)
        return finished, len(group.stages), plain, max(run.started for run in group.runs)

    return sorted(groups, key=rank, reverse=True)


def _variants(runs: Sequence[ReadRun], label: str = "") -> list[tuple[str, list[ReadRun]]]:
    """Comparable runs as ladders, in each of which a stage has one recipe; labelled but the first.

    Most overrides change the conditions. An override that only undoes the stage's own change does
    not: a stage's usual recipe is the newest of those with the fewest overrides, and runs of
    another recipe are a ladder of their own.
    """
    newest_last = sorted(runs, key=lambda run: run.record.started)
    usual_last = sorted(newest_last, key=lambda run: len(run.record.variant), reverse=True)
    usual = {run.record.stage.name: run.record.recipe for run in usual_last}
    ladder: list[ReadRun] = []
    others: dict[str, list[ReadRun]] = defaultdict(list)
    for run in runs:
        if run.record.recipe == usual[run.record.stage.name]:
            ladder.append(run)
        else:
            others[" ".join(run.record.variant) or "an earlier configuration"].append(run)
    return [(label, ladder), *(part for key in others for part in _variants(others[key], key))]


def _stages(runs: Sequence[ReadRun]) -> list[StageRuns]:
    by_name: dict[str, list[ReadRun]] = defaultdict(list)
    for run in runs:
        by_name[run.record.stage.name].append(run)
    stages = [StageRuns(chosen(found)) for found in by_name.values()]
    stages.sort(key=lambda stage: (stage.number, stage.name))
    group = Group(Conditions.of(runs[0].record), "", stages)
    known: dict[str, str] = {}
    for at, stage in enumerate(group.ladder):
        below = [other for other in group.ladder if other.number < stage.number]
        finished = [other for other in below if other.finished]
        if finished:
            stage.vs_previous = compared(finished[-1], stage)
            stage.skips = finished[-1] is not group.ladder[at - 1]
        if group.baseline is not None and group.baseline is not stage:
            stage.vs_baseline = compared(group.baseline, stage)
        stage.still_without = [w for w, why in stage.not_applied.items() if known.get(w) == why]
        known |= stage.not_applied
    return stages


def compared(before: StageRuns, after: StageRuns) -> Comparison:
    """A stage against one before it, over their finished runs."""
    runs = before.finished, after.finished
    return Comparison(
        before.name,
        loss=difference(*runs, lambda results: results.held_out),
        best=difference(*runs, lambda results: results.best),
        speed=speed_up(*runs),
    )


def chosen(runs: Sequence[ReadRun]) -> list[ReadRun]:
    """One run a seed: the newest that finished, else the newest; in order of seed."""
    order = sorted(runs, key=lambda run: (run.finished, run.record.started))
    best = {run.record.seed: run for run in order}
    return [best[seed] for seed in sorted(best)]
