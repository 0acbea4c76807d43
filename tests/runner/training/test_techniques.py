"""What is applied follows from the measured rates, and what is not says why."""

from dataclasses import replace

import pytest
import torch

from conf.schema import Autocast
from runner.products import BF16, TF32, Rate
from runner.training.techniques import Techniques
from tests.conftest import Settings
from tests.runner.test_products import products

CPU = torch.device("cpu")
FAST, SLOW, AMPERE = products(bf16=400), products(bf16=50), products(high=800, tf32=True, bf16=1500)
EXACT_BF16 = replace(FAST, bf16=Rate(100e9, exact=True))
# The technique, the choice of autocast, the rates, and why it is not applied, where it is not.
CASES = [
    (BF16, Autocast.none, FAST, "not asked for"),
    (BF16, Autocast.auto, FAST, None),
    (BF16, Autocast.auto, SLOW, "0.50 times fp32 here, 50 against 100 GFLOP/s"),
    (BF16, Autocast.bf16, SLOW, None),
    (BF16, Autocast.bf16, EXACT_BF16, "changes nothing"),
    (TF32, Autocast.none, AMPERE, None),
    (TF32, Autocast.none, products(high=100), "changes nothing"),
    (TF32, Autocast.auto, AMPERE, "all matrix products already"),
]


def test_lower_precision_is_applied_where_it_acts_and_is_faster_or_forced(
    settings: Settings,
) -> None:
    config = settings("+stage=step06")
    for technique, autocast, rates, why_not in CASES:
        chosen = replace(config, train=replace(config.train, autocast=autocast))
        found = Techniques(chosen, CPU, rates)
        assert (technique in found.applied) is (why_not is None)
        assert why_not is None or why_not in found.not_applied.get(technique, "not asked for")
        assert (technique in found.not_applied) is (why_not not in (None, "not asked for"))
        assert found.bf16 is (BF16 in found.applied)
        assert found.fp32_setting == ("high" if TF32 in found.applied else "highest")


def test_every_stage_computes_fp32_in_the_faster_exact_way(settings: Settings) -> None:
    for stage in ("step02", "step05", "step10"):
        found = Techniques(settings(f"+stage={stage}"), CPU, products(medium=120))
        assert found.fp32_setting == "medium"


def test_flash_attention_is_applied_where_torch_takes_such_a_kernel(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings("+stage=step07")
    for kernel, applied in (("cudnn", True), ("efficient", False)):
        monkeypatch.setattr(
            "runner.training.techniques.attention_kernel", lambda *_, found=kernel: found
        )
        found = Techniques(config, CPU, SLOW)
        assert found.attention_kernel == kernel
        assert ("flash attention" in found.applied) is applied
        assert ("float32 heads of" in found.not_applied.get("flash attention", "")) is not applied
    assert Techniques(settings("+stage=step06"), CPU, SLOW).attention_kernel is None


def test_what_is_beyond_the_guide_is_named_where_it_is_applied(settings: Settings) -> None:
    found = Techniques(settings("+stage=together"), CPU, SLOW)
    before = Techniques(settings("+stage=step09"), CPU, SLOW)
    assert set(found.applied) - set(before.applied) == {
        "rms norm", "dropout of 0.1", "rotary positions", "norm of queries and keys", "relu2 MLP",
        "no biases", "projections that start at zero", "untied head", "logits capped at 30.0",
        "label smoothing of 0.1", "Muon", "wsd schedule",
    }  # fmt: skip


def test_no_flash_kernel_of_a_cpu_drops_anything(settings: Settings) -> None:
    found = Techniques(settings("+stage=step07", "model.dropout=0.1"), CPU, SLOW)
    assert "with dropout here: math is used" in found.not_applied["flash attention"]
    assert "dropout of 0.1" in found.applied
