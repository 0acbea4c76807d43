"""What may be compared with what: groups of like runs, as the stages of a ladder."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any

import numpy as np

from conf.schema import Aim, ReportConf
from reports.curves import At, Plateau, Stop, at_equal, earlier_stop, plateau, spikes
from reports.read import Floats, ReadRun
from reports.speed import SpeedUp, speed_up
from reports.statistics import Estimate, mean_difference, mean_over_windows
from runner.record import Conditions, Finding, Results, Run, Timings
from stages.ladder import read_ladder

Pairs = list[tuple[ReadRun, ReadRun]]


@dataclass(frozen=True)
class Comparison:
    """A stage against another stage, `other`, over the seeds that both have finished, `pairs`.

    `loss` is of the held-out loss; `at_tokens` and `at_seconds` are of the training loss, where
    both have spent as much. None where no seed has both, or where there is no other stage.
    `skipped` are stages between the two that have not finished, `lost_before` and `lost_after` the
    runs of each that have not.
    """

    other: str = ""
    pairs: Pairs = field(default_factory=list)
    loss: Estimate | None = None
    speed: SpeedUp | None = None
    at_tokens: At | None = None
    at_seconds: At | None = None
    stop: Stop | None = None
    skipped: list[str] = field(default_factory=list)
    lost_before: list[Run] = field(default_factory=list)
    lost_after: list[Run] = field(default_factory=list)

    @property
    def times_the_tokens(self) -> float:
        """How many times as many tokens a step takes."""
        if not self.pairs:
            return 1.0
        before, after = (run.record.results.tokens_per_step for run in self.pairs[0])
        return after / before


@dataclass
class StageRuns:
    """The runs of a stage in one group of comparable runs, over its seeds and their repeats.

    `rounds` holds one run for each seed and repeat: the newest that finished, else the newest.
    `runs` holds one a seed, of its lowest repeat. `mean`, `timings` (means too) and `spread`
    (standard deviation over seeds, NaN for one) are over `measured`; speeds are over all rounds.
    `vs_previous` compares it with the stage that it stands on, or with the first one below that
    which finished.
    `still_without` are the techniques not applied for a reason that a stage below already gave.
    """

    rounds: list[ReadRun]
    vs_previous: Comparison = Comparison()
    vs_baseline: Comparison = Comparison()
    still_without: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.runs = _one_a_seed(self.rounds)
        self.finished = [run for run in self.runs if run.finished]
        self.measured = self.finished or self.runs
        self.newest: Run = max((run.record for run in self.measured), key=lambda run: run.started)
        results = [run.record.results for run in self.measured]
        timed = [run.record.results for run in self.rounds if run.finished] or results
        speeds = _over_seeds(timed, np.mean, least=1)
        self.mean: Results = replace(
            _over_seeds(results, np.mean, least=1),
            tokens_per_second=speeds.tokens_per_second,
            step_ms=speeds.step_ms,
            mfu=speeds.mfu,
            datasheet_mfu=speeds.datasheet_mfu,
        )
        self.spread: Results = _over_seeds(results, lambda v: np.std(v, ddof=1), least=2)
        timings = [run.record.timings for run in self.measured]
        self.timings: Timings = _over_seeds(timings, np.mean, least=1)
        self.spikes = {run.name: steps for run in self.runs if (steps := spikes(run.curve))}
        plateaus = {run.name: plateau(run.curve) for run in self.runs}
        self.plateaus: dict[str, Plateau] = {name: p for name, p in plateaus.items() if p}
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
    def notes(self) -> list[str]:
        """What has no effect in some run, or an odd one."""
        return list(dict.fromkeys(note for run in self.runs for note in run.record.notes))

    @property
    def findings(self) -> dict[str, tuple[int, Finding]]:
        """What went wrong by name, the worst first: in how many runs, and the newest's words."""
        found: dict[str, list[Finding]] = defaultdict(list)
        for finding in (finding for run in self.runs for finding in run.record.findings):
            found[finding.name].append(finding)
        worst = sorted(found, key=lambda name: found[name][-1].severity.rank, reverse=True)
        return {name: (len(found[name]), found[name][-1]) for name in worst}

    @property
    def measurable(self) -> list[ReadRun]:
        """The finished runs with a held-out loss that is a number."""
        return [run for run in self.finished if math.isfinite(run.record.results.held_out)]

    @property
    def lost(self) -> list[Run]:
        """The other runs, one a seed."""
        return [run.record for run in self.runs if run not in self.measurable]

    @property
    def has_parent(self) -> bool:
        """Whether its record says what it stands on, as those before format 4 do not."""
        return self.newest.stage.parent is not None

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
    def names(self) -> set[str]:
        """The names of all its runs, repeats included."""
        return {run.name for stage in self.stages for run in stage.rounds}

    @property
    def experiment(self) -> str:
        return self.stages[0].rounds[0].experiment

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


