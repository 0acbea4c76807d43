"""What curves show: where a difference turned, every spike of a long one, and what coincides."""

import numpy as np
import pandas as pd
import pytest

from reports import drawing
from reports.curves import MOST_POINTS, Band, holds_from, thin
from reports.drawing import Curve
from reports.palette import Look
from tests.reports.conftest import RULES

AT = np.arange(50.0)


TURNED = np.where(AT < 20, -0.5, 0.3)


def pairs(difference: np.ndarray, seeds: int = 5, noise: float = 0.01) -> list[tuple]:
    """The steps of two runs for each seed: the second one's losses differ by so much."""
    losses = np.random.default_rng(0).normal(9, noise, (seeds, 2, len(difference)))
    losses[:, 1] += difference
    steps = np.arange(len(difference))
    return [tuple(pd.DataFrame({"step": steps, "loss": loss}) for loss in both) for both in losses]


@pytest.mark.parametrize("sign", [1, -1])
def test_a_difference_holds_from_the_step_at_which_it_turned(sign: int) -> None:
    # The mean of the five steps around step 20 is 0.02 below zero, and around 21 it is 0.14 above.
    assert holds_from(pairs(sign * TURNED), sign < 0, RULES) == 21


@pytest.mark.parametrize(
    "curves",
    [
        pairs(-TURNED),  # its last sign is not the outcome's
        pairs(np.full(50, 0.3)),  # it never had another one
        pairs(np.where(AT < 20, -0.02, 0.3)),  # it had, and within the margin
        pairs(TURNED[15:27]),  # too few steps to say
        pairs(TURNED, noise=2.0),
        pairs(TURNED, seeds=1),
        [],
    ],
    ids=["other end", "constant", "small", "short", "seeds disagree", "one seed", "none"],
)
def test_no_step_is_named_where_a_difference_did_not_turn(curves: list[tuple]) -> None:
    assert holds_from(curves, False, RULES) is None


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("length", [401, 1000, 19_073])
def test_a_thinned_curve_keeps_its_mean_its_ends_and_every_spike(length: int, log: bool) -> None:
    chance = np.random.default_rng(length)
    x, low, high = np.arange(1.0, length + 1), *chance.normal(size=(2, length))
    y = (low + high) / 2
    high[length // 2], low[length // 3], y[5] = 99.0, -99.0, np.nan
    drawn = thin(Band(x, y, low, high), log)
    assert drawn.thinned
    assert length ** (not log) / 3 < len(drawn.x) * (1 if log else length / MOST_POINTS)
    assert len(drawn.x) <= MOST_POINTS
    assert drawn.x[-1] == length
    assert np.all(np.diff(drawn.x) > 0)
    begins = np.concatenate([[0], drawn.x[:-1]]).astype(int)
    for begin, end, mean, least, most in zip(
        begins, drawn.x.astype(int), drawn.y, drawn.low, drawn.high, strict=True
    ):
        part = y[begin:end][np.isfinite(y[begin:end])]
        assert mean == pytest.approx(part.mean()) if len(part) else np.isnan(mean)
        assert (least, most) == (low[begin:end].min(), high[begin:end].max())
    assert (drawn.low.min(), drawn.high.max()) == (-99.0, 99.0)
    if log:
        assert list(drawn.x[:5]) == [1, 2, 3, 4, 5], "the first steps are drawn one by one"


def test_a_short_curve_is_drawn_as_it_is() -> None:
    band = Band(*np.random.default_rng(0).normal(size=(4, MOST_POINTS)))
    assert thin(band) is band


def test_curves_are_one_line_only_where_no_difference_is_seen() -> None:
    def curve(name: str, *losses: float) -> Curve:
        y = np.array(losses)
        return Curve(name, Look("#000000", "solid"), Band(np.arange(3.0), y, y, y), name)

    spike, one = curve("spike", 7, 900, 7), curve("one", 7, 6.5, 6)
    near, other = curve("near", 7, 6.5, 6.01), curve("other", 7, 6.5, 6.2)
    labels = "Loss", "step", "loss"
    (drawn,) = drawing.curves("loss", labels, [spike, one, near, other], limits=(5, 11))
    assert drawn.alt == "Loss: spike 7; one, near 6; other 6.2."
