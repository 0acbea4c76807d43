"""What training curves show: spikes, plateaus, equal tokens and seconds, and where one stops.

And how a curve is drawn that has more steps than a figure has room for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from conf.schema import ReportConf
from reports.read import Curve, Floats, ReadRun
from reports.statistics import Estimate, mean_difference
from runner.record import same_speed_conditions

# A training loss is a single batch's; the mean of so many says where the run is.
SMOOTHED_STEPS = 5
# A loss this many standard deviations of the run's own scatter above its last steps is a spike.
SPIKE_WIDTHS = 8.0
MINIMUM_STEPS = 8
# A plateau: the smoothed loss stays this close for a fifth of the run, and falls afterwards.
PLATEAU_NATS = 0.15
PLATEAU_SHARE = 0.2
FALL_AFTERWARDS = 0.5
# Where a run is at so many tokens or seconds: the mean loss over the last tenth up to there.
LAST_SHARE = 0.1
# Points of a drawn curve; more would make a page heavy and show nothing new.
MOST_POINTS = 400
# A normal distribution's standard deviation over its median absolute deviation.
ROBUST = 1.4826


@dataclass(frozen=True)
class Band:
    """A curve, with the lowest and the highest value at each of its points.

    `thinned` says that a point stands for several steps.
    """

    x: Floats
    y: Floats
    low: Floats
    high: Floats
    thinned: bool = False


def thin(band: Band, log: bool = False) -> Band:
    """The band with about `MOST_POINTS` points; one with no more is left as it is.

    Each point stands for those since the one before it, as many everywhere or, with `log`, in
    proportion to their number: it is at the last of them, at their mean, and has the lowest and the
    highest of them, so that a spike of a single step is seen.
    """
    length = len(band.x)
    if length <= MOST_POINTS:
        return band
    spaced = np.geomspace(1, length, MOST_POINTS) if log else np.linspace(0, length, MOST_POINTS)
    part = np.searchsorted(np.unique(spaced.astype(int)), np.arange(length), side="right")
    of_each = {"x": "last", "y": "mean", "low": "min", "high": "max"}
    table = pd.DataFrame({name: getattr(band, name) for name in of_each}).groupby(part).agg(of_each)
    x, y, low, high = table.to_numpy().T
    return Band(x, y, low, high, thinned=True)


@dataclass(frozen=True)
class Plateau:
    """Steps over which the loss hardly changed before it fell again."""

    first: int
    last: int
    loss: float


def smoothed(loss: Floats) -> Floats:
    """The mean of each loss and the four before it; NaN in the first four."""
    return pd.Series(loss).rolling(SMOOTHED_STEPS).mean().to_numpy()


def spikes(curve: Curve) -> list[int]:
    """Steps at which the loss jumped far above the median of the five before; a jump counts once.

    Far is eight times the run's own scatter, from second differences (Gasser, Sroka and
    Jennen-Steinmetz, Biometrika 73, 1986), taken robustly so that a spike does not hide itself.
    """
    loss = curve.loss
    second = np.diff(loss, 2) if len(loss) > 2 else np.empty(0)
    second = second[np.isfinite(second)]
    if len(loss) < MINIMUM_STEPS + SMOOTHED_STEPS or not len(second):
        return []
    width = ROBUST * float(np.median(np.abs(second))) / math.sqrt(6)
    before = pd.Series(loss).shift().rolling(SMOOTHED_STEPS, min_periods=1).median()
    jumped = (loss - before.to_numpy() > SPIKE_WIDTHS * width) & (width > 0)
    jumped[:SMOOTHED_STEPS] = False
    begins = jumped & ~np.concatenate([[False], jumped[:-1]])
    return [int(step) for step in curve.step[begins]]


def plateau(curve: Curve) -> Plateau | None:
    """The longest plateau, or None."""
    loss = smoothed(curve.loss)
    least = max(MINIMUM_STEPS, math.ceil(PLATEAU_SHARE * len(loss)))
    best: tuple[int, int] | None = None
    begin = SMOOTHED_STEPS - 1
    for end in range(begin, len(loss)):
        while begin < end and not np.ptp(loss[begin : end + 1]) <= PLATEAU_NATS:
            begin += 1
        longest = best[1] - best[0] if best else least - 2
        if end - begin > longest and loss[begin] - np.nanmin(loss[end:]) > FALL_AFTERWARDS:
            best = begin, end
    if best is None:
        return None
    first, last = best
    level = float(loss[first : last + 1].mean())
    return Plateau(int(curve.step[first]), int(curve.step[last]), level)


def step_reaching(run: ReadRun, loss: float) -> float:
    """The first step at which the smoothed training loss is this low; NaN where it never is."""
    reached = np.flatnonzero(smoothed(run.curve.loss) <= loss)
    return float(run.curve.step[reached[0]]) if len(reached) else math.nan


@dataclass(frozen=True)
class At:
    """A difference in training loss where both runs have spent as much of something."""

    spent: float
    loss: Estimate


def at_equal(pairs: Sequence[tuple[ReadRun, ReadRun]], spent: str, rules: ReportConf) -> At | None:
    """After minus before where both have seen as many tokens, or trained as many seconds.

    `spent` is a column of the curves, tokens_seen or seconds; seconds are without compilation, and
    only of pairs whose speeds may be compared.
    """
    values, ends = [], []
    for pair in pairs:
        if spent == "seconds" and not same_speed_conditions(pair[0].record, pair[1].record):
            continue
        curves = [run.curve for run in pair]
        if not all(len(curve.loss) for curve in curves):
            continue
        end = min(float(getattr(curve, spent)[-1]) for curve in curves)
        before, after = (_loss_at(curve, getattr(curve, spent), end) for curve in curves)
        if math.isfinite(after - before):
            values.append(after - before)
            ends.append(end)
    if not values:
        return None
    return At(float(np.mean(ends)), mean_difference(np.array(values), rules))


def _loss_at(curve: Curve, spent: Floats, end: float) -> float:
    reached = spent <= end * (1 + 1e-9)
    if not reached.any():
        return math.nan
    last = reached & (spent > (1 - LAST_SHARE) * end)
    return float(curve.loss[last].mean() if last.any() else curve.loss[reached][-1])


@dataclass(frozen=True)
class Stop:
    """An earlier stop that would say something else: after which step, and the difference there."""

    step: int
    difference: float
    at_end: float


def earlier_stop(pairs: Sequence[tuple[ReadRun, ReadRun]], rules: ReportConf) -> Stop | None:
    """Where in the last half of the runs the difference has another sign, or was twice as large.

    Of the smoothed training losses. The whole interval must be on the other side of zero, or beyond
    twice the difference at the end, and beyond the margin. The error rate is divided by the number
    of smoothed losses in that half that share no step (Bonferroni). The farthest such step is
    given.
    """
    differences = _differences(pairs)
    if differences is None:
        return None
    steps, values = differences
    searched = steps >= last_half(steps)
    looks = max(1, int(searched.sum()) // SMOOTHED_STEPS)
    mean, width = _interval(values, 1 - (1 - rules.confidence) / looks)
    at_end = float(mean[-1])
    if not math.isfinite(at_end):
        return None
    nearest = np.where(mean > 0, mean - width, mean + width)  # the end of the interval next to zero
    sure = searched & (np.sign(nearest) == np.sign(mean)) & (np.abs(nearest) > rules.margin)
    other_sign = sure & (np.sign(mean) != np.sign(at_end))
    halved = sure & ~other_sign & (np.abs(nearest) > 2 * abs(at_end))
    for found in (other_sign, halved):
        if found.any():
            where = int(np.argmax(np.where(found, np.abs(mean), 0)))
            return Stop(int(steps[where]), float(mean[where]), at_end)
    return None


def last_half(steps: Floats) -> float:
    """The step at which the last half of a run begins."""
    return float(steps[-1] + 1) / 2


def difference_curve(
    pairs: Sequence[tuple[ReadRun, ReadRun]], rules: ReportConf
) -> tuple[Floats, Floats, Floats, Floats] | None:
    """Steps, and the smoothed difference in training loss with both ends of its interval."""
    differences = _differences(pairs)
    if differences is None:
        return None
    steps, values = differences
    mean, width = _interval(values, rules.confidence)
    return steps, mean, mean - width, mean + width


def _differences(pairs: Sequence[tuple[ReadRun, ReadRun]]) -> tuple[Floats, Floats] | None:
    """Steps, and a row of smoothed differences in training loss for each pair."""
    pairs = [pair for pair in pairs if all(len(run.curve.loss) for run in pair)]
    if not pairs:
        return None
    length = min(len(run.curve.loss) for pair in pairs for run in pair)
    if length < MINIMUM_STEPS + SMOOTHED_STEPS:
        return None
    rows = [
        smoothed(after.curve.loss[:length] - before.curve.loss[:length]) for before, after in pairs
    ]
    kept = slice(SMOOTHED_STEPS - 1, length)
    return pairs[0][0].curve.step[kept], np.stack(rows)[:, kept]


def _interval(values: Floats, confidence: float) -> tuple[Floats, Floats]:
    """The mean over seeds of each step, and half of its interval.

    With one seed, from the scatter of the smoothed difference about its trend.
    """
    from scipy.special import ndtri, stdtrit

    mean, n = values.mean(axis=0), len(values)
    if n > 1:
        quantile = stdtrit(n - 1, (1 + confidence) / 2)
        return mean, quantile * values.std(axis=0, ddof=1) / math.sqrt(n)
    # Neighbours share four of five batches; those five apart share none.
    apart = np.diff(values[0][::SMOOTHED_STEPS], 2)
    error = math.sqrt(float(np.mean(apart**2)) / 6) if len(apart) else math.inf
    return mean, np.full_like(mean, ndtri((1 + confidence) / 2) * error)