def compare(
    runs: Sequence[ReadRun],
    shared: set[str],
    rules: ReportConf,
    ladders: Mapping[tuple[str, Conditions], Sequence[ReadRun]] | None = None,
) -> list[Group]:
    """The groups of comparable runs, the main one first; `shared` as in `reports.speed.speed_up`.

    `ladders` are the runs of the stages as they are, in an experiment under some conditions,
    whatever command trained them. Experiments are not pooled.

    The main group is the one with the most finished stages, then the most stages, then one without
    overrides, then the most seeds, then the newest.
    """
    alike: dict[tuple[str, Conditions], list[ReadRun]] = defaultdict(list)
    for run in runs:
        alike[run.experiment, Conditions.of(run.record)].append(run)
    groups = [
        Group(conditions, variant, _stages(members, shared, rules))
        for (experiment, conditions), found in alike.items()
        for variant, members in _variants(found, (ladders or {}).get((experiment, conditions), []))
    ]

    def rank(group: Group) -> tuple[int, int, bool, int, str]:
        finished = sum(bool(stage.finished) for stage in group.stages)
        plain = not group.variant and not any(run.variant for run in group.runs)
        newest = max(run.started for run in group.runs)
        return finished, len(group.stages), plain, len(group.seeds), newest

    return sorted(groups, key=rank, reverse=True)


def _variants(
    runs: Sequence[ReadRun], plain: Sequence[ReadRun] = (), label: str = ""
) -> list[tuple[str, list[ReadRun]]]:
    """Comparable runs as ladders, in each of which a stage has the same settings.

    All but the first have a label. Most overrides change the conditions. An override that only
    undoes the stage's own change does not: a stage's usual settings are those of its `plain` runs,
    else of the newest of those with the fewest overrides, and runs with others are a ladder of
    their own.
    """
    runs = list({run.name: run for run in (*runs, *plain)}.values())
    newest_last = sorted(runs, key=lambda run: run.record.started)
    usual_last = sorted(newest_last, key=lambda run: len(run.record.variant), reverse=True)
    usual = {run.record.stage.name: run.record.settings_sha256 for run in (*usual_last, *plain)}
    ladder: list[ReadRun] = []
    others: dict[str, list[ReadRun]] = defaultdict(list)
    for run in runs:
        if run.record.settings_sha256 == usual[run.record.stage.name]:
            ladder.append(run)
        else:
            others[" ".join(run.record.variant) or "an earlier configuration"].append(run)
    return [
        (label, ladder),
        *(part for key in others for part in _variants(others[key], label=key)),
    ]


def _stages(runs: Sequence[ReadRun], shared: set[str], rules: ReportConf) -> list[StageRuns]:
    by_name: dict[str, list[ReadRun]] = defaultdict(list)
    for run in runs:
        by_name[run.record.stage.name].append(run)
    stages = [StageRuns(newest_of_each(found)) for found in by_name.values()]
    stages.sort(key=lambda stage: (stage.number, stage.name))
    group = Group(Conditions.of(runs[0].record), "", stages)
    known: dict[str, str] = {}
    for stage in group.ladder:
        below, skipped = _stands_on(stage, group.ladder)
        if below is not None:
            found = compared(below, stage, shared, rules)
            stop = earlier_stop(found.pairs, rules)
            stage.vs_previous = replace(found, stop=stop, skipped=skipped)
        if group.baseline is not None and group.baseline is not stage:
            stage.vs_baseline = compared(group.baseline, stage, shared, rules)
        stage.still_without = [w for w, why in stage.not_applied.items() if known.get(w) == why]
        known |= stage.not_applied
    return stages


