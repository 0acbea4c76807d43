"""What the machine can do at most: matrix products and a copy of memory, nothing else.

    python -m tests.benchmarks.limits RESULT.json

Writes what the machine is as well, and the precision that the runner trains in on it.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from runner.training.device import device_name, find_device, prepare, synchronise, why_not_bf16

# Each is repeated this long and the best time taken: a busy neighbour should not lower a limit.
SECONDS = 1.0
COPIED_BYTES = 1 << 29


def best_seconds(work: Callable[[], Any], device: torch.device) -> float:
    """The least time that `work` takes, after one turn that is not counted."""
    best = float("inf")
    work()
    until = time.perf_counter() + SECONDS
    while time.perf_counter() < until or best == float("inf"):
        synchronise(device)
        started = time.perf_counter()
        work()
        synchronise(device)
        best = min(best, time.perf_counter() - started)
    return best


def matrix_products(device: torch.device) -> list[dict[str, Any]]:
    """FLOP/s of (m, k) times (k, n): a large square, and GPT-2 124M's own for 4 x 64 tokens."""
    side = 2048 if device.type == "cpu" else 8192
    shapes = {
        "large square": (side, side, side),
        "MLP of GPT-2 124M": (4 * 64, 768, 4 * 768),
        "head of GPT-2 124M": (4 * 64, 768, 50304),
    }
    found = []
    for name, (m, k, n) in shapes.items():
        for dtype in (torch.float32, torch.bfloat16):
            a = torch.randn(m, k, device=device).to(dtype)
            b = torch.randn(n, k, device=device).to(dtype)  # as nn.Linear keeps its weights
            seconds = best_seconds(lambda a=a, b=b: torch.nn.functional.linear(a, b), device)
            found.append(
                {
                    "name": name,
                    "shape": [m, k, n],
                    "precision": "fp32" if dtype is torch.float32 else "bf16",
                    "flops_per_second": 2 * m * k * n / seconds,
                }
            )
    return found


def copy_bytes_per_second(device: torch.device) -> float:
    """Bytes read and written a second by copying a tensor that no cache of a CPU core holds."""
    source = torch.ones(COPIED_BYTES // 4, device=device)
    target = torch.empty_like(source)
    return 2 * COPIED_BYTES / best_seconds(lambda: target.copy_(source), device)


def machine(device: torch.device) -> dict[str, Any]:
    """What was measured on, in words and numbers that name no user and no host."""
    pages = os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    able = torch.cpu.get_capabilities()
    units = ("avx2", "avx512_f", "avx512_bf16", "amx_tile", "sve", "neon")
    return {
        "device": device.type,
        "device_name": device_name(device),
        "cpu_name": device_name(torch.device("cpu")),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": pages * os.sysconf("SC_PAGE_SIZE") if pages else None,
        "vector_units": [unit for unit in units if able.get(unit)],
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": version("torch"),
        "transformers": version("transformers"),
    }


def main(result: str) -> None:
    """Measures the limits of the device that the runner would take."""
    device = find_device("auto")
    prepare(device)
    found = {
        "machine": machine(device),
        "matrix_products": matrix_products(device),
        "copy_bytes_per_second": copy_bytes_per_second(device),
        "precision": "fp32" if why_not_bf16(device) else "bf16",
    }
    Path(result).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
