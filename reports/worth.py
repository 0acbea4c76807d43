"""What each step is worth: in place, alone, when missing, and on average over all orders."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import combinations
from math import factorial

import numpy as np

from conf.schema import Aim, ReportConf
from reports.arm import Arm, Versus
from reports.compare import Comparison
from reports.ladders import Group
from reports.read import Floats, Row
from reports.statistics import Estimate, holm, mean_difference
from stages.ladder import Stage


@dataclass(frozen=True)
class Factorial:
    """The held-out losses of all sets of n steps, in nats/token, for some seeds.

    `losses` has a row a seed and 2^n columns: column m is the set whose steps are the bits of m.
    """

    steps: list[str]
    seeds: list[int]
    losses: Floats

    def effect(self, *steps: int) -> Floats:
        """A seed's mean change of the loss by a step, or by two beyond the sum of both.

        Over all orders of the steps: of one the Shapley value (Shapley 1953), of two the Shapley
        interaction index (Grabisch and Roubens 1999). An interaction below zero helps; one above
        zero says that the two do the same work, or harm each other.
        """
        n, size, found = len(self.steps), len(steps), np.zeros(len(self.seeds))
        for before in range(2**n):
            k = before.bit_count()
            if any(before >> step & 1 for step in steps):
                continue
            weight = factorial(k) * factorial(n - k - size) / factorial(n - size + 1)
            for chosen in range(2**size):
                with_them = sum(1 << step for i, step in enumerate(steps) if chosen >> i & 1)
                sign = (-1) ** (size - chosen.bit_count())
                found += weight * sign * self.losses[:, before | with_them]
        return found


class Way(str, Enum):
    """A way to say what a step is worth: the held-out loss with it less the one without it."""

    in_place = "in place"  # on the stage that it stands on
    alone = "alone"  # on the baseline
    missing = "when missing"  # the top stage, less the same without the step
    average = "on average"  # its Shapley value, over all orders of the factorial's steps


@dataclass(frozen=True)
class StepWorth:
    """A step by every way that was measured.

    `p` is Holm's adjusted p-value of its change alone less its change when missing, seed by seed:
    whether what it is worth depends on the other steps. `times_the_tokens` is how many times as
    many tokens a step takes with it.
    """

    stage: Stage
    ways: dict[Way, Estimate]
    times_the_tokens: float
    p: float = math.nan


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

    `factorial` is None, and `interactions` empty, where no seed has every set of steps; `sets` says
    how many sets have finished, of how many. `lost` are the runs without a loss, by what they
    train.
    """

    steps: list[StepWorth]
    baseline: str
    top: str
    factorial: Factorial | None
    sets: tuple[int, int]
    interactions: list[Interaction]
    lost: dict[str, list[Row]]


def find_worth(main: Group, ladder: Sequence[Stage], rules: ReportConf) -> Worth | None:
    """What the stages and the ablations of a group say; None where there are no ablations."""
    plain = {each.stage: each for each in main.stages if each.is_plain}
    lowest = next((name for name, each in plain.items() if each.aim is Aim.baseline), "")
    added = [c for c in main.comparisons if c.stage == lowest and c.plus and not c.without]
    taken = [c for c in main.comparisons if len(c.without) == 1 and not c.plus]
    tops = Counter(c.stage for c in taken if c.arm.measurable)
    top = max(tops, key=lambda name: (tops[name], name), default="")
    alone = {c.plus[0]: c for c in added if len(c.plus) == 1}
    missing = {c.without[0]: c for c in taken if c.stage == top}
    base = plain.get(lowest)
    complete, sets = _factorial(base.arm, added) if base else (None, (0, 0))
    losses = [c.versus.loss for c in (*alone.values(), *missing.values())]
    if not any(losses) and complete is None:
        return None
    steps, contexts = [], []
    for stage in ladder:
        name = stage.name
        if stage.about.aim in (Aim.flow, Aim.baseline):
            continue
        mine, with_it, without_it = (
            found[name].versus if name in found else Versus(None, None, rules)
            for found in (plain, alone, missing)
        )
        ways: dict[Way, Estimate] = {}
        if mine.loss:
            ways[Way.in_place] = mine.loss
        if with_it.loss:
            ways[Way.alone] = with_it.loss
        if without_it.loss:
            ways[Way.missing] = without_it.loss.flipped
        if complete and name in complete.steps:
            values = complete.effect(complete.steps.index(name))
            ways[Way.average] = mean_difference(values, rules)
        if ways:
            more = mine.times_the_tokens, with_it.times_the_tokens, 1 / without_it.times_the_tokens
            steps.append(StepWorth(stage, ways, max(more)))
            contexts.append(_context(with_it, without_it, rules))
    adjusted = zip(steps, _adjusted(contexts, rules), strict=True)
    return Worth(
        [replace(step, p=p) for step, p in adjusted],
        lowest,
        top,
        complete,
        sets,
        _interactions(complete, rules) if complete else [],
        {c.what: c.arm.lost for c in (*added, *missing.values()) if c.arm.lost},
    )


