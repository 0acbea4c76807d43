"""One run from configuration to record: python -m runner +stage=step07, or from Python:

import runner
run = runner.train("step07", "train.steps=20", "scale=smoke")
run.record.results.held_out, run.steps    # the record, and a DataFrame with a row a step
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

# This project's packages are those beside this one, whatever the current folder has of such a name.
sys.path.insert(0, str(Path(__file__).parent.parent))
for name in importlib.import_module("conf").PACKAGES:
    importlib.import_module(name)
del sys.path[0], name

if TYPE_CHECKING:
    from runner.api import TrainedRun

__all__ = ["train"]


def train(stage: str, *overrides: str, config_dirs: Sequence[str | Path] = ()) -> TrainedRun:
    """Train a stage in this process, or find it finished, as `python -m runner +stage=...` does.

    `overrides` are those of the command line; `config_dirs` hold stages of your own. A run that
    failed or diverged is returned too: see `record.status`. Raises `conf.errors.UsageError` for a
    mistake, and KeyboardInterrupt after Ctrl-C, when the same call goes on.
    """
    from runner.api import train_stage

    return train_stage(stage, overrides, [Path(folder) for folder in config_dirs])
