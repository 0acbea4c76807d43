"""The measurement of matrix products before training, kept so that a sweep has one answer."""

import contextlib
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from pydantic import ValidationError

from conf.schema import validator
from runner.files import DamagedFile, seal, unseal, write_atomically
from runner.identity import code_hash
from runner.products import Products
from runner.training.device import device_name, measure_products

# The width of the products that are measured for a model of someone's own: GPT-2's.
CUSTOM_WIDTH = 768


def find_products(
    device: torch.device, conditions: dict[str, Any], cache_dir: Path, warn: Callable[[str], None]
) -> Products:
    """The rates of matrix products of the ladder's shapes: from the cache, or measured now.

    The shapes are those of `runner.identity.conditions`, the same for every stage of a ladder. The
    cache is by device, threads, shapes, torch's version and the code. Warns of a machine too busy
    for a sure answer. Raises OSError.
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
