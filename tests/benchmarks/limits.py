"""What the machine can do at most: matrix products and a copy of memory, nothing else.

    python -m tests.benchmarks.limits RESULT.json

Writes what the machine is as well, and the precision that the runner trains in on it.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from runner.products import Products
from runner.training.device import find_device, prepare, synchronise
from runner.training.probe import measure_products
from tests.benchmarks.machine import describe
from tests.benchmarks.plan import plan_for

# Each is repeated this long and the best time taken: a busy neighbour should not lower a limit.
SECONDS = 1.0
# What takes a GPU less is done several times in a row, so that it need not wait for Python.
ROW_SECONDS = 5e-3
COPIED_BYTES = 1 << 29


def best_seconds(work: Callable[[], Any], device: torch.device) -> float:
    """The least time that `work` takes, after a turn that is not counted."""

    def seconds(times: int) -> float:
        synchronise(device)
        started = time.perf_counter()
        for _ in range(times):
            work()
        synchronise(device)
        return (time.perf_counter() - started) / times

    work()
    times = 1 if device.type == "cpu" else max(1, round(ROW_SECONDS / seconds(1)))
    best = float("inf")
    until = time.perf_counter() + SECONDS
    while time.perf_counter() < until or best == float("inf"):
        best = min(best, seconds(times))
    return best


def matrix_products(device: torch.device, products: Products) -> list[dict[str, Any]]:
    """FLOP/s of (m, k) times (k, n): a large square, and GPT-2 124M's own at the first size."""
    side = 2048 if device.type == "cpu" else 8192
    tokens = first_tokens(device)
    shapes = {
        "large square": (side, side, side),
        "MLP of GPT-2 124M": (tokens, 768, 4 * 768),
        "head of GPT-2 124M": (tokens, 768, 50304),
    }
    found = []
    for name, (m, k, n) in shapes.items():
        a = torch.randn(m, k, device=device)
        b = torch.randn(n, k, device=device)  # as nn.Linear keeps its weights
        rates = {"fp32": product_rate(a, b)}
        if device.type == "cpu":
            exact = products.medium.exact
            onednn = "fp32 (oneDNN)" if exact else "fp32 rounded to bf16 (oneDNN)"
            rates[onednn] = onednn_rate(a, b)
        rates["bf16"] = product_rate(a.bfloat16(), b.bfloat16())
        product = {"name": name, "shape": [m, k, n]}
        for precision, rate in rates.items():
            found.append({**product, "precision": precision, "flops_per_second": rate})
    return found


def first_tokens(device: torch.device) -> int:
    """The tokens of a micro batch at the first size that is compared on such a device."""
    size, *_ = plan_for(device.type).sizes
    return size.micro_batch_size * size.context


def product_rate(a: Tensor, b: Tensor) -> float:
    """FLOP/s of a product, as nn.Linear computes it."""
    seconds = best_seconds(lambda: F.linear(a, b), a.device)
    return 2 * a.shape[0] * a.shape[1] * b.shape[0] / seconds


def onednn_rate(a: Tensor, b: Tensor) -> float:
    """FLOP/s of a CPU's fp32 product through oneDNN.

    oneDNN may round to bfloat16 where there are units for it; PyTorch offers it no other way.
    """
    torch.set_float32_matmul_precision("medium")
    try:
        return product_rate(a, b)
    finally:
        torch.set_float32_matmul_precision("highest")


def copy_bytes_per_second(device: torch.device) -> float:
    """Bytes read and written a second by copying a tensor that no cache of a CPU core holds."""
    source = torch.ones(COPIED_BYTES // 4, device=device)
    target = torch.empty_like(source)
    return 2 * COPIED_BYTES / best_seconds(lambda: target.copy_(source), device)


def main(result: str) -> None:
    """Measures the limits of the device that the runner would take."""
    device = find_device("auto")
    prepare(device)
    products, _ = measure_products(device, first_tokens(device), 768)
    found = {
        "machine": describe(device),
        "matrix_products": matrix_products(device, products),
        "copy_bytes_per_second": copy_bytes_per_second(device),
        "precision": "bf16" if products.bf16_is_faster else "fp32",
    }
    Path(result).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
