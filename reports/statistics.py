"""How sure a difference is: intervals, tests, equivalence, and how many seeds would decide.

docs/statistics.md says what each rule is and how it was checked. Losses are in nats/token; a
difference is after minus before, so below zero is better. A speed-up is a ratio of tokens per
second; above one is faster. SciPy is imported where it is used: a report without comparisons
does not wait for it.
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
    def known(self) -> bool:
        """Whether it has an interval."""
        return not math.isnan(self.low)

    @property
    def flipped(self) -> Estimate:
        """The difference the other way round, before minus after, or the inverse of a speed-up."""
        if self.neutral:
            return replace(self, value=1 / self.value, low=1 / self.high, high=1 / self.low)
        return replace(self, value=-self.value, low=-self.high, high=-self.low)

    @property
    def above(self) -> bool:
        """Whether the whole interval is above no effect: a higher loss, or a higher speed."""
        return self.low > self.neutral

    @property
    def below(self) -> bool:
        """Whether the whole interval is below no effect: a lower loss, or a lower speed."""
        return self.high < self.neutral


def mean_difference(values: Floats, rules: ReportConf, over: Sample = Sample.seeds) -> Estimate:
    """The mean of paired differences: Student's t interval and test, and two one-sided tests.

    From scipy.special, since scipy.stats takes a second to import.
    """
    from scipy.special import stdtr, stdtrit

    mean, n = float(values.mean()), len(values)
    if n < 2:
        return Estimate(mean, n=n, over=over)
    freedom, deviation = n - 1, float(values.std(ddof=1))
    error = deviation / math.sqrt(n)
    if error == 0:  # bit-identical runs, for example: there is nothing to test
        p, p_equivalent = float(mean == 0), float(abs(mean) >= rules.margin)
        return Estimate(mean, mean, mean, n, over, 0.0, p, p_equivalent, deviation)
    width = float(stdtrit(freedom, (1 + rules.confidence) / 2)) * error
    return Estimate(
        mean,
        mean - width,
        mean + width,
        n,
        over,
        p=2 * float(stdtr(freedom, -abs(mean) / error)),
        p_equivalent=float(stdtr(freedom, (abs(mean) - rules.margin) / error)),
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
    """The p-values of one family, adjusted by Holm's method (1979), which SciPy has not."""
    order = np.argsort(p_values)
    stepped = np.arange(len(order), 0, -1) * np.array(p_values)[order]
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1)
    return [float(p) for p in adjusted]


def t_test_power(effect: float, n: int, level: float, sides: int) -> float:
    """How often a t test of n values finds an effect, given in their standard deviations.

    From the noncentral t distribution (Cohen 1988).
    """
    from scipy.special import nctdtr, stdtrit

    freedom, shift = n - 1, effect * math.sqrt(n)
    critical = float(stdtrit(freedom, 1 - level / sides))
    found = 1 - float(nctdtr(freedom, shift, critical))
    return found + (float(nctdtr(freedom, shift, -critical)) if sides == 2 else 0.0)


def seeds_to_decide(found: Estimate, family: int, rules: ReportConf) -> int | None:
    """About how many seeds would decide a difference, if it and its spread are as estimated.

    Those with which the test that fits, at Holm's strictest level, has a power of POWER: of no
    difference for one beyond the margin, and else the two one-sided tests. None for more than
    MOST_SEEDS.
    """
    level = (1 - rules.confidence) / max(family, 1)
    size, margin = abs(found.value), rules.margin

    def power(seeds: int) -> float:
        if size > margin:
            return t_test_power(size / found.deviation, seeds, level, sides=2)
        effects = ((margin - size) / found.deviation, (margin + size) / found.deviation)
        return sum(t_test_power(effect, seeds, level, sides=1) for effect in effects) - 1

    if found.deviation == 0:
        return rules.minimum_seeds
    possible = range(max(rules.minimum_seeds, found.n + 1), MOST_SEEDS + 1)
    return next((seeds for seeds in possible if power(seeds) >= POWER), None)
