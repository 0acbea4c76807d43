"""A sample of the random input that `tests.benchmarks reliability` tries by the thousand."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tests.faults.fuzz import DAMAGE, OVERRIDES, TEXTS, Damage, Sandbox, sandbox

FEW = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def box(tmp_path: Path, text_file: Path) -> Iterator[Sandbox]:
    with sandbox(tmp_path, text_file.read_bytes()) as made:
        yield made


@pytest.mark.slow
@FEW
@given(arguments=OVERRIDES)
def test_random_overrides_end_in_a_run_or_a_sentence(box: Sandbox, arguments: list[str]) -> None:
    box.runner(*arguments)


@pytest.mark.slow
@FEW
@given(text=TEXTS)
def test_random_bytes_as_text_end_in_a_run_or_a_sentence(box: Sandbox, text: bytes) -> None:
    box.text.write_bytes(text)
    box.runner("train.context=4", "train.micro_batch_size=1", "force=true")


@pytest.mark.slow
@FEW
@given(damage=DAMAGE)
def test_random_damage_to_records_ends_in_a_report_or_a_sentence(
    box: Sandbox, damage: Damage
) -> None:
    box.damaged(damage, whole=box.trained % 5 == 0)
