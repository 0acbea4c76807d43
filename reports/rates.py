"""Each stage at a common learning rate, and at its own best one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from omegaconf import OmegaConf

from conf.schema import ReportConf
from reports.cells import Bank, Cell
from reports.compare import StageRuns
from reports.read import Floats
from reports.statistics import Estimate, mean_difference, mean_over_windows
from runner.record import Run
from stages.arithmetic import Ablation, Ladder
from stages.ladder import CONF
from stages.plans import Plan

RATE = "train.learning_rate"


@dataclass(frozen=True)
class StageRates:
    """A stage at several learning rates, and its differences from the stage below it in the plan.

    `losses` is the mean held-out loss at each of `rates`; `fixed` is the stage's rate on the
    ladder, `best` the one with the lowest loss on every second held-out window, the first among
    them; `at_edge` says whether it is the lowest or highest of the plan. The differences are on
    the other windows. They are None for the lowest stage. `lost` are the runs without a loss, by
    their rate.
    """

    name: str
    title: str
    rates: list[float]
    losses: list[float]
    seeds: int
    fixed: float
    best: float
    below: str = ""
    at_fixed: Estimate | None = None
    at_best: Estimate | None = None
    at_edge: bool = False
    lost: dict[float, list[Run]] = field(default_factory=dict)


def find_rates(bank: Bank, plans: Sequence[Plan], rules: ReportConf) -> list[StageRates]:
    """The stages of the plans that vary the learning rate alone; empty where none has run."""
    cells = {cell: None for plan in plans if RATE in plan.params for cell in bank.cells(plan)}
    grid: dict[str, dict[float, StageRuns]] = {}
    lost: dict[str, dict[float, list[Run]]] = {}
    tried: dict[str, list[float]] = {}
    for cell in filter(_varies_the_rate, cells):
        name, rate, runs = cell.ablation.stage, dict(cell.typed)[RATE], bank.find(cell)
        tried.setdefault(name, []).append(rate)
        if runs and runs.measurable:
            grid.setdefault(name, {})[rate] = runs
        if runs and runs.lost:
            lost.setdefault(name, {})[rate] = runs.lost
    ladder = bank.ladder()
    if bank.by_hand.get(RATE) in {rate for rates in tried.values() for rate in rates}:
        # Typed by the plan: its records alone do not hold the rate that a stage has without it.
        common = OmegaConf.load(CONF / "config.yaml").train.learning_rate
        ladder = Ladder(bank.stages, {**bank.base, RATE: common})
    found: list[StageRates] = []
    reported: dict[str, dict[float, dict[int, Floats]]] = {}
    for stage in bank.stages:
        if len(by_rate := grid.get(stage.name, {})) < 2:
            continue
        fixed = float(ladder.settings(Ablation(stage.name))[RATE])
        halves = {rate: _halves(runs) for rate, runs in by_rate.items()}
        seeds = set.intersection(*(set(half) for half in halves.values()))
        if not seeds:
            continue
        reported[stage.name] = {
            rate: {seed: half[seed][1] for seed in seeds} for rate, half in halves.items()
        }
        chosen = {r: np.mean([half[s][0].mean() for s in seeds]) for r, half in halves.items()}
        best = min(chosen, key=lambda rate: chosen[rate])
        below = next((f for f in reversed(found) if f.name in _below(bank, stage.name)), None)
        at_fixed = at_best = None
        if below:
            ours, theirs = reported[stage.name], reported[below.name]
            at_fixed = _difference(theirs.get(below.fixed), ours.get(fixed), rules)
            at_best = _difference(theirs[below.best], ours[best], rules)
        rates = sorted(by_rate)
        found.append(
            StageRates(
                stage.name,
                stage.about.title,
                rates,
                [by_rate[rate].mean.held_out for rate in rates],
                len(seeds),
                fixed,
                best,
                below.name if below else "",
                at_fixed,
                at_best,
                best in (min(tried[stage.name]), max(tried[stage.name])),
                lost.get(stage.name, {}),
            )
        )
    return found


def _varies_the_rate(cell: Cell) -> bool:
    return cell.ablation.is_plain and [key for key, _ in cell.typed] == [RATE]


def _below(bank: Bank, name: str) -> list[str]:
    return [stage.name for stage in bank.ladder().chain(name)[:-1]]


def _halves(runs: StageRuns) -> dict[int, tuple[Floats, Floats]]:
    """The last held-out losses of each seed: every second window, and the others."""
    return {
        run.record.seed: (losses[::2], losses[1::2])
        for run in runs.measurable
        if len(losses := run.held_out.final) > 1
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
