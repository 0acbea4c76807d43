"""Each stage at a common learning rate, and at its own best one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from conf.schema import ReportConf
from reports.arm import Arm
from reports.compare import Comparison
from reports.ladders import Group
from reports.read import Floats, Row
from reports.statistics import Estimate, mean_difference, mean_over_windows
from stages.arithmetic import Ablation, Ladder
from stages.ladder import CONF, Stage, flatten

RATE = "train.learning_rate"

Halves = dict[int, tuple[Floats, Floats]]  # by seed: every second held-out window, and the others


@dataclass(frozen=True)
class StageRates:
    """A stage at several learning rates, and its differences from the nearest such stage below it.

    `losses` is the mean held-out loss at each of `rates`; `fixed` is the stage's rate on the
    ladder, `best` the one with the lowest loss on every second held-out window, the first among
    them; `at_edge` says whether it is the lowest or highest that was tried. The differences are on
    the other windows. They are None for the lowest stage. `lost` are the runs without a loss, by
    their rate.
    """

    stage: Stage
    rates: list[float]
    losses: list[float]
    seeds: int
    fixed: float
    best: float
    at_edge: bool
    below: str = ""
    at_fixed: Estimate | None = None
    at_best: Estimate | None = None
    lost: dict[float, list[Row]] = field(default_factory=dict)


def find_rates(
    main: Group, found: Sequence[Comparison], ladder: Sequence[Stage], rules: ReportConf
) -> list[StageRates]:
    """The stages at which the learning rate alone was typed, several times; empty for none.

    Under the conditions of the main ladder, and with its other settings.
    """
    own = main.stages[0]
    grid: dict[str, dict[float, Arm]] = defaultdict(dict)
    for each in found:
        same = each.key[:2] == own.key[:2] and _shared(each) == _shared(own)
        rate = each.typed.get(RATE)
        if same and each.is_plain and isinstance(rate, int | float):
            grid[each.stage][float(rate)] = each.arm
    # No rate is typed here: a record of a typed one does not hold that of the configuration.
    common = OmegaConf.load(CONF / "config.yaml").train.learning_rate
    untyped = Ladder(ladder, {**flatten(own.arm.newest.config), RATE: common})
    stages: list[StageRates] = []
    reported: dict[str, dict[float, dict[int, Floats]]] = {}
    for stage in ladder:
        tried = grid.get(stage.name, {})
        arms = {rate: arm for rate, arm in sorted(tried.items()) if arm.measurable}
        halves = {rate: _halves(arm) for rate, arm in arms.items()}
        seeds = set.intersection(*map(set, halves.values())) if len(arms) > 1 else set()
        if not seeds:
            continue
        kept = reported[stage.name] = {
            rate: {seed: half[seed][1] for seed in seeds} for rate, half in halves.items()
        }
        chosen = {r: np.mean([half[s][0].mean() for s in seeds]) for r, half in halves.items()}
        best = min(chosen, key=lambda rate: chosen[rate])
        fixed = float(untyped.settings(Ablation(stage.name))[RATE])
        chain = [each.name for each in untyped.chain(stage.name)[:-1]]
        below = next((f for f in reversed(stages) if f.stage.name in chain), None)
        at_fixed = at_best = None
        if below:
            theirs = reported[below.stage.name]
            at_fixed = _difference(theirs.get(below.fixed), kept.get(fixed), rules)
            at_best = _difference(theirs[below.best], kept[best], rules)
        stages.append(
            StageRates(
                stage,
                list(arms),
                [arm.mean("held_out") for arm in arms.values()],
                len(seeds),
                fixed,
                best,
                best in (min(tried), max(tried)),
                below.stage.name if below else "",
                at_fixed,
                at_best,
                {rate: arm.lost for rate, arm in sorted(tried.items()) if arm.lost},
            )
        )
    return stages


def _shared(found: Comparison) -> dict[str, Any]:
    """The settings that all stages share, without the rate."""
    return {key: v for key, v in found.arm.newest.conditions.items() if key != RATE}


def _halves(arm: Arm) -> Halves:
    return {
        run.seed: (losses[::2], losses[1::2])
        for run in arm.measurable
        if len(losses := arm.windows(run)) > 1
    }


def _difference(
    before: dict[int, Floats] | None, after: dict[int, Floats] | None, rules: ReportConf
) -> Estimate | None:
    """The mean difference over the seeds that both have; over the windows of a single one."""
    if before is None or after is None:
        return None
    seeds = sorted(before.keys() & after.keys())
    differences = [after[s] - before[s] for s in seeds if len(before[s]) == len(after[s])]
    if not differences:
        return None
    if len(differences) == 1:
        return mean_over_windows(differences[0], rules)
    return mean_difference(np.array([each.mean() for each in differences]), rules)
