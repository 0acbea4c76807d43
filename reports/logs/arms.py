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
from reports.logs.read import OURS, Log, Reading, files_of, read_logs
from reports.read import Floats
from reports.statistics import (
    Estimate,
    Sample,
    difference_of_means,
    mean_difference,
    p_below,
)
from reports.verdicts import Outcome, Reason, correct_family, decide_or_need

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
    are. `problems` has a sentence for each file that could not be read, or only in part. `target`
    and `improvement` are NaN where they are not asked for, and so is every answer.
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
        asked = rules.target, rules.improvement
        self.target, self.improvement = (math.nan if each is None else each for each in asked)
        logs: dict[str, list[Log]] = {}
        owners: dict[Path, str] = {}
        for arm in places:
            named = [file for place in places[arm] for file in files_of(arm, place)]
            files = {file.resolve(): file for file in named}
            for path, file in files.items():
                if (other := owners.setdefault(path, arm)) != arm:
                    self.problems.append(f"{file} is in two arms, {other} and {arm}.")
            logs[arm] = read_logs(arm, [*files.values()], how, self.problems)
            if not logs[arm]:
                said = " ".join(self.problems[-1:])
                raise UsageError(f"The arm {arm} has no run that can be read. {said}")
        if not logs:
            raise UsageError("There is no arm; give one as a name and a folder.")
        pairs = [(arm, log) for arm, each in logs.items() for log in each]
        self.paired = how.seeds or all(log.kind == OURS for _, log in pairs)
        if self.paired and (unknown := [log.run for _, log in pairs if log.seed is None]):
            where = "in the file's name (seed1337) or in the log (seed: 1337)"
            raise UsageError(f"{unknown[0]} has no seed to be paired by, {where}.")
        self.measure = _common_measure(logs, how.measures)
        self.runs = _runs(pairs, self.measure)
        ends = {arm: any(self.measure in log.final for log in each) for arm, each in logs.items()}
        if len({*ends.values()}) > 1 and not any(log.kind == OURS for _, log in pairs):
            with_one = ", ".join(arm for arm, has_final in ends.items() if has_final)
            said = f"Only {with_one} has a final line; the others are scored by a last evaluation"
            self.problems.append(f"{said}: --score can find the same in all.")
        points = [log.points.reset_index().assign(arm=arm, run=log.run) for arm, log in pairs]
        table = pd.concat(points, ignore_index=True)
        self.steps, self.evaluations = (
            table[["arm", "run", "step", "seconds"]].assign(loss=table[name])[table[name].notna()]
            for name in ("loss", self.measure)
        )
        kept = ["finished", "unfinished"] if unfinished else ["finished"]
        self.runs["counts"] = self.runs["status"].isin(kept) & self.runs["loss"].notna()
        in_arms = {arm: self.runs[self.runs["arm"] == arm] for arm in logs}
        self.counted = {arm: runs[runs["counts"]] for arm, runs in in_arms.items()}
        for arm, runs in self.counted.items():
            has_draws = self.paired or logs[arm][0].kind == OURS
            if has_draws and len(again := runs[runs.duplicated("seed")]):
                said = f"{arm} has several runs of a seed, with the same draws: the first counts"
                self.problems.append(f"{said}, and {again['run'].iloc[0]} does not.")
                self.counted[arm] = runs.drop_duplicates("seed")
        self.results = self._decided([self._result(arm) for arm in logs])

    @property
    def has_times(self) -> bool:
        return bool(self.runs["seconds"].notna().any())

    def _result(self, arm: str) -> Result:
        counted, target, improvement = self.counted[arm], self.target, self.improvement
        runs, seen = self.runs[self.runs["arm"] == arm], self.evaluations
        is_there = (seen["loss"] <= target) & (self.measure != "loss")
        there = seen[(seen["arm"] == arm) & is_there]
        first = there[there["run"].isin(counted["run"])].groupby("run").first()
        # A mean without its lost runs is too low to be called low.
        lost = int((~runs["counts"]).sum())
        return Result(
            arm=arm,
            runs=len(counted),
            lost=lost,
            fewest_steps=float(runs["steps"].min()),
            most_steps=float(runs["steps"].max()),
            loss=self._mean(arm, "loss"),
            seconds=self._mean(arm, "seconds"),
            loss_difference=self._difference(arm, "loss"),
            seconds_difference=self._difference(arm, "seconds"),
            passed=None if math.isnan(target) else int((counted["loss"] <= target).sum()),
            p_target=math.nan if lost else p_below(self._mean(arm, "loss", target)),
            first_step=first["step"].mean(),
            first_seconds=first["seconds"].mean(),
            p_improvement=math.nan if lost else p_below(self._difference(arm, "loss", improvement)),
        )

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
                outcome, reason, needed = decide_or_need(loss, lost, len(tests), self.rules)
                each = replace(each, outcome=outcome, reason=reason, runs_needed=needed)
            decided.append(replace(each, loss_difference=loss))
        return decided


