"""What is applied follows from the measured rates, and what is not says why."""

from dataclasses import replace

import pytest
import torch

from runner.products import BF16, TF32, Products, Rate
from runner.training.techniques import Techniques
from tests.conftest import Settings
from tests.runner.test_products import products

CPU = torch.device("cpu")
FAST = products(bf16=400)
SLOW = products(bf16=50)


@pytest.mark.parametrize(
    ("autocast", "rates", "applied"),
    [
        ("none", FAST, False),
        ("auto", FAST, True),
        ("auto", SLOW, False),
        ("bf16", SLOW, True),
    ],
)
def test_bf16_is_applied_where_it_is_faster_or_forced(
    settings: Settings, autocast: str, rates: Products, applied: bool
) -> None:
    found = Techniques(settings("+stage=step06", f"train.autocast={autocast}"), CPU, rates)
    assert found.bf16 is applied
    assert (BF16 in found.applied) is applied
    assert (BF16 in found.not_applied) is (autocast == "auto" and not applied)


def test_a_forced_bf16_that_changes_nothing_is_not_applied(settings: Settings) -> None:
    switched_off = replace(FAST, bf16=Rate(100e9, exact=True))
    found = Techniques(settings("+stage=step06", "train.autocast=bf16"), CPU, switched_off)
    assert "changes nothing" in found.not_applied[BF16]


def test_the_reason_against_bf16_is_its_rate(settings: Settings) -> None:
    found = Techniques(settings("+stage=step06"), CPU, SLOW)
    assert "0.50 times fp32 here, 50 against 100 GFLOP/s" in found.not_applied[BF16]


def test_tf32_acts_only_where_products_are_in_fp32_and_lose_precision(settings: Settings) -> None:
    config = settings("+stage=step06", "train.autocast=none")
    ampere = products(high=800, tf32=True, bf16=1500)
    assert TF32 in Techniques(config, CPU, ampere).applied
    assert Techniques(config, CPU, ampere).fp32_setting == "high"
    unchanged = Techniques(config, CPU, products(high=100))
    assert "changes nothing" in unchanged.not_applied[TF32]
    assert unchanged.fp32_setting == "highest"
    under_bf16 = Techniques(settings("+stage=step06"), CPU, ampere)
    assert "no matrix product in fp32" in under_bf16.not_applied[TF32]


def test_every_stage_computes_fp32_in_the_faster_exact_way(settings: Settings) -> None:
    by_another_library = products(medium=120)
    for stage in ("step02", "step05", "step10"):
        found = Techniques(settings(f"+stage={stage}"), CPU, by_another_library)
        assert found.fp32_setting == "medium"


@pytest.mark.parametrize(("kernel", "applied"), [("cudnn", True), ("efficient", False)])
def test_flash_attention_is_applied_where_torch_takes_such_a_kernel(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, kernel: str, applied: bool
) -> None:
    monkeypatch.setattr("runner.training.techniques.attention_kernel", lambda *_: kernel)
    found = Techniques(settings("+stage=step07"), CPU, SLOW)
    assert found.attention_kernel == kernel
    assert ("flash attention" in found.applied) is applied
    assert ("float32 heads of" in found.not_applied.get("flash attention", "")) is not applied
    without = Techniques(settings("+stage=step06"), CPU, SLOW)
    assert without.attention_kernel is None
