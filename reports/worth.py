"""What each step is worth: in place, alone, when missing, and on average over all orders."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from conf.schema import Aim, ReportConf
from reports.cells import Bank, Cell
from reports.compare import Comparison, Group, Pairs, StageRuns, held_out_difference, pairs_of
from reports.shapley import Factorial
from reports.statistics import Estimate, holm, mean_difference
from runner.record import Run
from stages.arithmetic import Ablation, Entry
from stages.ladder import Stage
from stages.plans import Plan

# A factorial, if it has finished in a seed; how many of its sets have, of how many; their runs.
Found = tuple[Factorial | None, tuple[int, int], dict[str, StageRuns | None]]


class Way(str, Enum):
    """A way to say what a step is worth: the held-out loss with it less the one without it."""

    in_place = "in place"  # on the stage that it stands on
    alone = "alone"  # on the baseline
    missing = "when missing"  # the top stage, less the same without the step
    average = "on average"  # its Shapley value, over all orders of the factorial's steps


@dataclass(frozen=True)
class StepWorth:
    """A step by every way that was measured.

    `context` is its change alone less its change when missing, seed by seed, and `p` Holm's
    adjusted p-value of that: whether what it is worth depends on the other steps.
    `times_the_tokens` is how many times as many tokens a step takes with it.
    """

    stage: Stage
    ways: dict[Way, Estimate]
    times_the_tokens: float = 1.0
    context: Estimate | None = None
    p: float = math.nan

    @property
    def name(self) -> str:
        return self.stage.name

    @property
    def title(self) -> str:
        return self.stage.about.title


@dataclass(frozen=True)
class Interaction:
    """What two steps change together beyond the sum of what each does; `p` is Holm's."""

    one: str
    other: str
    change: Estimate
    p: float


@dataclass(frozen=True)
class Worth:
    """What the steps are worth, `top` being the stage from which they are left out.

    `factorial` is None, and `interactions` empty, where no seed has every set of steps;
    `sets` says how many sets have finished, of how many. `lost` are the runs without a loss, by
    what they train.
    """

    steps: list[StepWorth]
    baseline: str
    top: str
    factorial: Factorial | None
    sets: tuple[int, int]
    interactions: list[Interaction]
    lost: dict[str, list[Run]]


def find_worth(main: Group, bank: Bank, plans: Sequence[Plan], rules: ReportConf) -> Worth | None:
    """What the runs of a group and the ablations say; None where there are no ablations."""
    lowest = next(stage.name for stage in bank.stages if stage.about.aim is Aim.baseline)
    top = _top(main, bank)
    factorial, sets, found = _factorial(bank, plans)
    found |= {name: bank.find(Cell(Ablation(name))) for name in (lowest, top)}
    below_top = bank.names_below(top)
    steps, contexts = [], []
    ladder = main.ladder if all(run.ablation.is_plain for run in main.runs) else []
    for stage in bank.stages:
        if stage.about.aim in (Aim.flow, Aim.baseline) or stage.choices:
            continue
        ways: dict[Way, Estimate] = {}
        mine = next((s for s in ladder if s.name == stage.name), None)
        if mine and mine.vs_previous.loss and not mine.vs_previous.skipped:
            ways[Way.in_place] = mine.vs_previous.loss
        plus, without = (
            Cell(Ablation(lowest, plus=(stage.name,))),
            Cell(Ablation(top, (stage.name,))),
        )
        added = found[str(plus)] = bank.find(plus)
        taken = found[str(without)] = bank.find(without) if stage.name in below_top else None
        alone, missing = pairs_of(found[lowest], added), pairs_of(taken, found[top])
        for way, pairs in ((Way.alone, alone), (Way.missing, missing)):
            if difference := held_out_difference(pairs, rules):
                ways[way] = difference
        if factorial and stage.name in factorial.steps:
            values = factorial.values(factorial.steps.index(stage.name))
            ways[Way.average] = mean_difference(values, rules)
        comparisons = [Comparison(pairs=alone), Comparison(pairs=missing)]
        comparisons += [mine.vs_previous] if mine else []
        more = max(comparison.times_the_tokens for comparison in comparisons)
        steps.append(StepWorth(stage, ways, more))
        contexts.append(_context(alone, missing, rules))
    names = {run.name for runs in found.values() if runs for run in runs.rounds}
    if names <= bank.in_ladder or not any(set(step.ways) - {Way.in_place} for step in steps):
        return None
    steps = [
        replace(step, context=context, p=p)
        for step, context, p in zip(steps, contexts, _adjusted(contexts, rules), strict=True)
        if step.ways
    ]
    interactions = _interactions(factorial, rules) if factorial else []
    lost: dict[str, list[Run]] = {}
    for name, runs in found.items():
        if runs and runs.lost and runs.lost not in lost.values():
            lost[name] = runs.lost
    return Worth(steps, lowest, top, factorial, sets, interactions, lost)