def _floats(values: pd.Series[float]) -> Floats:
    return np.asarray(values, np.float64)


def _common_measure(logs: Mapping[str, Sequence[Log]], measures: Sequence[str]) -> str:
    """The first kind of loss that every arm has.

    Where only some have bits/byte there is none: their tokens differ, and so do training losses.
    """
    for measure in measures:
        having = [any(not math.isnan(log.score(measure)) for log in arm) for arm in logs.values()]
        if all(having):
            return measure
        if any(having) and measure != "held_out":
            break
    raise UsageError(
        f"The arms {', '.join(logs)} have no kind of loss in common; --score says which number is "
        f"a run's loss, by a regular expression or as one of {', '.join(MEASURES[1:])}."
    )


def _runs(logs: Sequence[tuple[str, Log]], measure: str) -> pd.DataFrame:
    """A row a run, with its `status`: finished, diverged or unfinished.

    A run has finished if it reached its planned end, or without a plan that of the longest of its
    arm; and was evaluated there, or has a final line, where others of its arm are or do. So has a
    run that says why it stopped.
    """
    runs = pd.DataFrame([
        {
            "arm": arm, "run": log.run, "seed": log.seed, "steps": log.points.index.max(),
            "steps_planned": log.points["planned"].max(), "loss": log.score(measure),
            "seconds": log.points["seconds"].max(),
        }
        for arm, log in logs
    ])  # fmt: skip
    evaluated = pd.Series([log.points[measure].last_valid_index() for _, log in logs], dtype=float)
    stopped = pd.Series([log.stopped for _, log in logs])
    final = pd.Series([measure in log.final for _, log in logs])
    losses = pd.Series([log.points["loss"].ffill().iloc[-1] for _, log in logs])
    # What is said of the longest holds for those that did not say why they stopped.
    alike = [runs["arm"], runs["steps_planned"].fillna(0)]
    longest, latest = (
        each.where(~stopped).groupby(alike).transform("max") for each in (runs["steps"], evaluated)
    )
    # Some scripts count to the last step, and some to the one before.
    end = runs["steps_planned"].where(longest >= runs["steps_planned"], runs["steps_planned"] - 1)
    # A script that logs its plan evaluates at the end of it.
    is_log = np.array([log.kind == "logs" for _, log in logs])
    latest = latest.where(~is_log | (measure == "loss"), end.fillna(latest))
    whole = stopped | ((runs["steps"] >= end.fillna(longest)) & ~(evaluated < latest))
    whole = final | (whole & ~final.groupby(runs["arm"]).transform("any"))
    lost, kept = np.isinf(runs["loss"]) | np.isinf(losses), runs["loss"].notna() & whole
    return runs.assign(status=np.select([lost, kept], ["diverged", "finished"], "unfinished"))
