"""Differences between runs and how sure they are.

Losses are in nats/token; a difference is after minus before, so below zero is better. A speed-up
is a ratio of tokens per second; above one is faster.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from reports.read import Curve, Floats, ReadRun
from runner.record import Results, same_speed_conditions, warm_steps

CONFIDENCE = 0.95
# About 95 % of a normal distribution is within two standard deviations.
NOISE_WIDTHS = 2.0
# A normal distribution's standard deviation over its median absolute deviation.
ROBUST = 1.4826
# A loss this many standard deviations of the run's own scatter above its last steps is a spike.
SPIKE_WIDTHS = 8.0
SPIKE_WINDOW = 5
MINIMUM_STEPS_FOR_NOISE = 8


@dataclass(frozen=True)
class Estimate:
    """A difference (neutral 0) or a speed-up (neutral 1) with its interval.

    With several seeds the interval is the 95 % confidence interval of the mean of the differences
    paired by seed (Student's t), and `p` its two-sided p-value. With one seed it is the value plus
    or minus twice the runs' own noise, and `p` is NaN. NaN bounds mean that the noise is unknown.
    """

    value: float
    low: float
    high: float
    seeds: int
    neutral: float
    p: float = math.nan

    @property
    def half_width(self) -> float:
        """Half of the interval; NaN where the noise is unknown."""
        return (self.high - self.low) / 2

    @property
    def higher(self) -> bool:
        """Significantly above no effect: a higher loss, or a higher speed."""
        return self.low > self.neutral

    @property
    def lower(self) -> bool:
        """Significantly below no effect: a lower loss, or a lower speed."""
        return self.high < self.neutral

    @property
    def significant(self) -> bool:
        """Whether the interval leaves out no effect at all."""
        return self.higher or self.lower


def difference(
    before: Sequence[ReadRun], after: Sequence[ReadRun], loss: Callable[[Results], float]
) -> Estimate | None:
    """A loss after minus before, paired by seed; None where no seed has both."""
    return _paired(
        before, after, lambda a, b: loss(b.record.results) - loss(a.record.results), loss_noise
    )


def speed_up(before: Sequence[ReadRun], after: Sequence[ReadRun]) -> Estimate | None:
    """Tokens per second after over before, paired by seed, in logarithms."""
    found = _paired(
        before, after, _log_speed_up, lambda a, b: math.hypot(*map(speed_noise, (a, b)))
    )
    if found is None:
        return None
    value, low, high = (math.exp(bound) for bound in (found.value, found.low, found.high))
    return Estimate(value, low, high, found.seeds, neutral=1.0, p=found.p)


def _log_speed_up(a: ReadRun, b: ReadRun) -> float:
    rates = [run.record.results.tokens_per_second for run in (a, b)]
    if not (same_speed_conditions(a.record, b.record) and min(rates) > 0):
        return math.nan
    return math.log(rates[1] / rates[0])


def _paired(
    before: Sequence[ReadRun],
    after: Sequence[ReadRun],
    measure: Callable[[ReadRun, ReadRun], float],
    noise: Callable[[ReadRun, ReadRun], float],
) -> Estimate | None:
    by_seed = {run.record.seed: run for run in before}
    pairs = [(by_seed[b.record.seed], b) for b in after if b.record.seed in by_seed]
    pairs = [pair for pair in pairs if math.isfinite(measure(*pair))]
    if not pairs:
        return None
    values = np.array([measure(*pair) for pair in pairs])
    if len(pairs) > 1:
        low, high, p = t_interval(values)
        return Estimate(float(values.mean()), low, high, len(pairs), neutral=0.0, p=p)
    (value,), width = values.tolist(), NOISE_WIDTHS * noise(*pairs[0])
    return Estimate(value, value - width, value + width, 1, neutral=0.0)


def t_interval(values: Floats) -> tuple[float, float, float]:
    """95 % confidence interval of the mean and the p-value of its being zero, Student's t.

    From scipy.special: importing scipy.stats takes longer than the rest of a report.
    """
    from scipy.special import stdtr, stdtrit

    freedom = len(values) - 1
    mean, error = float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))
    if error == 0:
        return mean, mean, 1.0 if mean == 0 else 0.0
    width = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * error
    return mean - width, mean + width, 2 * float(stdtr(freedom, -abs(mean) / error))


def scatter(values: Floats) -> float:
    """Standard deviation of a series about its smooth trend; NaN for fewer than eight values.

    From second differences, of which independent noise of variance s^2 gives 6 s^2 and a smooth
    trend almost nothing (Gasser, Sroka and Jennen-Steinmetz, Biometrika 73, 1986).
    """
    if len(values) < MINIMUM_STEPS_FOR_NOISE or not np.isfinite(values).all():
        return math.nan
    return float(np.sqrt(np.mean(np.diff(values, 2) ** 2) / 6))


def loss_noise(before: ReadRun, after: ReadRun) -> float:
    """Standard deviation of one run's loss minus another's, from their second halves.

    Runs of one seed that take equally many tokens a step see the same batches; the effect of the
    batches is then shared and is not noise: the scatter is that of the step by step difference.
    Otherwise the runs' own scatters add in quadrature.
    """
    a, b = before.curve, after.curve
    length = min(len(a.loss), len(b.loss))
    half = slice(length // 2, length)
    if length and np.array_equal(a.tokens_seen[:length], b.tokens_seen[:length]):
        return scatter(b.loss[half] - a.loss[half])
    return math.hypot(*(scatter(curve.loss[len(curve.loss) // 2 :]) for curve in (a, b)))


def warm(run: ReadRun) -> Floats:
    """The milliseconds of the steps that count for speed."""
    return run.curve.step_ms[warm_steps(len(run.curve.step_ms), run.record.resumed_at)]


def speed_noise(run: ReadRun) -> float:
    """Relative standard deviation of a warm step's time, robust to single slow steps."""
    step_ms = warm(run)
    if len(step_ms) < MINIMUM_STEPS_FOR_NOISE or not (step_ms > 0).all():
        return math.nan
    log_ms = np.log(step_ms)
    return float(ROBUST * np.median(np.abs(log_ms - np.median(log_ms))))


def spikes(curve: Curve) -> list[int]:
    """Steps at which the loss jumped far above the median of the five before; a jump counts once.

    Far is eight times the run's own scatter, taken robustly so that a spike does not hide itself.
    """
    loss = curve.loss
    second = np.diff(loss, 2) if len(loss) > 2 else np.empty(0)
    second = second[np.isfinite(second)]
    if len(loss) < MINIMUM_STEPS_FOR_NOISE + SPIKE_WINDOW or not len(second):
        return []
    width = ROBUST * float(np.median(np.abs(second))) / math.sqrt(6)
    before = pd.Series(loss).shift().rolling(SPIKE_WINDOW, min_periods=1).median()
    jumped = (loss - before.to_numpy() > SPIKE_WIDTHS * width) & (width > 0)
    jumped[:SPIKE_WINDOW] = False
    begins = jumped & ~np.concatenate([[False], jumped[:-1]])
    return [int(step) for step in curve.step[begins]]
