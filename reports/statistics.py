"""How sure a difference is: intervals, tests, equivalence, and how many seeds would decide.

docs/statistics.md says what each rule is and how it was checked. A difference is after less before,
in nats/token, a speed-up a ratio of tokens/s. SciPy takes long to import, so only where it is used.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from conf.schema import ReportConf, StatisticsConf
from reports.read import Floats

POWER = 0.8  # with which `seeds_to_decide` seeds would decide
MOST_SEEDS = 1000
BATCH = 100  # bootstrap samples drawn at once: long texts have many windows


class Sample(str, Enum):
    """What an interval is over, and so what it covers."""

    seeds = "seeds"  # paired by seed: other draws and orders of the data
    windows = "windows"  # held-out windows of one seed: other text, and nothing else
    rounds = "rounds"  # interleaved rounds: other moments on the same machine
    runs = "runs"  # of two independent samples: other runs of both scripts


@dataclass(frozen=True)
class Estimate:
    """A difference (neutral 0) or a speed-up (neutral 1) with its interval.

    `n` counts what `over` names. `p` is two-sided, of no effect; `p_equivalent` of two one-sided
    tests, of an effect as large as the margin. NaN: too few values to say.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    n: int = 1
    over: Sample = Sample.seeds
    neutral: float = 0.0
    p: float = math.nan
    p_equivalent: float = math.nan
    deviation: float = math.nan  # standard deviation of the values

    @property
    def known(self) -> bool:
        """Whether it has an interval."""
        return not math.isnan(self.low)

    @property
    def above(self) -> bool:
        """Whether the whole interval is above no effect: a higher loss, or a higher speed."""
        return self.low > self.neutral

    @property
    def below(self) -> bool:
        """Whether the whole interval is below no effect: a lower loss, or a lower speed."""
        return self.high < self.neutral


def mean_difference(values: Floats, rules: StatisticsConf, over: Sample = Sample.seeds) -> Estimate:
    """The mean of paired differences: Student's t interval and test, and two one-sided tests."""
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return Estimate(mean, n=n, over=over)
    deviation = float(values.std(ddof=1))
    return _student(Estimate(mean, n=n, over=over, deviation=deviation), n, n - 1, rules)


def difference_of_means(before: Floats, after: Floats, rules: StatisticsConf) -> Estimate:
    """After's mean less before's, of independent values: Welch's interval and tests (1947).

    `n` is the smaller number of values, `deviation` that of one value's difference from another.
    """
    value, n = float(after.mean() - before.mean()), min(len(before), len(after))
    found = Estimate(value, n=n, over=Sample.runs)
    if n < 2:
        return found
    sizes = np.array([len(before), len(after)])
    variances = np.array([before.var(ddof=1), after.var(ddof=1)])
    parts = variances / sizes
    if not parts.any():  # every run of an arm ended at the same loss
        return _student(replace(found, deviation=0.0), n, 2 * n - 2, rules)
    found = replace(found, deviation=math.sqrt(variances.sum()))
    freedom = parts.sum() ** 2 / (parts**2 / (sizes - 1)).sum()
    return _student(found, float(variances.sum() / parts.sum()), float(freedom), rules)


def _student(found: Estimate, n: float, freedom: float, rules: StatisticsConf) -> Estimate:
    """An estimate with Student's t interval and test, and two one-sided tests of its margin.

    Its standard error is its deviation over the square root of `n`.
    """
    from scipy.special import stdtr, stdtrit

    value, error = found.value, found.deviation / math.sqrt(n)
    width = float(stdtrit(freedom, (1 + rules.confidence) / 2)) * error
    error = max(error, sys.float_info.min)  # bit-identical runs, for example, have none
    p = 2 * float(stdtr(freedom, -abs(value) / error))
    p_equivalent = float(stdtr(freedom, (abs(value) - rules.margin) / error))
    return replace(found, low=value - width, high=value + width, p=p, p_equivalent=p_equivalent)


def p_below(found: Estimate) -> float:
    """The one-sided p-value of a difference that is not below zero; NaN for too few values."""
    return found.p / 2 if found.value < 0 else 1 - found.p / 2


def mean_over_windows(values: Floats, rules: ReportConf) -> Estimate:
    """The mean difference over held-out windows of one seed, with its bootstrap interval.

    It is that of percentiles (Efron and Tibshirani 1993, chapter 13), from seeded draws.
    """
    from scipy import stats

    mean, n = float(values.mean()), len(values)
    if n < 2:
        return Estimate(mean, n=n, over=Sample.windows)
    low, high = stats.bootstrap(
        (values,), np.mean, n_resamples=rules.resamples, batch=BATCH, method="percentile",
        confidence_level=rules.confidence, rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return Estimate(mean, float(low), float(high), n, Sample.windows)


def mean_ratio(ratios: Floats, rules: ReportConf) -> Estimate:
    """The geometric mean of speed-ups over rounds, with Student's t interval of the logarithms."""
    found = mean_difference(np.log(ratios), rules, Sample.rounds)
    value, low, high = (math.exp(bound) for bound in (found.value, found.low, found.high))
    return replace(found, value=value, low=low, high=high, neutral=1.0, p_equivalent=math.nan)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of one family, adjusted by Holm's method (1979), which SciPy has not."""
    order = np.argsort(p_values)
    stepped = np.arange(len(order), 0, -1) * np.array(p_values)[order]
    return np.minimum(np.maximum.accumulate(stepped), 1)[np.argsort(order)].tolist()


def t_test_power(effect: float, n: int, level: float, sides: int, samples: int = 1) -> float:
    """How often a t test of n values a sample finds an effect in standard deviations (Cohen 1988).

    Of two samples these are standard deviations of a difference of two values.
    """
    from scipy.special import nctdtr, stdtrit

    freedom = samples * (n - 1)
    shift, critical = effect * math.sqrt(n), stdtrit(freedom, 1 - level / sides)
    below = nctdtr(freedom, shift, -critical) if sides == 2 else 0.0
    return float(1 - nctdtr(freedom, shift, critical) + below)


def seeds_to_decide(found: Estimate, family: int, rules: StatisticsConf) -> int | None:
    """About how many seeds, or runs an arm, would decide a difference, if it is as estimated.

    With which the test of no difference has the POWER at Holm's strictest level, or, for one within
    the margin, the two one-sided tests. None for more than MOST_SEEDS.
    """
    if found.deviation == 0:
        return rules.minimum_seeds
    level = (1 - rules.confidence) / max(family, 1)
    size, margin = abs(found.value) / found.deviation, rules.margin / found.deviation
    samples = 2 if found.over is Sample.runs else 1

    def power(seeds: int) -> float:
        if size > margin:
            return t_test_power(size, seeds, level, 2, samples)
        effects = margin - size, margin + size
        return sum(t_test_power(effect, seeds, level, 1, samples) for effect in effects) - 1

    possible = range(max(rules.minimum_seeds, found.n + 1), MOST_SEEDS + 1)
    return next((seeds for seeds in possible if power(seeds) >= POWER), None)
