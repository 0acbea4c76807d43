"""Arms of runs that other scripts logged, and what they say against the first of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from conf.errors import UsageError
from conf.schema import LogsConf
from reports.logs.formats import MEASURES
from reports.logs.read import Log, Reading, files_of, read_logs
from reports.read import Floats
from reports.statistics import (
    Estimate,
    Sample,
    difference_of_means,
    mean_difference,
    p_below,
    seeds_to_decide,
)
from reports.verdicts import Outcome, Reason, correct_family, decide

UNKNOWN = Estimate(math.nan, n=0)


@dataclass(frozen=True)
class Result:
    """An arm: its means, and its means less the first arm's, the loss with Holm's p-value.

    `runs` are in the means, `lost` diverged or did not reach their end. `passed` end at the target
    or below; `first_step` and `first_seconds` are where they were first seen there, on average.
    """

    arm: str
    runs: int
    lost: int
    fewest_steps: float
    most_steps: float
    loss: Estimate
    seconds: Estimate
    loss_difference: Estimate
    seconds_difference: Estimate
    passed: int | None
    p_target: float
    first_step: float
    first_seconds: float
    p_improvement: float
    outcome: Outcome | None = None
    reason: Reason | None = None
    runs_needed: int | None = None


class Logs:
    """Logs of several arms, as frames of `runs`, `steps` and `evaluations`, and their `results`.

    Runs have a loss by `measure`, and are joined by seed if `paired`, as records of ours always
    are. `problems` has a sentence for each file that could not be read, or only in part.
    """

    def __init__(
        self,
        places: Mapping[str, Sequence[str | Path]],
        rules: LogsConf,
        how: Reading,
        unfinished: bool = False,
    ) -> None:
        """Read and compare the arms; with `unfinished` such runs count too. Raises UsageError."""
        self.rules, self.problems = rules, list[str]()
        logs: dict[str, list[Log]] = {}
        owners: dict[Path, str] = {}
        for arm in places:
            files = dict.fromkeys(file for place in places[arm] for file in files_of(arm, place))
            for file in files:
                if (other := owners.setdefault(file.resolve(), arm)) != arm:
                    self.problems.append(f"{file} is in two arms, {other} and {arm}.")
            logs[arm] = read_logs(arm, [*files], how, self.problems)
            if not logs[arm]:
                raise UsageError(f"The arm {arm} has no run that can be read. {self.problems[-1]}")
        pairs = [(arm, log) for arm, each in logs.items() for log in each]
        self.paired = how.seeds or all(log.is_ours for _, log in pairs)
        if self.paired and (unknown := [log.run for _, log in pairs if log.seed is None]):
            where = "in the file's name (seed1337) or in the log (seed: 1337)"
            raise UsageError(f"{unknown[0]} has no seed to be paired by, {where}.")
        self.measure = _common_measure(logs)
        self.runs = _runs(pairs, self.measure, unfinished)
        points = [log.points.reset_index().assign(arm=arm, run=log.run) for arm, log in pairs]
        table = pd.concat(points, ignore_index=True)
        self.steps, self.evaluations = (
            table[["arm", "run", "step", "seconds"]].assign(loss=table[name])[table[name].notna()]
            for name in ("loss", self.measure)
        )
        counted = self.runs[self.runs["status"] == "finished"]
        # Two runs of ours with one seed have the same draws.
        same = counted.duplicated(["arm", "seed"]) & counted["seed"].notna() & self.paired
        self.counted = {arm: counted[(counted["arm"] == arm) & ~same] for arm in logs}
        self.results = self._decided([self._result(arm) for arm in logs])

    @property
    def has_times(self) -> bool:
        return bool(self.runs["seconds"].notna().any())

    def _result(self, arm: str) -> Result:
        counted, target, improvement = self.counted[arm], *self._questions()
        runs, seen = self.runs[self.runs["arm"] == arm], self.evaluations
        there = seen[(seen["arm"] == arm) & (seen["loss"] <= target)]
        first = there[there["run"].isin(counted["run"])].groupby("run").first()
        return Result(
            arm=arm,
            runs=len(counted),
            lost=int((runs["status"] != "finished").sum()),
            fewest_steps=runs["steps"].min(),
            most_steps=runs["steps"].max(),
            loss=self._mean(arm, "loss"),
            seconds=self._mean(arm, "seconds"),
            loss_difference=self._difference(arm, "loss"),
            seconds_difference=self._difference(arm, "seconds"),
            passed=None if math.isnan(target) else int((counted["loss"] <= target).sum()),
            p_target=p_below(self._mean(arm, "loss", target)),
            first_step=first["step"].mean(),
            first_seconds=first["seconds"].mean(),
            p_improvement=p_below(self._difference(arm, "loss", improvement)),
        )

    def _questions(self) -> tuple[float, float]:
        """The target and the improvement; NaN for none, which every answer is then."""
        asked = self.rules.target, self.rules.improvement
        target, improvement = (math.nan if each is None else each for each in asked)
        return target, improvement

    def _values(self, arm: str, column: str) -> pd.Series[float]:
        return self.counted[arm].set_index("seed" if self.paired else "run")[column].dropna()

    def _mean(self, arm: str, column: str, less: float = 0) -> Estimate:
        values = _floats(self._values(arm, column)) - less
        return mean_difference(values, self.rules, Sample.runs) if len(values) else UNKNOWN

    def _difference(self, arm: str, column: str, more: float = 0) -> Estimate:
        """Its mean, and `more`, less the first arm's."""
        first, *_ = self.counted
        before, after = (self._values(each, column) for each in (first, arm))
        pairs = _floats((after - before).dropna())
        if arm == first or before.empty or after.empty or (self.paired and not len(pairs)):
            return UNKNOWN
        if self.paired:
            return mean_difference(pairs + more, self.rules)
        return difference_of_means(_floats(before), _floats(after) + more, self.rules)

    def _decided(self, found: Sequence[Result]) -> list[Result]:
        """The results, of which the differences in loss are one family of tests."""
        tests = {each.arm: each.loss_difference for each in found if each.loss_difference.p >= 0}
        corrected = dict(zip(tests, correct_family([*tests.values()]), strict=True))
        decided = []
        for each in found:
            loss = corrected.get(each.arm, each.loss_difference)
            if loss.n:
                lost = found[0].lost > 0, each.lost > 0
                outcome, reason = decide(loss, lost, self.rules)
                undecided = reason in (Reason.few, Reason.spread) and loss.known
                needed = seeds_to_decide(loss, len(tests), self.rules) if undecided else None
                each = replace(each, outcome=outcome, reason=reason, runs_needed=needed)
            decided.append(replace(each, loss_difference=loss))
        return decided


