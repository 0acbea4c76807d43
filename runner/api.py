"""A run from Python: the record as an object, its steps and held-out losses as DataFrames."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from conf.errors import UsageError
from conf.reading import as_typed, register
from runner.command import composed, read_command
from runner.messages import sentence
from runner.outcome import in_numbers
from runner.overrides import hydra_open, override_key
from runner.record import Run
from runner.rows import HELD_OUT, STEPS
from runner.run import run
from runner.settings import read_settings
from runner.signals import Interrupted
from stages.ladder import read_ladder

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class TrainedRun:
    """A run's record, and the folder that it is in."""

    record: Run
    folder: Path

    @cached_property
    def steps(self) -> pd.DataFrame:
        """One row per step; `runner.rows.Step` describes the columns."""
        return self._table(STEPS)

    @cached_property
    def held_out(self) -> pd.DataFrame:
        """One row per window of each evaluation; `runner.rows.Window` describes the columns."""
        return self._table(HELD_OUT)

    def _table(self, name: str) -> pd.DataFrame:
        import pandas as pd

        return pd.read_csv(self.folder / name, float_precision="round_trip")

    def __repr__(self) -> str:
        name = f"{self.record.stage.name} ({self.record.stage.title})"
        numbers = in_numbers(self.record)
        return f"{name}: {self.record.status.value}, {numbers}, in {self.folder}"


def train(stage: str, *overrides: str, config_dirs: Sequence[str | Path] = ()) -> TrainedRun:
    """Train a stage in this process, or find it finished, as `python -m runner +stage=...` does.

    `overrides` are as on the command line; `config_dirs` hold custom stages. A run that
    failed or diverged is returned too: see `record.status`. Raises `conf.errors.UsageError` for a
    mistake, and KeyboardInterrupt after Ctrl-C; the same call then resumes.
    """
    folders = [Path(folder) for folder in config_dirs]
    register()
    composed.cache_clear()  # of other folders
    # A recipe already chooses a stage; this one replaces it.
    sign = "" if "recipe" in map(override_key, overrides) else "+"
    asked = as_typed([f"{sign}stage={stage}", *overrides])
    draws, numpy_draws = random.getstate(), np.random.get_state()  # the caller's
    try:
        with hydra_open(folders):
            cfg, command = read_command(composed(*asked), asked, read_ladder(folders))
            config = read_settings(cfg)
        record = run(config, command, Console(), isolate=False)
    except Interrupted as interrupted:
        raise KeyboardInterrupt(str(interrupted)) from None
    except (HydraException, OmegaConfBaseException) as mistake:
        raise UsageError(sentence(mistake)) from None
    finally:
        random.setstate(draws)
        np.random.set_state(numpy_draws)
    if record is None:
        raise UsageError(f"The record of {stage} could not be closed; see above.")
    experiment = Path(config.output_dir).expanduser() / record.experiment
    return TrainedRun(record, experiment / record.stage.name / record.label)
