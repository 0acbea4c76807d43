"""The rates of matrix products: kept for a sweep, and measured again around a run's steps."""

import contextlib
import hashlib
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from filelock import FileLock
from pydantic import ValidationError

from conf.schema import validator
from runner.files import DamagedFile, seal, unseal, write_atomically
from runner.identity import code_hash
from runner.products import Products, Rate
from runner.training.device import device_name, is_out_of_memory, synchronise

# The width of the products that are measured for a custom model: GPT-2's.
CUSTOM_WIDTH = 768
WAYS = ("highest", "high", "medium", "bf16")
# The ways take turns for this long, and on a busy machine until the three shortest times of each
# are alike.
PROBE_SECONDS = 0.3
MOST_PROBE_SECONDS = 5.0
ALIKE = 1.05


def find_products(
    device: torch.device, conditions: dict[str, Any], cache_dir: Path, warn: Callable[[str], None]
) -> Products:
    """The rates of matrix products of the ladder's shapes: from the cache, or measured now.

    The shapes are those of `runner.identity.conditions`, the same for every stage of a ladder. The
    cache's key is the device, threads, shapes, torch's version and the code. Warns if the machine
    is too busy for a sure answer. Raises OSError.
    """
    tokens = conditions["train.micro_batch_size"] * conditions["train.context"]
    shapes = (tokens, conditions.get("model.n_embd", CUSTOM_WIDTH))
    # Two processors may have one name and different units.
    units = dict(torch.cpu.get_capabilities()) if device.type == "cpu" else {}
    machine = (device.type, device_name(device), units, torch.get_num_threads(), torch.version.cuda)
    asked = json.dumps([machine, shapes, code_hash()], sort_keys=True)
    name = hashlib.sha256(asked.encode()).hexdigest()[:32]
    cached = cache_dir / "products" / f"{name}.json"
    cached.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(cached.with_suffix(".lock")):
        with contextlib.suppress(FileNotFoundError, DamagedFile, ValidationError):
            known: Products = validator(Products).validate_python(unseal(cached.read_bytes()))
            return known
        products, settled = measure_products(device, *shapes)
        if not settled:
            warn(
                "The machine is busy, so the rates of its matrix products are not sure; to have "
                f"them measured again, delete {cached}."
            )
        write_atomically(cached, seal(asdict(products)))
    return products


def measure_products(device: torch.device, tokens: int, width: int) -> tuple[Products, bool]:
    """The rates of an MLP's first product, (tokens, width) x (width, 4 width), and its gradients.

    Also returns whether they are settled. All ways take turns, and the best time of each counts, so
    that a busy neighbour slows down no way alone. On a CPU 512 rows are enough, and take about half
    a second.
    """
    rows = min(tokens, 512) if device.type == "cpu" else tokens
    x_TC = torch.rand(rows, width, device=device, requires_grad=True)
    weight_FC = torch.rand(4 * width, width, device=device, requires_grad=True)
    grad_TF = torch.rand(rows, 4 * width, device=device)
    # Its product with ones is 768.1875, which TF32's 10 bits and bfloat16's 7 round to 768.
    finely_TC = torch.full((rows, 768), 1 + 2**-12, device=device)
    ones_FC = torch.ones(4 * 768, 768, device=device)

    def forward_and_backward() -> None:
        y_TF = F.linear(x_TC, weight_FC)
        y_TF.backward(grad_TF.to(y_TF.dtype))  # type: ignore[no-untyped-call]
        x_TC.grad = weight_FC.grad = None

    seconds: dict[str, list[float]] = {}
    exact = dict.fromkeys(WAYS, True)
    for way in WAYS:
        try:
            with _computed(way, device):
                exact[way] = bool((F.linear(finely_TC, ones_FC).float() == 768.1875).all())
                seconds[way] = [_seconds(forward_and_backward, device)]
        except RuntimeError as error:  # the device refuses it
            if is_out_of_memory(error):
                raise

    def settled() -> bool:
        return all(sorted(times)[2:3] <= [ALIKE * min(times)] for times in seconds.values())

    started, passed = time.perf_counter(), 0.0
    while seconds and (passed < PROBE_SECONDS or not settled()) and passed < MOST_PROBE_SECONDS:
        passed = time.perf_counter() - started
        for way, times in seconds.items():
            with _computed(way, device):
                times.append(_seconds(forward_and_backward, device))
    flops = {way: 6 * rows * width * 4 * width / min(seconds.get(way, [math.inf])) for way in WAYS}
    highest, high, medium, bf16 = (Rate(flops[way], exact[way]) for way in WAYS)
    products = Products(highest, high, medium, bf16)
    fastest, _ = square_flops(device, products, PROBE_SECONDS)
    return replace(products, peak_flops=max(fastest, *flops.values())), settled()


def square_flops(device: torch.device, products: Products, seconds: float) -> tuple[float, float]:
    """FLOP/s of the fastest square matrix product within `seconds`, and of the median one.

    In bf16 if that is faster. The median is lower while the machine is busy or throttled.
    """
    size = 1536 if device.type == "cpu" else 8192
    dtype = getattr(torch, products.peak_dtype)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    times: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or not times:
        times.append(_seconds(lambda: a @ b, device))
    return 2 * size**3 / min(times), 2 * size**3 / statistics.median(times)


@contextlib.contextmanager
def _computed(way: str, device: torch.device) -> Iterator[None]:
    """A block whose products are computed in one of the ways; afterwards they are as before."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest" if way == "bf16" else way)
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=way == "bf16"):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """How long some work takes on the device."""
    synchronise(device)
    started = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - started