def _floats(values: pd.Series[float]) -> Floats:
    return np.asarray(values, np.float64)


def _common_measure(logs: Mapping[str, Sequence[Log]]) -> str:
    """The first kind of loss that every arm has."""
    for measure in MEASURES:
        if all(any(not math.isnan(log.score(measure)) for log in arm) for arm in logs.values()):
            return measure
    raise UsageError(
        f"The arms {', '.join(logs)} have no kind of loss in common, such as nats/token or "
        "bits/byte; --score says which number is a run's loss."
    )


def _runs(logs: Sequence[tuple[str, Log]], measure: str, unfinished: bool) -> pd.DataFrame:
    """A row a run, with its `status`: finished, diverged or unfinished.

    A run has finished if it reached its planned end, or without a plan that of the longest of its
    arm; and was evaluated there, or has a final line, where others of its arm are or do. So has a
    run that says why it stopped.
    """
    runs = pd.DataFrame([
        {
            "arm": arm, "run": log.run, "seed": log.seed, "steps": log.last,
            "steps_planned": log.planned, "loss": log.score(measure), "seconds": log.seconds,
            "last_loss": log.score("loss"), "seen": log.seen(measure), "stopped": log.stopped,
            "has_final": measure in log.final,
        }
        for arm, log in logs
    ])  # fmt: skip
    ends = runs[["steps", "seen"]].where(~runs["stopped"])
    alike = ends.groupby([runs["arm"], runs["steps_planned"]]).transform("max")
    end = (runs["steps_planned"] - 1).where(runs["steps_planned"] > 0, alike["steps"])
    reached = runs["stopped"] | ((runs["steps"] >= end) & (runs["seen"] >= alike["seen"]))
    whole = runs["has_final"] | (reached & ~runs.groupby("arm")["has_final"].transform("any"))
    diverged = np.isinf(runs["loss"]) | np.isinf(runs["last_loss"])
    finished = runs["loss"].notna() & (whole | unfinished)
    runs["status"] = np.select([diverged, finished], ["diverged", "finished"], "unfinished")
    return runs.drop(columns=["last_loss", "seen", "stopped", "has_final"])
