"""What training curves show: equal tokens, from where a difference holds; and long ones thinned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from conf.schema import ReportConf
from reports.read import Floats
from reports.statistics import Estimate, mean_difference

# A training loss is a single batch's; the mean of so many says where the run is.
SMOOTHED_STEPS = 5
# Steps from which on a curve can say where a difference holds.
MINIMUM_STEPS = 13
# Where a run is at so many tokens: the mean loss over the last tenth up to there.
LAST_SHARE = 0.1
# Points of a drawn curve; more would make a page heavy and show nothing new.
MOST_POINTS = 400

Curves = Sequence[tuple[pd.DataFrame, pd.DataFrame]]  # the steps of two runs, a pair a seed


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
class At:
    """A difference in training loss where both runs have seen as many tokens."""

    tokens: float
    loss: Estimate


def at_equal_tokens(curves: Curves, rules: ReportConf) -> At | None:
    """After minus before where both have seen as many tokens; None where no pair has both."""
    values, ends = [], []
    for pair in curves:
        end = min(float(curve["tokens_seen"].iloc[-1]) for curve in pair)
        before, after = (_loss_at(curve, end) for curve in pair)
        if math.isfinite(after - before):
            values.append(after - before)
            ends.append(end)
    return At(float(np.mean(ends)), mean_difference(np.array(values), rules)) if values else None


def _loss_at(curve: pd.DataFrame, end: float) -> float:
    loss, seen = curve["loss"].to_numpy(), curve["tokens_seen"].to_numpy()
    reached = seen <= end * (1 + 1e-9)
    if not reached.any():
        return math.nan
    last = reached & (seen > (1 - LAST_SHARE) * end)
    return float(loss[last].mean() if last.any() else loss[reached][-1])


def holds_from(curves: Curves, lower: bool, rules: ReportConf) -> int | None:
    """The first step from which a difference in training loss keeps the sign of the outcome.

    Of the mean over seeds of the five losses around each step. None where the difference never was
    significantly the other way before, its whole interval on the other side of zero and beyond the
    margin, and where its last sign is not that of the outcome. The error rate is divided by the
    number of such means that share no step (Bonferroni).
    """
    from scipy.special import stdtrit

    length = min((len(curve) for pair in curves for curve in pair), default=0)
    if len(curves) < 2 or length < MINIMUM_STEPS:
        return None
    steps = curves[0][0]["step"].to_numpy()[SMOOTHED_STEPS // 2 : length - SMOOTHED_STEPS // 2]
    losses = np.array([[curve["loss"].to_numpy()[:length] for curve in pair] for pair in curves])
    values = np.apply_along_axis(
        np.convolve, 1, losses[:, 1] - losses[:, 0], np.full(SMOOTHED_STEPS, 1 / SMOOTHED_STEPS),
        "valid",
    )  # fmt: skip
    mean = values.mean(axis=0) * (-1 if lower else 1)  # above zero: as the outcome says
    looks, n = max(1, len(steps) // SMOOTHED_STEPS), len(values)
    quantile = stdtrit(n - 1, 1 - (1 - rules.confidence) / looks / 2)
    width = quantile * values.std(axis=0, ddof=1) / math.sqrt(n)
    if not (mean[-1] > 0 and np.any(mean + width < -rules.margin)):
        return None
    return int(steps[np.flatnonzero(mean <= 0)[-1] + 1])
