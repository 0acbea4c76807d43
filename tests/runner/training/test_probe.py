"""The measurement of matrix products, and its cache."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from runner.products import Products
from runner.training import probe
from runner.training.probe import WAYS, find_products, measure_products
from tests.runner.test_products import products

CPU = torch.device("cpu")
CONDITIONS = {"train.micro_batch_size": 2, "train.context": 32, "model.n_embd": 64}


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of which no two times are alike, which is not waited for."""
    monkeypatch.setattr(probe, "ALIKE", 0.5)
    monkeypatch.setattr(probe, "MOST_PROBE_SECONDS", 0.4)


def test_every_way_is_measured_and_the_exact_ones_have_the_error_of_fp32(busy: None) -> None:
    """Against float64: fp32's rounding is far below that of bfloat16."""
    torch.set_float32_matmul_precision("high")
    found, _ = measure_products(CPU, tokens=256, width=768)
    assert torch.get_float32_matmul_precision() == "high"
    assert all(1e6 < getattr(found, way).flops <= found.peak_flops for way in WAYS)
    assert found.highest.exact
    assert not found.bf16.exact
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(shape, generator=generator) for shape in ((256, 768), (3072, 768)))
    torch.set_float32_matmul_precision(found.fp32_setting)
    error = (F.linear(a, b) - F.linear(a.double(), b.double())).abs().max().item()
    torch.set_float32_matmul_precision("highest")
    assert error < 1e-3
    assert (F.linear(a.bfloat16(), b.bfloat16()) - F.linear(a, b)).abs().max() > 0.1


def test_a_way_that_the_device_refuses_has_no_rate(
    busy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    linear = F.linear

    def refuse(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        if torch.is_autocast_enabled("cpu"):
            raise RuntimeError("no bfloat16 here")
        return linear(x, weight)

    monkeypatch.setattr(F, "linear", refuse)
    found, _ = measure_products(CPU, tokens=64, width=64)
    assert found.bf16.flops == 0
    assert not found.bf16_is_faster
    assert found.highest.flops > 0


@pytest.mark.parametrize(
    ("change", "threads", "content", "again"),
    [({}, 1, None, False), ({"train.context": 16}, 1, None, True),
     ({"model.n_embd": 32}, 1, None, True), ({}, 64, None, True),
     ({}, 1, b"", True), ({}, 1, b"{}", True), ({}, 1, b"\x80\x81", True)],
)  # fmt: skip
def test_a_sweep_has_one_answer_and_other_shapes_or_threads_or_a_damaged_one_another(
    change: dict[str, Any], threads: int, content: bytes | None, again: bool, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    measured: list[Products] = []

    def measure(*_: object) -> tuple[Products, bool]:
        measured.append(products(bf16=100 + len(measured)))
        return measured[-1], True

    monkeypatch.setattr(probe, "measure_products", measure)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    find_products(CPU, CONDITIONS, tmp_path, print)
    if content is not None:
        next(tmp_path.glob("products/*.json")).write_bytes(content)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    for _ in range(2):
        assert find_products(CPU, CONDITIONS | change, tmp_path, print) == measured[again]
    assert len(measured) == 1 + again


def test_a_machine_too_busy_for_a_sure_answer_is_named(busy: None, tmp_path: Path) -> None:
    said: list[str] = []
    found = find_products(CPU, CONDITIONS, tmp_path, said.append)
    (warning,) = said
    assert "busy" in warning
    assert str(next(tmp_path.glob("products/*.json"))) in warning
    assert find_products(CPU, CONDITIONS, tmp_path, said.append) == found
    assert len(said) == 1
