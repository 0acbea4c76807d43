"""The runs of one setting, and what they say against those of another."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from conf.schema import ReportConf
from reports.curves import At, Curves, at_equal_tokens
from reports.read import Floats, Records, Row
from reports.speed import SpeedUp, speed_up
from reports.statistics import Estimate, mean_difference, mean_over_windows
from runner.observations import Finding
from runner.record import Status

# What repeats of a seed count for.
SPEEDS = ("tokens_per_second", "step_ms", "mfu", "datasheet_mfu")
# A step of more tokens than another's takes at least this many times as many.
MORE_TOKENS = 1.01


class Arm:
    """The runs of one setting under equal conditions.

    `rounds` holds one for each seed and repeat, `runs` one a seed: its lowest repeat that finished,
    else its lowest. `measured` are the finished ones of them, or all where none has finished.
    `not_applied` says why techniques did not act, `notes` what has no or an unexpected effect.
    """

    def __init__(self, rounds: Sequence[Row], records: Records) -> None:
        self.records = records
        self.rounds = sorted(rounds, key=lambda run: (run.seed, run.repeat))
        best_last = [*reversed(self.rounds), *filter(is_finished, reversed(self.rounds))]
        by_seed = {run.seed: run for run in best_last}
        self.runs = [by_seed[seed] for seed in sorted(by_seed)]
        self.finished = list(filter(is_finished, self.runs))
        self.measured = self.finished or self.runs
        self.newest: Row = max(self.measured, key=lambda run: run.started)
        self.status = Status(self.newest.status)
        self.measurable = [run for run in self.finished if math.isfinite(run.held_out)]
        self.lost = [run for run in self.runs if run not in self.measurable]
        self.names = {run.run for run in self.rounds}
        self.statuses = Counter(run.status for run in self.runs)
        self.not_applied = {what: why for run in self.runs for what, why in run.not_applied.items()}
        self.notes = list(dict.fromkeys(note for run in self.runs for note in run.notes))

    def mean(self, column: str) -> float:
        """The mean of a column over the seeds, or, of a speed, over all finished rounds."""
        values = self._finite(column)
        return float(np.mean(values)) if len(values) else math.nan

    def spread(self, column: str) -> float:
        """The standard deviation of the same; NaN, as a mean of nothing, for fewer than two."""
        values = self._finite(column)
        return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan

    def _finite(self, column: str) -> Floats:
        rounds = filter(is_finished, self.rounds if column in SPEEDS else ())
        values = np.array([getattr(run, column) for run in [*rounds] or self.measured], float)
        return values[np.isfinite(values)]

    @property
    def curves(self) -> list[pd.DataFrame]:
        """The steps of each measured run that has some."""
        steps = self.records.curves
        return [steps[run.run] for run in self.measured if run.run in steps]

    @property
    def evaluations(self) -> list[pd.Series]:
        """The mean held-out loss of each evaluation by step, of each measured run."""
        windows = self.records.evaluations
        found = [windows[run.run] for run in self.measured if run.run in windows]
        return [table.groupby("step")["loss"].mean() for table in found]

    @property
    def findings(self) -> dict[str, tuple[int, Finding]]:
        """What went wrong by name, the worst first: in how many runs, and the last one's words."""
        found = [finding for run in self.runs for finding in run.findings]
        times, last = Counter(each.name for each in found), {each.name: each for each in found}
        worst = sorted(last.values(), key=lambda each: each.severity.rank, reverse=True)
        return {each.name: (times[each.name], each) for each in worst}

    @property
    def clipped(self) -> tuple[int, int] | None:
        """How many steps had a gradient above the clipping threshold, of how many."""
        curves, over = self.records.curves, []
        for run in self.measured:
            if run.run in curves and pd.notna(run.clip_grad_norm):
                over += (curves[run.run]["grad_norm"] > run.clip_grad_norm).tolist()
        return (sum(over), len(over)) if over else None


def is_finished(run: Row) -> bool:
    return run.status == Status.finished


@dataclass(frozen=True, eq=False)
class Versus:
    """The runs of an arm against those of another, joined by seed, and for speeds by repeat too.

    All is None, or empty, where the other was never run, or is the same, and where they have no
    seed in common. `shared` are the names of runs that shared their machine.
    """

    arm: Arm
    other: Arm | None
    rules: ReportConf
    shared: Collection[str] = ()

    @property
    def swapped(self) -> Versus:
        """The other arm's runs against this one's, where there is another."""
        return replace(self, arm=self.other, other=self.arm) if self.other else self

    @cached_property
    def pairs(self) -> list[tuple[Row, Row]]:
        """The runs of the seeds of which both arms have a loss, the other arm's first."""
        if self.other is None or self.arm is self.other:
            return []
        by_seed = {run.seed: run for run in self.other.measurable}
        return [(by_seed[r.seed], r) for r in self.arm.measurable if r.seed in by_seed]

    @cached_property
    def loss(self) -> Estimate | None:
        """The difference in held-out loss over seeds; of one seed over its windows, if it can."""
        values = np.array([after.held_out - before.held_out for before, after in self.pairs])
        if len(values) != 1:
            return mean_difference(values, self.rules) if len(values) else None
        before, after = (self.arm.records.final_windows(run.run) for run in self.pairs[0])
        if 0 < len(before) == len(after):
            return mean_over_windows(after - before, self.rules)
        return Estimate(float(values[0]))

    @cached_property
    def speed(self) -> SpeedUp | None:
        """The speed-up over the rounds that both arms have finished."""
        if self.other is None or self.arm is self.other:
            return None
        before, after = (filter(is_finished, arm.rounds) for arm in (self.other, self.arm))
        return speed_up([*before], [*after], self.shared, self.rules)

    @cached_property
    def curves(self) -> Curves:
        """The steps of each pair of runs of which both have some."""
        steps = self.arm.records.curves
        names = [(before.run, after.run) for before, after in self.pairs]
        return [(steps[a], steps[b]) for a, b in names if a in steps and b in steps]

    @cached_property
    def at_tokens(self) -> At | None:
        """The difference in training loss where both have seen as many tokens."""
        return at_equal_tokens(self.curves, self.rules)

    @property
    def times_the_tokens(self) -> float:
        """How many times as many tokens a step takes."""
        more = [after.tokens_per_step / before.tokens_per_step for before, after in self.pairs]
        return float(more[0]) if more else 1.0

    @property
    def takes_more(self) -> bool:
        return self.times_the_tokens > MORE_TOKENS
