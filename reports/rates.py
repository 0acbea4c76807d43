"""Each stage at a common learning rate, and at its own best one."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from conf.schema import ReportConf
from reports.arm import Arm
from reports.comparison import Comparison
from reports.ladders import Group
from reports.read import Row
from reports.statistics import Estimate, mean_difference, mean_over_windows
from stages.arithmetic import Ablation, Ladder
from stages.ladder import Stage, flatten

RATE = "train.learning_rate"


@dataclass(frozen=True)
class StageRates:
    """A stage at several learning rates, and its differences from the nearest such stage below it.

    `fixed` is its rate on the ladder, `best` the one of the lowest loss on every second held-out
    window, `at_edge` whether that is the lowest or highest that was tried. The differences are on
    the other windows. `lost` are the runs without a loss, by their rate.
    """

    stage: Stage
    rates: list[float]
    losses: list[float]
    seeds: int
    fixed: float
    best: float
    at_edge: bool
    below: str
    at_fixed: Estimate | None
    at_best: Estimate | None
    lost: dict[float, list[Row]]

    @property
    def turned(self) -> bool:
        """Whether the difference changes its sign, or loses it, at the best rates."""
        both = self.at_fixed, self.at_best
        return len({(each.above, each.below) for each in both if each}) == 2


def find_rates(
    main: Group, found: Sequence[Comparison], ladder: Sequence[Stage], rules: ReportConf
) -> list[StageRates]:
    """The stages at which, under the main ladder's conditions, several rates alone were typed."""
    own = main.stages[0]
    grid: dict[str, dict[float, Arm]] = defaultdict(dict)
    for each in found:
        mine, theirs = (run.conditions | {RATE: None} for run in (own.arm.newest, each.arm.newest))
        same = each.key[:2] == own.key[:2] and each.is_plain and mine == theirs
        if same and isinstance(rate := each.typed.get(RATE), int | float):
            grid[each.stage][float(rate)] = each.arm
    # The scale's rates, since the runs' own may have been typed; older records have none.
    settings = flatten(own.arm.newest.config)
    if (common := settings.get("scale.learning_rate")) is None:
        return []
    untyped = Ladder(ladder, {**settings, RATE: common})
    stages: list[StageRates] = []
    reported: dict[str, pd.DataFrame] = {}
    for stage in ladder:
        tried = dict(sorted(grid[stage.name].items()))
        arms = {rate: arm for rate, arm in tried.items() if arm.measurable}
        if len(arms) < 2:
            continue
        windows = {
            rate: pd.concat(
                {run.seed: pd.Series(arm.records.final_windows(run.run)) for run in arm.measurable}
            )
            for rate, arm in arms.items()
        }
        losses = pd.DataFrame(windows).dropna()  # a row a seed and window that every rate has
        is_other, rates = losses.index.get_level_values(1) % 2 == 1, list(arms)
        if not is_other.any():
            continue
        best = rates[int(losses[~is_other].mean().argmin())]
        fixed = float(untyped.settings(Ablation(stage.name))[RATE])
        kept = losses[is_other].reindex(columns=[fixed, best]).set_axis(["fixed", "best"], axis=1)
        chain = [each.name for each in untyped.chain(stage.name)]
        below = next((name for name in reversed(chain) if name in reported), "")
        changes = kept - reported.get(below, math.nan)
        at_fixed, at_best = (_mean(changes[name].dropna(), rules) for name in ("fixed", "best"))
        means, seeds = [arm.mean("held_out") for arm in arms.values()], len(kept.index.unique(0))
        lost = {rate: arm.lost for rate, arm in tried.items() if arm.lost}
        edge = best in (min(tried), max(tried))
        made = StageRates(
            stage, rates, means, seeds, fixed, best, edge, below, at_fixed, at_best, lost
        )
        stages.append(made)
        reported[stage.name] = kept
    return stages


def _mean(windows: pd.Series, rules: ReportConf) -> Estimate | None:
    """The mean of differences by seed and window over the seeds, or over a single one's windows."""
    seeds = windows.groupby(level=0).mean()
    if len(seeds) > 1:
        return mean_difference(seeds.to_numpy(), rules)
    return mean_over_windows(windows.to_numpy(), rules) if len(seeds) else None