def _top(main: Group, bank: Bank) -> str:
    """The stage from which most single steps were left out, else the highest that finished."""
    left_out = {
        stage.name: sum(
            runs is not None and any(run.name not in bank.in_ladder for run in runs.measurable)
            for step in bank.names_below(stage.name)
            for runs in [bank.find(Cell(Ablation(stage.name, (step,))))]
        )
        for stage in bank.stages
    }
    most = max(left_out, key=lambda name: left_out[name])
    return most if left_out[most] or main.last is None else main.last.name


def _factorial(bank: Bank, plans: Sequence[Plan]) -> Found:
    """The largest factorial among the plans, over the seeds that have all of its sets.

    With it, how many sets have finished, of how many, and the runs of each.
    """
    best: Found = None, (0, 0), {}
    for plan in plans:
        all_cells = [cell for cell in bank.cells(plan) if not (cell.typed or cell.ablation.without)]
        cells = {frozenset(cell.ablation.plus): cell for cell in all_cells}
        names = _in_order(frozenset().union(*cells), bank)
        subsets = [
            frozenset(name for i, name in enumerate(names) if members >> i & 1)
            for members in range(2 ** len(names))
        ]
        if len(names) < 2 or set(subsets) != set(cells) or len(cells) < len(all_cells):
            continue
        found = {str(cells[plus]): bank.find(cells[plus]) for plus in subsets}
        losses = [
            {run.record.seed: run.record.results.held_out for run in runs.measurable}
            for runs in found.values()
            if runs and runs.measurable
        ]
        sets = len(losses), len(subsets)
        seeds = sorted(set.intersection(*map(set, losses))) if sets[0] == sets[1] else []
        table = np.array([[each[seed] for each in losses] for seed in seeds])
        factorial = Factorial(names, seeds, table) if seeds else None
        best = max(best, (factorial, sets, found), key=_size)
    return best


def _in_order(entries: Collection[str], bank: Bank) -> list[str]:
    """Steps, and keys of steps, in the order of the ladder."""
    number = {stage.name: i for i, stage in enumerate(bank.stages)}
    return sorted(entries, key=lambda entry: (number.get(Entry.read(entry).step, math.inf), entry))


def _size(found: Found) -> tuple[int, int]:
    factorial, (finished, _), _ = found
    return (factorial.losses.size if factorial else 0), finished


def _context(alone: Pairs, missing: Pairs, rules: ReportConf) -> Estimate | None:
    """What a step changes alone less what it changes when missing, over the seeds of both."""
    by_seed: list[dict[int, float]] = [
        {b.record.seed: b.record.results.held_out - a.record.results.held_out for a, b in pairs}
        for pairs in (alone, missing)
    ]
    seeds = sorted(by_seed[0].keys() & by_seed[1].keys())
    if len(seeds) < rules.minimum_seeds:
        return None
    return mean_difference(np.array([by_seed[0][s] - by_seed[1][s] for s in seeds]), rules)


def _interactions(factorial: Factorial, rules: ReportConf) -> list[Interaction]:
    found = {
        (one, other): mean_difference(factorial.interaction(one, other), rules)
        for one, other in factorial.pairs
    }
    names = factorial.steps
    return [
        Interaction(names[one], names[other], change, p)
        for ((one, other), change), p in zip(
            found.items(), _adjusted(list(found.values()), rules), strict=True
        )
    ]


def _adjusted(estimates: Sequence[Estimate | None], rules: ReportConf) -> list[float]:
    """Holm's p-values of those that have enough seeds; NaN for the others."""
    enough = [e for e in estimates if e and e.n >= rules.minimum_seeds]
    adjusted = dict(zip(map(id, enough), holm([e.p for e in enough]), strict=True))
    return [adjusted.get(id(estimate), math.nan) for estimate in estimates]
