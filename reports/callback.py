"""The report as a Hydra callback, so that it is written whatever launches the runs.

hydra:
  callbacks:
    report: {_target_: reports.callback.Report, refresh_minutes: 2}
"""

from __future__ import annotations

import atexit
import time
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console

import reports
from conf.errors import UsageError
from runner.messages import error, say
from runner.sweep import experiments


class Report(Callback):  # type: ignore[misc]  # Hydra has no types
    """Writes the report on an experiment after a run, and during and after a sweep.

    A sweep's report is refreshed every `refresh_minutes`, so that a long one can be watched. It is
    also written when the sweep is interrupted or a job raises, where Hydra calls no callback.
    """

    def __init__(self, refresh_minutes: float) -> None:
        self.refresh_seconds = 60 * refresh_minutes
        self.written = time.monotonic()
        self.unreported: DictConfig | None = None

    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        for folder in experiments(config):
            if _write(folder):
                say(Console(), f"  report: {folder / 'report' / 'index.html'}")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        self.unreported = config
        atexit.register(self._finish)

    def on_job_end(self, config: DictConfig, **kwargs: Any) -> None:
        sweeping = config.hydra.mode is RunMode.MULTIRUN
        if sweeping and time.monotonic() - self.written > self.refresh_seconds:
            for folder in experiments(config):
                _write(folder)
            self.written = time.monotonic()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        self._finish()

    def _finish(self) -> None:
        if self.unreported is None:
            return
        config, self.unreported = self.unreported, None
        for folder in experiments(config):
            if _write(folder):
                reports.print_summary([folder])


def _write(experiment: Path) -> bool:
    """Write the report on an experiment that has runs; an error is one sentence, not the end."""
    if not any(experiment.glob("*/*/run.json")):
        return False
    try:
        reports.write_report([experiment])
    except UsageError as mistake:
        error(str(mistake))
        return False
    except Exception as mistake:  # the runs are worth more than their report
        error(
            f"The report on {experiment} could not be written "
            f"({type(mistake).__name__}: {mistake}); python -m reports {experiment} tries again."
        )
        return False
    return True
