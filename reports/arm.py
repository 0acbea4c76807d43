"""The runs of one setting, and what they say against those of another."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from conf.schema import ReportConf
from reports.curves import At, Curves, at_equal_tokens
from reports.read import Floats, Records, Row
from reports.speed import SpeedUp, speed_up
from reports.statistics import Estimate, mean_difference, mean_over_windows
from runner.record import Finding, Status

# What repeats of a seed count for.
SPEEDS = ("tokens_per_second", "step_ms", "mfu", "datasheet_mfu")
# A step of more tokens than another's takes at least this many times as many.
MORE_TOKENS = 1.01


class Arm:
    """The runs of one setting under equal conditions.

    `rounds` holds one for each seed and repeat, `runs` one a seed: its lowest repeat that finished,
    else its lowest. `measured` are the finished ones of them, or all where none has finished.
    """

    def __init__(self, rounds: Sequence[Row], records: Records) -> None:
        self.rounds = sorted(rounds, key=lambda run: (run.seed, run.repeat))
        self._records = records
        order = sorted(self.rounds, key=lambda run: (not is_finished(run), run.seed, run.repeat))
        one_a_seed = {run.seed: run for run in reversed(order)}
        self.runs = [one_a_seed[seed] for seed in sorted(one_a_seed)]
        self.finished = [run for run in self.runs if is_finished(run)]
        self.measured = self.finished or self.runs
        self.newest: Row = max(self.measured, key=lambda run: run.started)
        self.status = Status(self.newest.status)
        self.measurable = [run for run in self.finished if math.isfinite(run.held_out)]
        self.lost = [run for run in self.runs if run not in self.measurable]

    @property
    def names(self) -> set[str]:
        return {run.run for run in self.rounds}

    def mean(self, column: str) -> float:
        """The mean of a column over the seeds, or, of a speed, over all finished rounds.

        NaN where no run has a number.
        """
        rounds = [run for run in self.rounds if is_finished(run)] if column in SPEEDS else []
        values = _finite(rounds or self.measured, column)
        return float(np.mean(values)) if values else math.nan

    def spread(self, column: str) -> float:
        """The standard deviation of a column over the seeds; NaN for fewer than two."""
        values = _finite(self.measured, column)
        return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan

    @property
    def curves(self) -> list[pd.DataFrame]:
        """The steps of each measured run that has some."""
        return self.steps_of(self.measured)

    def steps_of(self, runs: Iterable[Row]) -> list[pd.DataFrame]:
        return [self._records.curves[run.run] for run in runs if run.run in self._records.curves]

    @property
    def evaluations(self) -> list[pd.Series]:
        """The mean held-out loss of each evaluation by step, of each measured run."""
        tables = [self._records.evaluations.get(run.run) for run in self.measured]
        return [table.groupby("step")["loss"].mean() for table in tables if table is not None]

    @property
    def not_applied(self) -> dict[str, str]:
        """The techniques that did not act in some run, and why."""
        return {what: why for run in self.runs for what, why in run.not_applied.items()}

    @property
    def notes(self) -> list[str]:
        """What has no effect in some run, or an odd one."""
        return list(dict.fromkeys(note for run in self.runs for note in run.notes))

    @property
    def findings(self) -> dict[str, tuple[int, Finding]]:
        """What went wrong by name, the worst first: in how many runs, and the newest's words."""
        found: dict[str, list[Finding]] = defaultdict(list)
        for finding in (finding for run in self.runs for finding in run.findings):
            found[finding.name].append(finding)
        worst = sorted(found, key=lambda name: found[name][-1].severity.rank, reverse=True)
        return {name: (len(found[name]), found[name][-1]) for name in worst}

    @property
    def statuses(self) -> Counter[str]:
        """How many runs ended how."""
        return Counter(run.status for run in self.runs)

    @property
    def clipped(self) -> tuple[int, int] | None:
        """How many steps had a gradient above the clipping threshold, of how many."""
        over, steps = 0, 0
        for run in self.measured:
            for curve in self.steps_of([run]) if pd.notna(run.clip_grad_norm) else ():
                over += int((curve["grad_norm"] > run.clip_grad_norm).sum())
                steps += len(curve)
        return (over, steps) if steps else None

    def windows(self, run: Row) -> Floats:
        """The losses of a run's last evaluation, in the order of the windows."""
        return self._records.final_windows(run.run)


def is_finished(run: Row) -> bool:
    return run.status == Status.finished


def _finite(runs: Iterable[Row], column: str) -> list[float]:
    values = (getattr(run, column) for run in runs)
    return [float(value) for value in values if pd.notna(value) and math.isfinite(value)]


@dataclass(frozen=True, eq=False)
class Versus:
    """The runs of an arm against those of another, joined by seed, and for speeds by repeat too.

    What is compared is None, or empty, where there is no other arm, as it was never run, where it
    is the same one, and where they have no seed in common. `shared` are the names of runs that
    shared their machine.
    """

    arm: Arm | None
    other: Arm | None
    rules: ReportConf
    shared: Collection[str] = ()

    @cached_property
    def pairs(self) -> list[tuple[Row, Row]]:
        """The runs of the seeds of which both arms have a loss, the other arm's first."""
        if self.arm is None or self.other is None or self.arm is self.other:
            return []
        by_seed = {run.seed: run for run in self.other.measurable}
        return [(by_seed[r.seed], r) for r in self.arm.measurable if r.seed in by_seed]

    @cached_property
    def loss(self) -> Estimate | None:
        """The difference in held-out loss over seeds; of one seed over its windows, if it can."""
        if not (self.arm and self.other and self.pairs):
            return None
        values = np.array([after.held_out - before.held_out for before, after in self.pairs])
        if len(values) > 1:
            return mean_difference(values, self.rules)
        (before, after), *_ = self.pairs
        first, second = self.other.windows(before), self.arm.windows(after)
        if len(first) and len(first) == len(second):
            return mean_over_windows(second - first, self.rules)
        return Estimate(float(values[0]))

    @cached_property
    def speed(self) -> SpeedUp | None:
        """The speed-up over the rounds that both arms have finished."""
        if self.arm is None or self.other is None or self.arm is self.other:
            return None
        before, after = (filter(is_finished, arm.rounds) for arm in (self.other, self.arm))
        return speed_up([*before], [*after], self.shared, self.rules)

    @cached_property
    def curves(self) -> Curves:
        """The steps of each pair of runs of which both have some."""
        if not (self.arm and self.other and self.pairs):
            return []
        found = [(self.other.steps_of([a]), self.arm.steps_of([b])) for a, b in self.pairs]
        return [(before[0], after[0]) for before, after in found if before and after]

    @cached_property
    def at_tokens(self) -> At | None:
        """The difference in training loss where both have seen as many tokens."""
        return at_equal_tokens(self.curves, self.rules)

    @property
    def times_the_tokens(self) -> float:
        """How many times as many tokens a step takes."""
        if not self.pairs:
            return 1.0
        before, after = self.pairs[0]
        return float(after.tokens_per_step / before.tokens_per_step)

    @property
    def takes_more(self) -> bool:
        return self.times_the_tokens > MORE_TOKENS