def _factorial(base: Arm, added: Sequence[Comparison]) -> tuple[Factorial | None, tuple[int, int]]:
    """The largest plan of every set of some steps, over the seeds that have all of its sets.

    With it, how many sets have finished, of how many.
    """
    best: tuple[Factorial | None, tuple[int, int]] = None, (0, 0)
    for plan in sorted({plan for each in added for plan in each.plans} | {""}):
        arms = {
            frozenset(each.plus): each.arm
            for each in added
            if (plan in each.plans if plan else not each.plans)
        }
        arms[frozenset()] = base
        steps = sorted(frozenset[str]().union(*arms))
        members = [
            frozenset(name for i, name in enumerate(steps) if column >> i & 1)
            for column in range(2 ** len(steps))
        ]
        if len(steps) < 2 or not arms.keys() <= set(members) or len(arms) < len(members) / 2:
            continue
        losses = [
            {run.seed: run.held_out for run in arms[each].measurable} if each in arms else {}
            for each in members
        ]
        sets = sum(map(bool, losses)), len(members)
        seeds = sorted(set.intersection(*map(set, losses)))
        table = np.array([[each[seed] for each in losses] for seed in seeds])
        whole = Factorial(steps, seeds, table) if seeds else None
        if sets[0] > best[1][0]:
            best = whole, sets
    return best


def _context(alone: Versus, missing: Versus, rules: ReportConf) -> Estimate | None:
    """What a step changes alone less what it changes when missing, over the seeds of both."""
    ours, theirs = (
        {before.seed: after.held_out - before.held_out for before, after in versus.pairs}
        for versus in (alone, missing)
    )
    seeds = sorted(ours.keys() & theirs.keys())
    if len(seeds) < rules.minimum_seeds:
        return None
    return mean_difference(np.array([ours[s] + theirs[s] for s in seeds]), rules)


def _interactions(whole: Factorial, rules: ReportConf) -> list[Interaction]:
    found: Mapping[tuple[int, int], Estimate] = {
        (one, other): mean_difference(whole.effect(one, other), rules)
        for one, other in combinations(range(len(whole.steps)), 2)
    }
    p_values = _adjusted(list(found.values()), rules)
    return [
        Interaction(whole.steps[one], whole.steps[other], change, p)
        for ((one, other), change), p in zip(found.items(), p_values, strict=True)
    ]


def _adjusted(estimates: Sequence[Estimate | None], rules: ReportConf) -> list[float]:
    """Holm's p-values of those that have enough seeds; NaN for the others."""
    enough = [e for e in estimates if e and e.n >= rules.minimum_seeds]
    adjusted = dict(zip(map(id, enough), holm([e.p for e in enough]), strict=True))
    return [adjusted.get(id(estimate), math.nan) for estimate in estimates]
