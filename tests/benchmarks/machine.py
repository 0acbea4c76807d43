"""What a machine is: its description, and the name and the key of its part of the page."""

import os
import platform
import re
from importlib.metadata import version
from typing import Any

import torch

from runner.training.device import device_name

UNITS = ("avx2", "avx512_f", "avx512_bf16", "amx_tile", "sve", "neon")
# Units for bfloat16, the best first: CPUs of one name with and without them are two machines.
BF16_UNITS = {"amx_tile": "AMX", "avx512_bf16": "AVX512_BF16"}


def describe(device: torch.device) -> dict[str, Any]:
    """What is measured on, in words and numbers that name no user and no host."""
    pages = os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    able = torch.cpu.get_capabilities()
    return {
        "device": device.type,
        "device_name": device_name(device),
        "cpu_name": device_name(torch.device("cpu")),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": pages * os.sysconf("SC_PAGE_SIZE") if pages else None,
        "vector_units": [unit for unit in UNITS if able.get(unit)],
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": version("torch"),
        "transformers": version("transformers"),
    }


def title(machine: dict[str, Any]) -> str:
    """The device's name, a CPU's with its best unit for bfloat16."""
    unit = _best_unit(machine)
    return f"{machine['device_name']} with {unit}" if unit else machine["device_name"]


def key(machine: dict[str, Any]) -> str:
    """The same as a slug: amd-epyc-avx512_bf16, nvidia-h100-80gb-hbm3."""
    name = re.sub(r"\((r|tm)\)", "", machine["device_name"].lower())
    slug = re.sub(r"[^a-z0-9]+", "-", name).strip("-")
    unit = _best_unit(machine)
    return f"{slug}-{unit.lower()}" if unit else slug


def _best_unit(machine: dict[str, Any]) -> str | None:
    if machine["device"] != "cpu":
        return None
    return next((BF16_UNITS[u] for u in BF16_UNITS if u in machine["vector_units"]), None)
