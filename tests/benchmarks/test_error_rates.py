"""The measurement of the report's error rates, on a made-up bank whose truth is known."""

import json
from pathlib import Path

import numpy as np
import pytest

from reports.rules import read_rules
from tests.benchmarks import error_rates
from tests.benchmarks.error_rates import (
    Bank,
    do_nothing,
    false_turns,
    power,
    rates,
    two_hundred,
    window_coverage,
)

RULES = read_rules()


@pytest.fixture
def bank(monkeypatch: pytest.MonkeyPatch) -> Bank:
    monkeypatch.setattr(error_rates, "RESAMPLES", 600)
    draws = np.random.default_rng(0)
    plain = draws.normal(7, 0.05, error_rates.SEEDS)
    losses = {gain: plain + draws.normal(0, 0.0003, len(plain)) for gain in error_rates.GAINS[1:]}
    windows = draws.normal(7, 0.4, 1000), draws.normal(6.5, 0.4, 1000)
    return Bank({1.0: plain, **losses}, windows)


def test_do_nothing_changes_are_almost_never_an_outcome(bank: Bank) -> None:
    draws = np.random.default_rng(1)
    kinds = do_nothing(bank)
    assert two_hundred(kinds, RULES, draws) <= 10
    for kind, (draw, mean) in kinds.items():
        found = rates(draw, mean, 5, RULES, draws)
        assert found["family"] <= 0.1, kind
        assert 0.92 <= found["coverage"] <= 0.98, kind
    assert found["equivalent"] < 0.2, "such scatter is not shown to be small"


def test_a_constant_difference_is_almost_never_said_to_have_turned(bank: Bank) -> None:
    for seeds in error_rates.SIZES:
        assert false_turns(seeds, RULES, np.random.default_rng(4)) <= 0.05


def test_a_planted_difference_is_found_as_often_as_its_power_says(bank: Bank) -> None:
    for effect in (0.5, 1.5):
        found = power(bank, 5, effect, RULES, np.random.default_rng(2))
        assert found["found"] == pytest.approx(found["expected"], abs=0.06)


def test_the_interval_over_windows_holds_the_difference_on_all_of_them(bank: Bank) -> None:
    assert 0.88 <= window_coverage(bank, RULES, np.random.default_rng(3)) <= 1


def test_the_page_is_what_the_measurements_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed = error_rates.PAGE
    found = json.loads(committed.with_suffix(".json").read_text(encoding="utf-8"))
    monkeypatch.setattr(error_rates, "PAGE", tmp_path / "statistics.md")
    error_rates.render(found, RULES)
    assert (tmp_path / "statistics.md").read_text("utf-8") == committed.read_text("utf-8")
    assert found["two_hundred"] <= 10
