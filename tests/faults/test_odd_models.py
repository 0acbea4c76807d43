"""Odd but legal models; `tests.benchmarks reliability` draws many more."""

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.faults import odd_models
from tests.faults.fuzz import Sandbox

FEW = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.slow
@FEW
@given(case=odd_models.MODELS)
def test_a_model_is_refused_or_trained_resumed_and_read_again(box: Sandbox, case: Any) -> None:
    odd_models.hold(box, case)


@pytest.mark.slow
@settings(FEW, max_examples=5)
@given(case=odd_models.MODELS)
def test_a_model_that_exits_leaves_a_closed_record(box: Sandbox, case: Any) -> None:
    odd_models.hold_record(box, case)
