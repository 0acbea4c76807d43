"""What follows from the measured rates of matrix products."""

import pytest

from runner.products import BF16, TF32, Products, Rate


def products(
    highest: float = 100, high: float = 100, medium: float = 100, bf16: float = 100,
    tf32: bool = False, medium_exact: bool = True,
) -> Products:  # fmt: skip
    """Rates in GFLOP/s."""
    return Products(
        Rate(highest * 1e9, True),
        Rate(high * 1e9, not tf32),
        Rate(medium * 1e9, medium_exact),
        Rate(bf16 * 1e9, False),
    )


def test_fp32_is_computed_in_the_fastest_exact_way() -> None:
    assert products().fp32_setting == "highest"
    assert products(medium=104).fp32_setting == "highest"
    assert products(medium=106).fp32_setting == "medium"
    assert products(medium=106, high=120).fp32_setting == "high"
    assert products(medium=400, medium_exact=False, high=300, tf32=True).fp32_setting == "highest"


@pytest.mark.parametrize(("rate", "faster"), [(109, False), (111, True)])
def test_a_lower_precision_must_be_a_tenth_faster_than_the_fp32_that_is_used(
    rate: float, faster: bool
) -> None:
    assert products(bf16=rate).bf16_is_faster is faster
    assert products(high=rate, tf32=True).tf32_is_faster is faster
    assert products(bf16=2 * rate, medium=200).bf16_is_faster is faster


def test_a_setting_that_changes_nothing_is_no_lower_precision() -> None:
    found = products(high=200)
    assert not found.tf32_is_faster
    assert "changes nothing" in found.why_not(found.high)


def test_the_reasons_hold_both_rates() -> None:
    slow = products(highest=276, high=276, medium=276, bf16=151)
    assert slow.why_not(slow.bf16) == (
        "its matrix products are only 0.55 times fp32 here, 151 against 276 GFLOP/s"
    )
    fast = products(highest=150, medium=180, bf16=808)
    assert fast.gains[BF16] == "4.5 times fp32 here, 808 against 180 GFLOP/s"
    assert "180 GFLOP/s in fp32" in fast.summary
    assert "1.20 times its default" in fast.summary
    nearly = products(bf16=109)
    assert "only 1.09 times" in nearly.why_not(nearly.bf16)
    assert "cannot compute" in fast.why_not(Rate(0, True))


def test_losses_are_comparable_whichever_exact_setting_is_faster() -> None:
    assert products(medium=120).precisions == products().precisions == "fp32"
    assert products(medium=120, bf16=200).precisions == "fp32, bf16 autocast"


def test_speeds_are_comparable_where_the_answers_are_equal() -> None:
    assert products(bf16=200).answers == products(bf16=300, medium=101).answers
    different = [
        products(),
        products(bf16=200),
        products(medium=120),
        products(high=200, tf32=True),
    ]
    assert len({found.answers for found in different}) == len(different)
    assert TF32 in different[3].answers
