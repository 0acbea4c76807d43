"""Intervals, tests, equivalence and power, against closed forms, SciPy and simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from reports.statistics import (
    Sample,
    holm,
    mean_difference,
    mean_over_windows,
    mean_ratio,
    seeds_to_decide,
    t_test_power,
)  # fmt: skip
from tests.reports.conftest import RULES


def test_a_mean_difference_has_students_interval_and_p_value() -> None:
    values = np.array([-0.31, -0.22, -0.4, -0.27])
    found = mean_difference(values, RULES)
    error = values.std(ddof=1) / 2
    width = 3.1824463 * error  # the 97.5% quantile of t with 3 degrees of freedom
    assert (found.low, found.high) == pytest.approx((-0.3 - width, -0.3 + width))
    assert found.p == pytest.approx(2 * stats.t.sf(0.3 / error, 3))
    assert (found.n, found.over) == (4, Sample.seeds)
    one = mean_difference(np.array([0.5]), RULES)
    assert one.value == 0.5
    assert math.isnan(one.low)
    assert (one.above, one.below) == (False, False)


def test_two_one_sided_tests_agree_with_the_interval_of_twice_the_error_rate() -> None:
    """The classical equality: TOST at 5% rejects where the 90% interval is within the margin."""
    draws, decided = np.random.default_rng(0), set()
    for _ in range(300):
        values = draws.normal(draws.uniform(-0.03, 0.03), 0.01, 6)
        low, high = stats.t.interval(0.9, 5, values.mean(), stats.sem(values))
        within = -RULES.margin < low and high < RULES.margin
        assert (mean_difference(values, RULES).p_equivalent < 0.05) == within
        decided.add(within)
    assert decided == {True, False}


@pytest.mark.parametrize(
    ("value", "p", "equivalent"), [(0.0, 1.0, True), (0.01, 0.0, True), (0.03, 0.0, False)]
)
def test_differences_without_any_scatter_need_no_test(
    value: float, p: float, equivalent: bool
) -> None:
    found = mean_difference(np.full(5, value), RULES)
    assert (found.low, found.high, found.p) == pytest.approx((value, value, p))
    assert (found.p_equivalent < 0.05) == equivalent


def test_the_bootstrap_over_windows_is_near_the_normal_interval_and_always_the_same() -> None:
    values = np.random.default_rng(1).normal(-0.1, 0.5, 400)
    found, again = (mean_over_windows(values, RULES) for _ in range(2))
    width = 1.96 * values.std() / 20
    bounds = values.mean() - width, values.mean() + width
    assert (found.low, found.high) == pytest.approx(bounds, abs=0.05 * 2 * width)
    assert repr(found) == repr(again)


def test_a_speed_up_is_the_geometric_mean_with_an_interval_of_ratios() -> None:
    ratios = np.array([1.0, 1.21, 1.1, 1.1, 1.1])
    found = mean_ratio(ratios, RULES)
    assert (found.value, found.low * found.high) == pytest.approx((1.1, 1.21))
    assert found.above
    assert not mean_ratio(1 / ratios, RULES).above


def test_holms_adjusted_p_values_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([]) == []


def test_the_power_of_a_t_test_is_that_of_cohens_table() -> None:
    """Cohen (1988): 34 pairs find an effect of 0.5 with 80% at 5%, two-sided."""
    assert t_test_power(0.5, 34, 0.05, sides=2) == pytest.approx(0.808, abs=1e-3)
    for sides in (1, 2):
        assert t_test_power(0.0, 10, 0.05, sides) == pytest.approx(0.05)


def test_as_many_seeds_as_were_named_decide_as_often_as_was_said() -> None:
    found = mean_difference(np.array([0.10, -0.06, 0.16, -0.02, 0.12]), RULES)
    needed = seeds_to_decide(found, 1, RULES)
    assert needed is not None
    values = np.random.default_rng(4).normal(found.value, found.deviation, (4000, needed))
    significant = stats.ttest_1samp(values, 0, axis=1).pvalue < 0.05
    assert significant.mean() == pytest.approx(0.8, abs=0.04)
    assert seeds_to_decide(found, 6, RULES) > needed, "a family of six needs more"
    at_the_margin = mean_difference(RULES.margin + np.array([-0.1, 0.1, -0.1, 0.1, 0.0]), RULES)
    needed = seeds_to_decide(at_the_margin, 1, RULES)
    assert needed is None or needed > 100
