"""A sample of the random input that `tests.benchmarks reliability` tries by the thousand."""

import pytest
from hypothesis import given

from tests.faults import fuzz
from tests.faults.fuzz import DAMAGE, OVERRIDES, TEXTS, Damage, Sandbox, few

FEW = few(15)


@pytest.mark.slow
@FEW
@given(arguments=OVERRIDES)
def test_random_overrides_end_in_a_run_or_a_sentence(box: Sandbox, arguments: list[str]) -> None:
    fuzz.check_overrides(box, arguments)


@pytest.mark.slow
@FEW
@given(text=TEXTS)
def test_random_bytes_as_text_end_in_a_run_or_a_sentence(box: Sandbox, text: bytes) -> None:
    fuzz.check_text(box, text)


@pytest.mark.slow
@FEW
@given(damage=DAMAGE)
def test_random_damage_to_records_ends_in_a_report_or_a_sentence(
    box: Sandbox, damage: Damage
) -> None:
    box.damaged(damage, whole=box.trained % 5 == 0)
