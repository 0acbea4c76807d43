"""Most faults, once or twice; `python -m tests.benchmarks reliability` injects each many times."""

import random
from pathlib import Path

import pytest

from tests.faults import faults
from tests.faults.lab import Lab


@pytest.fixture
def lab(tmp_path: Path, shared_dir: Path, text_file: Path) -> Lab:
    shared = shared_dir / "undisturbed"
    shared.mkdir(exist_ok=True)
    (tmp_path / "text.txt").write_bytes(text_file.read_bytes())
    return Lab(tmp_path, tmp_path / "text.txt", tmp_path / "cache", random.Random(0), shared)


@pytest.mark.parametrize(
    ("fault", "times"),
    [
        pytest.param(faults.killed_writing_a_checkpoint, 1, marks=pytest.mark.slow),
        pytest.param(faults.asked_to_end, 1, marks=pytest.mark.slow),
        pytest.param(faults.asked_twice, 1, marks=pytest.mark.slow),
        pytest.param(faults.stage_ended, 1, marks=pytest.mark.slow),
        pytest.param(faults.out_of_memory, 1, marks=pytest.mark.slow),
        (faults.disk_full, 1),
        (faults.folder_gone, 3),
        pytest.param(faults.damaged, 2, marks=pytest.mark.slow),
        pytest.param(faults.two_sweeps, 1, marks=pytest.mark.slow),
        pytest.param(faults.odd_surroundings, 1, marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_run_survives(fault, times: int, lab: Lab) -> None:  # type: ignore[no-untyped-def]
    fault(lab, times)
