"""What each step is worth: in place, alone, added last, and on average over all orders."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import combinations

import numpy as np
import pandas as pd

from conf.schema import Aim, ReportConf
from reports.arm import Arm
from reports.comparison import Comparison
from reports.ladders import Group
from reports.read import Floats, Row
from reports.statistics import Estimate, holm, mean_difference
from stages.ladder import Stage


class Way(str, Enum):
    """A way to say what a step is worth: the held-out loss with it less the one without it."""

    in_place = "in place"  # on its parent
    alone = "alone"  # on the base
    last = "added last"  # the top stage less the same without the step
    average = "on average"  # its Shapley value, over all orders of the factorial's steps


@dataclass(frozen=True)
class StepWorth:
    """A step by every way that was measured; how many times the tokens a step takes with it."""

    stage: Stage
    ways: dict[Way, Estimate]
    times_the_tokens: float


@dataclass(frozen=True)
class Interaction:
    """What two steps change together beyond the sum of what each does; `p` is Holm's."""

    one: str
    other: str
    change: Estimate
    p: float


@dataclass(frozen=True)
class Worth:
    """What the steps are worth.

    `base` is the stage to which the guide's steps are added, the baseline, or that with most sets
    of those beyond it; `top` the one from which they are left out. Each is empty if there is none.
    `factorial` names the steps of which `seeds` have every set, if any; `sets` says how many have
    finished, of how many. `lost` are the runs without a loss, by what they train.
    """

    steps: list[StepWorth]
    base: str
    top: str
    factorial: list[str]
    seeds: list[int]
    sets: tuple[int, int]
    interactions: list[Interaction]
    lost: dict[str, list[Row]]


def find_worth(main: Group, asked_of: Sequence[Stage], rules: ReportConf) -> Worth | None:
    """What a group's stages and ablations say of these steps; None where there are no ablations."""
    plain = {each.stage: each for each in main.stages if each.is_plain}
    known = {stage.name for stage in asked_of}
    mine = [c for c in main.comparisons if known.issuperset((*c.without, *c.plus))]
    bases = [c.stage for c in mine if c.plus and not c.without]
    if not any(stage.beyond for stage in asked_of):
        bases = [name for name in bases if main.baseline and name == main.baseline.stage]
    base = max(bases, key=lambda name: (bases.count(name), name), default="")
    added = [c for c in mine if c.stage == base and c.plus and not c.without]
    taken = [c for c in mine if len(c.without) == 1 and not c.plus]
    tops = [c.stage for c in taken if c.arm.measurable]
    top = max(tops, key=lambda name: (tops.count(name), name), default="")
    taken = [c for c in taken if c.stage == top]
    alone = {c.plus[0]: c.versus for c in added if len(c.plus) == 1}
    missing = {c.without[0]: c.versus.swapped for c in taken if c.versus.other}
    in_place = {name: each.versus for name, each in plain.items()}
    found = {Way.in_place: in_place, Way.alone: alone, Way.last: missing}
    losses = _factorial(plain[base].arm, added) if base in plain else pd.DataFrame()
    whole = losses.dropna()
    names = list(map(str, whole.columns.names)) if len(whole) else []
    if not names and not any(each.loss for each in (*alone.values(), *missing.values())):
        return None
    steps = []
    for stage in (each for each in asked_of if each.about.aim not in (Aim.flow, Aim.baseline)):
        versus = {way: each[stage.name] for way, each in found.items() if stage.name in each}
        ways = {way: each.loss for way, each in versus.items() if each.loss}
        if stage.name in names:
            ways[Way.average] = mean_difference(effect(whole, stage.name), rules)
        if ways:
            more = max([1.0, *(each.times_the_tokens for each in versus.values())])
            steps.append(StepWorth(stage, ways, more))
    pairs = list(combinations(names, 2))
    changes = [mean_difference(effect(whole, *pair), rules) for pair in pairs]
    p_values = holm([c.p if c.n >= rules.minimum_seeds else math.nan for c in changes])
    together = zip(pairs, changes, p_values, strict=True)
    interactions = [Interaction(*pair, change, p) for pair, change, p in together]
    sets = int(losses.notna().any().sum()), losses.shape[1]
    lost = {c.what: c.arm.lost for c in (*added, *taken) if c.arm.lost}
    return Worth(steps, base, top, names, whole.index.tolist(), sets, interactions, lost)


def _factorial(base: Arm, added: Sequence[Comparison]) -> pd.DataFrame:
    """The losses of the plan with the most finished sets: a row a seed, a column level a step."""
    plans: dict[str, dict[frozenset[str], Arm]] = defaultdict(lambda: {frozenset(): base})
    for each in added:
        for plan in each.plans or [""]:
            plans[plan][frozenset(each.plus)] = each.arm
    tables = [pd.DataFrame()]
    for _, arms in sorted(plans.items()):
        steps = sorted(frozenset[str]().union(*arms))
        if len(steps) < 2 or len(arms) < 2 ** len(steps) / 2:
            continue
        losses = {
            tuple(step in plus for step in steps): {r.seed: r.held_out for r in arm.measurable}
            for plus, arm in arms.items()
        }
        sets = pd.MultiIndex.from_product([[False, True]] * len(steps), names=steps)
        tables.append(pd.DataFrame(losses).reindex(columns=sets).sort_index())
    return max(tables, key=lambda table: table.notna().any().sum())


def effect(losses: pd.DataFrame, *steps: str) -> Floats:
    """A seed's mean change of the loss by a step, or by two beyond the sum of both.

    Over all orders of the steps: of one the Shapley value (Shapley 1953), of two the Shapley
    interaction index (Grabisch and Roubens 1999), which is below zero where both help each other.
    """
    names = losses.columns.names
    changes = losses.to_numpy().reshape(-1, *[2] * len(names))
    for step in steps:
        changes = np.diff(changes, axis=1 + names.index(step))
    others = len(names) - len(steps)
    before = np.indices([2] * others).sum(axis=0).ravel()  # how many steps each set has
    orders = np.array([math.comb(others, k) for k in before]) * (others + 1)
    return changes.reshape(len(losses), -1) @ (1 / orders)
