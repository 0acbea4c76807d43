"""One run from configuration to record: python -m runner +stage=step07, or from Python:

import runner
run = runner.train("step07", scale="smoke", train={"steps": 20})
run.record.results.held_out, run.steps    # the record, and a DataFrame with one row per step
runs = runner.sweep("+stage=glob(step*)", "seed=1,2,3", scale="smoke")
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.api import sweep, train

__all__ = ["sweep", "train"]

# Import this project's packages from beside this one, even if the current folder has such names.
sys.path.insert(0, str(Path(__file__).parent.parent))
for name in importlib.import_module("conf").PACKAGES:
    importlib.import_module(name)
del sys.path[0], name


def __getattr__(name: str) -> Any:
    """`train` and `sweep`, imported on first use: a command does not need them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("runner.api"), name)
