"""Tests that need an accelerator: python -m pytest -m gpu."""

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from runner.record import Status
from tests.runner.conftest import Runs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.accelerator.is_available(), reason="there is no accelerator"),
]


def test_the_accelerator_reproduces_the_cpus_curve_in_fp32(runs: Runs) -> None:
    _, cpu = runs("+stage=step05", "train.steps=10")
    fields, accelerated = runs("+stage=step05", "train.steps=10", "device=auto")
    assert fields.environment.device != "cpu"
    assert accelerated.loss.tolist() == pytest.approx(cpu.loss.tolist(), abs=2e-3)


def test_the_last_stage_applies_every_technique_the_device_supports(runs: Runs) -> None:
    fields, _ = runs("+stage=step10", "train.steps=10", "device=auto")
    assert fields.status is Status.finished
    if torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0):
        assert fields.not_applied == {}


@pytest.mark.parametrize("mode", ["reduce_overhead", "max_autotune"])
def test_other_compile_modes_train_the_same(runs: Runs, mode: str) -> None:
    plain = ("+stage=step10", "train.steps=6", "device=auto", "train.autocast=none")
    _, expected = runs(*plain)
    fields, steps = runs(*plain, f"train.compile_mode={mode}")
    assert "torch.compile" in fields.applied
    assert steps.loss.tolist() == pytest.approx(expected.loss.tolist(), abs=2e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="flash kernels are CUDA's")
def test_the_flash_kernel_accepts_the_shapes_of_attention() -> None:
    q, k, v = (torch.randn(2, 4, 32, 64, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        fused = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    with sdpa_kernel(SDPBackend.MATH):
        torch.testing.assert_close(
            fused, F.scaled_dot_product_attention(q, k, v, is_causal=True), atol=2e-2, rtol=2e-2
        )
