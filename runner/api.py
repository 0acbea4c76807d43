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
from runner.command import composed, read_command, recipe_as_overrides
from runner.expansion import hydra_open
from runner.interruption import Interrupted
from runner.messages import sentence
from runner.record import Run
from runner.rows import HELD_OUT, STEPS
from runner.run import run
from runner.settings import read_settings
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
        """A row a step; `runner.rows.Step` describes the columns."""
        return self._table(STEPS)

    @cached_property
    def held_out(self) -> pd.DataFrame:
        """A row a window of each evaluation; `runner.rows.Window` describes the columns."""
        return self._table(HELD_OUT)

    def _table(self, name: str) -> pd.DataFrame:
        import pandas as pd

        return pd.read_csv(self.folder / name, float_precision="round_trip")

    def __repr__(self) -> str:
        results = self.record.results
        return (
            f"{self.record.stage.name} ({self.record.stage.title}): {self.record.status.value}, "
            f"interval [{results.worst:.3f}, {results.best:.3f}], held-out loss "
            f"{results.held_out:.3f}, {results.tokens_per_second:,.0f} tokens/s, in {self.folder}"
        )


def train_stage(stage: str, overrides: Sequence[str], config_dirs: Sequence[Path]) -> TrainedRun:
    """See `runner.train`."""
    register()
    composed.cache_clear()  # of other folders
    asked = as_typed([f"+stage={stage}", *overrides])
    draws, numpy_draws = random.getstate(), np.random.get_state()  # the caller's
    try:
        asked = [*recipe_as_overrides(asked, config_dirs), *asked]
        with hydra_open(config_dirs):
            cfg, command = read_command(composed(*asked), asked, read_ladder(config_dirs))
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