def _stands_on(stage: StageRuns, ladder: Sequence[StageRuns]) -> tuple[StageRuns | None, list[str]]:
    """The nearest stage below one that finished, along the parents, and those between them.

    Records before format 4 name no parent: for a stage of the project's own it is read from the
    ladder, for others the stage with the next lower number is taken.
    """
    recorded = {other.name: other.newest.stage.parent for other in ladder if other.has_parent}
    parents = _read_parents() | recorded
    by_name = {other.name: other for other in ladder}
    if stage.name not in parents:
        below = [other for other in ladder if other.number < stage.number and other.finished]
        return (below[-1] if below else None), []
    skipped: list[str] = []
    parent = parents[stage.name]
    while parent is not None and parent not in skipped:
        if parent in by_name and by_name[parent].finished:
            return by_name[parent], skipped
        skipped.append(parent)
        parent = parents.get(parent)
    return None, skipped


@cache
def _read_parents() -> dict[str, str | None]:
    return {known.name: known.parent for known in read_ladder()}


def compared(
    before: StageRuns, after: StageRuns, shared: set[str], rules: ReportConf
) -> Comparison:
    """A stage against another one, over their finished runs."""
    pairs = pairs_of(before, after)
    first, second = ([run for run in stage.rounds if run.finished] for stage in (before, after))
    return Comparison(
        before.name,
        pairs,
        held_out_difference(pairs, rules),
        speed_up(first, second, shared, rules),
        at_equal(pairs, "tokens_seen", rules),
        at_equal(pairs, "seconds", rules),
        lost_before=before.lost,
        lost_after=after.lost,
    )


def pairs_of(before: StageRuns | None, after: StageRuns | None) -> Pairs:
    """The measurable runs of the seeds that both have; empty where there are no runs."""
    by_seed = {run.record.seed: run for run in before.measurable} if before else {}
    runs = after.measurable if after else []
    return [(by_seed[run.record.seed], run) for run in runs if run.record.seed in by_seed]


def held_out_difference(pairs: Pairs, rules: ReportConf) -> Estimate | None:
    """Over seeds; for one seed over the windows, where both runs have them."""
    values = np.array([b.record.results.held_out - a.record.results.held_out for a, b in pairs])
    if not len(values):
        return None
    if len(values) > 1:
        return mean_difference(values, rules)
    before, after = (run.held_out.final for run in pairs[0])
    if len(before) and len(before) == len(after):
        return mean_over_windows(after - before, rules)
    return Estimate(float(values[0]))


def find_control(
    stage: StageRuns, groups: Sequence[Group], shared: set[str], rules: ReportConf
) -> Comparison | None:
    """A stage against the one that it stands on, trained for as many tokens; None if not run.

    The control takes more steps, with its warmup stretched as much; else its conditions are those
    of the first group. Of several, it is the one with most seeds in common.
    """
    main, *others = groups
    below = next((s for s in main.ladder if s.name == stage.vs_previous.other), None)
    if below is None or not stage.finished:
        return None
    found = [
        compared(control, stage, shared, rules)
        for group in others
        for control in group.ladder
        if control.name == below.name and control.finished
        if _stretched(below.newest, control.newest) and _as_long(stage, control)
    ]
    best = max(found, key=lambda comparison: len(comparison.pairs), default=None)
    return best if best and best.pairs else None


STRETCHED = ("train.steps", "train.warmup_steps")


def _stretched(run: Run, longer: Run) -> bool:
    """Whether the two differ in the number of steps alone, and in the warmup in proportion."""
    same = Conditions.of(run).same_but_for_settings(Conditions.of(longer))
    rest = [{k: v for k, v in r.conditions.items() if k not in STRETCHED} for r in (run, longer)]
    a, b = run.config["train"], longer.config["train"]
    in_proportion = a["warmup_steps"] * b["steps"] == b["warmup_steps"] * a["steps"]
    return same and rest[0] == rest[1] and in_proportion


def _as_long(stage: StageRuns, control: StageRuns) -> bool:
    tokens = (s.mean.steps * s.mean.tokens_per_step for s in (stage, control))
    return math.isclose(*tokens, rel_tol=0.01)


def newest_of_each(runs: Sequence[ReadRun]) -> list[ReadRun]:
    """One run for each seed and repeat: the newest that finished, else the newest; in order."""
    order = sorted(runs, key=lambda run: (run.finished, run.record.started))
    best = {run.record.round: run for run in order}
    return [best[each] for each in sorted(best)]


def _one_a_seed(rounds: Sequence[ReadRun]) -> list[ReadRun]:
    """The lowest repeat of each seed that finished, else the lowest: repeats are no seeds."""
    order = sorted(rounds, key=lambda run: (not run.finished, *run.record.round))
    return sorted({run.record.seed: run for run in reversed(order)}.values(), key=_seed)


def _seed(run: ReadRun) -> int:
    return run.record.seed
