"""What training curves show: equal tokens, from where a difference holds; and long ones thinned."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from conf.schema import ReportConf
from reports.read import Floats
from reports.statistics import Estimate, mean_difference

SMOOTHED_STEPS = 5  # a training loss is a single batch's; the mean of so many says where a run is
MINIMUM_STEPS = 13  # from which on a curve can say where a difference holds
LAST_SHARE = 0.1  # of the tokens: the mean loss over it says where a run is at so many
MOST_POINTS = 400  # of a drawn curve; more would make a page heavy and show nothing new

Curves = Sequence[tuple[pd.DataFrame, pd.DataFrame]]  # the steps of two runs, a pair a seed


@dataclass(frozen=True)
class Band:
    """A curve with the lowest and the highest value at each point, several steps if `thinned`."""

    x: Floats
    y: Floats
    low: Floats
    high: Floats
    thinned: bool = False


def thin(band: Band, log: bool = False) -> Band:
    """The band with about `MOST_POINTS` points; one with no more is left as it is.

    Each stands for the steps since the one before it, as many everywhere or, with `log`, in
    proportion to their number: at the last of them, with their mean, lowest and highest.
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
    found = []
    for pair in curves:
        end = min(float(curve["tokens_seen"].iloc[-1]) for curve in pair)
        before, after = (_loss_at(curve, end) for curve in pair)
        found += [(end, after - before)] if math.isfinite(after - before) else []
    ends, values = np.array(found).reshape(-1, 2).T
    return At(float(ends.mean()), mean_difference(values, rules)) if found else None


def _loss_at(curve: pd.DataFrame, end: float) -> float:
    reached = curve[curve["tokens_seen"] <= end * (1 + 1e-9)]
    last = reached[reached["tokens_seen"] > (1 - LAST_SHARE) * end]
    return float((reached.tail(1) if last.empty else last)["loss"].mean(skipna=False))


def holds_from(curves: Curves, lower: bool, rules: ReportConf) -> int | None:
    """The first step from which a difference in training loss keeps the sign of the outcome.

    Of the mean over seeds of the five losses around each step. None where it never was the other
    way before with its whole interval, beyond the margin, and where its last sign is not that of
    the outcome. The error rate is divided by the means that share no step (Bonferroni).
    """
    from scipy.special import stdtrit

    length, n = min((len(curve) for pair in curves for curve in pair), default=0), len(curves)
    if n < 2 or length < MINIMUM_STEPS:
        return None
    losses = np.array([[curve["loss"].to_numpy()[:length] for curve in pair] for pair in curves])
    windows = np.lib.stride_tricks.sliding_window_view(losses, SMOOTHED_STEPS, axis=-1)
    before, after = windows.mean(axis=-1).swapaxes(0, 1)
    values = before - after if lower else after - before  # above zero: as the outcome says
    mean, looks = values.mean(axis=0), len(values[0]) // SMOOTHED_STEPS
    quantile = stdtrit(n - 1, 1 - (1 - rules.confidence) / looks / 2)
    width = quantile * values.std(axis=0, ddof=1) / math.sqrt(n)
    if not (mean[-1] > 0 and np.any(mean + width < -rules.margin)):
        return None
    first = int(np.flatnonzero(mean <= 0)[-1]) + 1
    return int(curves[0][0]["step"].iloc[first + SMOOTHED_STEPS // 2])
