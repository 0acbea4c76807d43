"""How sure a difference is: intervals, tests, equivalence, and how many seeds would decide.

docs/statistics.md says what each rule is and how it was checked. Losses are in nats/token; a
difference is after minus before, so below zero is better. A speed-up is a ratio of tokens per
second; above one is faster. SciPy and statsmodels are imported where they are used: a report
without comparisons does not wait for them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from conf.schema import ReportConf
from reports.read import Floats

POWER = 0.8  # with which `seeds_to_decide` seeds would decide
MOST_SEEDS = 1000
BATCH = 100  # bootstrap samples drawn at once: long texts have many windows


class Sample(str, Enum):
    """What an interval is over, and so what it covers."""

    seeds = "seeds"  # paired by seed: other draws and orders of the data
    windows = "windows"  # held-out windows of one seed: other text, and nothing else
    rounds = "rounds"  # interleaved rounds: other moments on the same machine


@dataclass(frozen=True)
class Estimate:
    """A difference (neutral 0) or a speed-up (neutral 1) with its interval.

    `n` counts what `over` names. `p` is two-sided, of no effect; `p_equivalent` is that of two
    one-sided tests, of an effect as large as the margin. NaN: too few values to say.
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
    def half_width(self) -> float:
        """Half of the interval; NaN where it is unknown."""
        return (self.high - self.low) / 2

    @property
    def above(self) -> bool:
        """Whether the whole interval is above no effect: a higher loss, or a higher speed."""
        return self.low > self.neutral

    @property
    def below(self) -> bool:
        """Whether the whole interval is below no effect: a lower loss, or a lower speed."""
        return self.high < self.neutral


def mean_difference(values: Floats, rules: ReportConf, over: Sample = Sample.seeds) -> Estimate:
    """The mean of paired differences: Student's t interval and test, and two one-sided tests."""
    from scipy import stats

    mean, n = float(values.mean()), len(values)
    if n < 2:
        return Estimate(mean, n=n, over=over)
    deviation = float(values.std(ddof=1))
    if deviation == 0:  # bit-identical runs, for example: there is nothing to test
        certain = {"low": mean, "high": mean, "p": float(mean == 0)}
        equivalent = float(abs(mean) >= rules.margin)
        return Estimate(mean, n=n, over=over, p_equivalent=equivalent, deviation=0.0, **certain)
    tested = stats.ttest_1samp(values, 0.0)
    interval = tested.confidence_interval(rules.confidence)
    too_low = stats.ttest_1samp(values, -rules.margin, alternative="greater").pvalue
    too_high = stats.ttest_1samp(values, rules.margin, alternative="less").pvalue
    return Estimate(
        mean,
        float(interval.low),
        float(interval.high),
        n,
        over,
        p=float(tested.pvalue),
        p_equivalent=float(max(too_low, too_high)),
        deviation=deviation,
    )


def mean_over_windows(values: Floats, rules: ReportConf) -> Estimate:
    """The mean difference over held-out windows of one seed, with its bootstrap interval.

    The percentile interval of resampled windows (Efron and Tibshirani 1993, chapter 13); the draws
    are seeded, so that a report written again says the same.
    """
    from scipy import stats

    mean, n = float(values.mean()), len(values)
    if n < 2 or np.ptp(values) == 0:
        width = 0.0 if n > 1 else math.nan
        return Estimate(mean, mean - width, mean + width, n, Sample.windows)
    found = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=rules.resamples,
        batch=BATCH,
        confidence_level=rules.confidence,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    interval = found.confidence_interval
    return Estimate(mean, float(interval.low), float(interval.high), n, Sample.windows)


def mean_ratio(ratios: Floats, rules: ReportConf) -> Estimate:
    """The geometric mean of speed-ups over rounds, with Student's t interval of the logarithms."""
    found = mean_difference(np.log(ratios), rules, Sample.rounds)
    value, low, high = (math.exp(bound) for bound in (found.value, found.low, found.high))
    return replace(found, value=value, low=low, high=high, neutral=1.0, p_equivalent=math.nan)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of one family, adjusted by Holm's method (1979)."""
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(p_values, method="holm")[1]] if p_values else []


def seeds_to_decide(found: Estimate, family: int, rules: ReportConf) -> int | None:
    """About how many seeds would decide a difference, if it and its spread are as estimated.

    Those with which the test that fits, at Holm's strictest level, has a power of POWER: of no
    difference for one beyond the margin, and else the two one-sided tests. None for more than
    MOST_SEEDS.
    """
    from statsmodels.stats.power import TTestPower

    level = (1 - rules.confidence) / max(family, 1)
    size, margin, tests = abs(found.value), rules.margin, TTestPower()

    def power(seeds: int) -> float:
        if size > margin:
            return float(tests.power(size / found.deviation, seeds, level))
        sides = ((margin - size) / found.deviation, (margin + size) / found.deviation)
        return float(sum(tests.power(e, seeds, level, alternative="larger") for e in sides)) - 1

    if found.deviation == 0:
        return rules.minimum_seeds
    possible = range(max(rules.minimum_seeds, found.n + 1), MOST_SEEDS + 1)
    return next((seeds for seeds in possible if power(seeds) >= POWER), None)
