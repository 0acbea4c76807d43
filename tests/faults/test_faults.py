"""Most faults, once or twice; `python -m tests.benchmarks reliability` injects each many times."""

import pytest

from tests.faults import faults
from tests.faults.lab import Lab


@pytest.mark.parametrize(
    ("fault", "times"),
    [
        pytest.param(faults.killed_writing_a_checkpoint, 1, marks=pytest.mark.slow),
        pytest.param(faults.asked_to_end, 1, marks=pytest.mark.slow),
        pytest.param(faults.asked_twice, 1, marks=pytest.mark.slow),
        pytest.param(faults.stage_ended, 1, marks=pytest.mark.slow),
        pytest.param(faults.out_of_memory, 1, marks=pytest.mark.slow),
        pytest.param(faults.disk_full, 3, marks=pytest.mark.slow),
        pytest.param(faults.folder_gone, 3, marks=pytest.mark.slow),
        pytest.param(faults.damaged, 2, marks=pytest.mark.slow),
        pytest.param(faults.two_sweeps, 1, marks=pytest.mark.slow),
        pytest.param(faults.odd_surroundings, 1, marks=pytest.mark.slow),
        pytest.param(faults.odd_compiler_cache, 1, marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_run_survives(fault, times: int, lab: Lab) -> None:  # type: ignore[no-untyped-def]
    fault(lab, times)
