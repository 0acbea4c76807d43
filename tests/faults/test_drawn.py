"""A few of the random cases that `tests.benchmarks reliability` draws by the thousand."""

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.benchmarks.reliability import DRAWN
from tests.faults.fuzz import Sandbox

SLOW = {"overrides": 15, "texts": 15, "records": 15, "models": 12, "exits": 5}
FEW = {"typed": 6, "quoted": 3, "configuration": 12, "streams": 12, "neighbours": 3, "modules": 10}
FEW |= {"ends": 3, "names": 40, "formats": 40, "documents": 40, "columns": 40, **SLOW}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in FEW]
)
def test_what_is_drawn_holds(name: str, box: Sandbox) -> None:
    drawn = {row[0]: row[-2:] for row in DRAWN}
    assert drawn.keys() == FEW.keys()
    strategy, check = drawn[name]

    @settings(
        max_examples=FEW[name],
        deadline=None,
        derandomize=True,
        phases=[Phase.generate] if check.__module__.endswith("odd_models") else list(Phase),
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def hold(case: Any) -> None:
        check(box, case)

    hold()
