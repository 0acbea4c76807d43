"""Runs from Python: the record as an object, its steps and held-out losses as DataFrames."""

from __future__ import annotations

import gc
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from conf.errors import UsageError
from conf.reading import as_typed, register
from conf.schema import Config
from runner.command import Command, composed, read_command
from runner.dry_run import is_dry_run, list_runs
from runner.keywords import in_words
from runner.mistakes import sentence
from runner.outcome import in_numbers
from runner.overrides import hydra_open, override_key, read_sweep
from runner.progress import run_progress
from runner.record import Run
from runner.rows import HELD_OUT, STEPS
from runner.run import run
from runner.settings import read_settings, refuse_unknown
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


def train(
    stage: str, *overrides: str, config_dirs: Sequence[str | Path] = (), **settings: Any
) -> TrainedRun:
    """Train a stage in this process, or find it finished.

    `overrides` are as on the command line, and `settings` the same as keywords: `seed=2`,
    `train={"steps": 20}`. `model` may be a class or a function that returns a custom model, also of
    a script or a notebook; with arguments, `model={"target": Net, "arguments": {"width": 64}}`.
    `config_dirs` hold custom stages. A run that failed or diverged is returned too: see
    `record.status`. Raises `conf.errors.UsageError` for a mistake, and KeyboardInterrupt after
    Ctrl-C; the same call then resumes.
    """
    if not isinstance(stage, str) or "=" in stage:
        raise UsageError(
            f"{stage}: the stage comes first, by its name alone, such as step07; runner.sweep "
            "trains several."
        )
    (trained,) = _train([f"+stage={stage}", *overrides, *in_words(settings)], config_dirs)
    return trained


def sweep(
    *overrides: str, config_dirs: Sequence[str | Path] = (), **settings: Any
) -> list[TrainedRun]:
    """Train several runs, one after another in this process: each as `train` does.

    `"+stage=glob(step*)"`, `"seed=1,2,3"` and `"+plan=ladder"` are as on the command line; the
    same as keywords are lists: `stage=["step02", "step03"]`, `seed=[1, 2, 3]`. A mistake in the
    settings of any run is raised before the first is trained. What has finished is kept: the same
    call trains what is missing. `dry_run=True` lists the runs and trains none.
    """
    return _train([*overrides, *in_words(settings, sweeping=True)], config_dirs, sweeping=True)


def _train(
    typed: Sequence[str], config_dirs: Sequence[str | Path], sweeping: bool = False
) -> list[TrainedRun]:
    import torch

    for word in typed:
        if not isinstance(word, str):
            raise UsageError(f'{word!r}: write a setting as a text, "seed=2", or as a keyword.')
    named = [config_dirs] if isinstance(config_dirs, str | Path) else config_dirs
    folders, console = [Path(folder) for folder in named], Console()
    register()
    composed.cache_clear()  # of other folders
    asked = as_typed(typed)
    if "recipe" in map(override_key, asked):  # it chooses a stage, which this one replaces
        asked = [re.sub(r"^\+stage=", "stage=", word) for word in asked]
    # The caller's.
    draws, numpy_draws = random.getstate(), np.random.get_state()
    torch_draws, precision = torch.get_rng_state(), torch.get_float32_matmul_precision()
    try:
        if is_dry_run(asked):
            if not sweeping:
                raise UsageError("dry_run=true lists the runs of runner.sweep; this is one run.")
            list_runs(asked, folders, console)
            return []
        with hydra_open(folders):
            runs, stages = _runs(asked, folders, sweeping), read_ladder(folders)
            read = [read_command(composed(*run), run, stages) for run in runs]
            planned = [(read_settings(cfg), command) for cfg, command in read]
        if not sweeping:
            return [_trained(*run, console) for run in planned]
        done, common = [], set.intersection(*map(set, runs))
        with run_progress(console, len(runs)) as show:
            for words, (config, command) in zip(runs, planned, strict=True):
                differing = [word for word in words if word not in common]
                show(" ".join(differing) or command.stage.name)
                config.quiet = True  # the bar is that of the sweep
                done.append(_trained(config, command, console))
        return done
    except Interrupted as interrupted:
        raise KeyboardInterrupt(str(interrupted)) from None
    except (HydraException, OmegaConfBaseException, OSError) as mistake:
        raise UsageError(sentence(mistake)) from None
    finally:
        random.setstate(draws)
        np.random.set_state(numpy_draws)
        torch.set_rng_state(torch_draws)
        torch.set_float32_matmul_precision(precision)


def _runs(asked: Sequence[str], folders: Sequence[Path], sweeping: bool) -> list[list[str]]:
    """The overrides of each run. Raises UsageError for what is not trained from Python."""
    for override in OverridesParser.create().parse_overrides(list(asked)):
        if override_key(override.input_line).startswith("hydra"):
            raise UsageError(
                f"{override.input_line}: runs from Python are trained one after another in this "
                "process; leave it out."
            )
        if override.is_sweep_override() and not sweeping:
            refuse_unknown(override.input_line)
            raise UsageError(
                f"{override.input_line} asks for several runs, which runner.sweep trains."
            )
    return read_sweep(asked, folders)[1] if sweeping else [list(asked)]


def _trained(config: Config, command: Command, console: Console) -> TrainedRun:
    gc.collect()  # what an earlier run has left would count as this one's memory
    record = run(config, command, console, isolate=False)
    if record is None:
        raise UsageError(f"The record of {command.stage.name} could not be closed; see above.")
    experiment = Path(config.output_dir).expanduser() / record.experiment
    return TrainedRun(record, experiment / record.stage.name / record.label)
