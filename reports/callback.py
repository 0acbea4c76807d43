"""The report as a Hydra callback, so that it is written whatever launches the runs."""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # noqa: F401 - pandas needs it, and it cannot be imported at exit
import time
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console

import reports
from conf.errors import UsageError
from conf.schema import ReportConf
from reports.rules import read_rules
from runner import world
from runner.experiments import config_dirs, experiments
from runner.messages import error, say


class Report(Callback):  # type: ignore[misc]  # Hydra has no types
    """Writes the report on each experiment after a run, and during and after a sweep.

    During a sweep it is refreshed every `refresh_minutes`. It is also written when the sweep is
    interrupted or a job raises, where Hydra does not call `on_multirun_end`. Of several processes
    of one run the first writes it.
    """

    def __init__(self, refresh_minutes: float) -> None:
        self.refresh_seconds = 60 * refresh_minutes
        self.began = time.time()

    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        for page in _report(config):
            picture = page.parent / "figures" / f"stage-{config.stage.name}.svg"
            if picture.exists():
                say(Console(), f"  picture: {picture}")
            say(Console(), f"  report: {page}")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        atexit.register(self.on_multirun_end, config)

    def on_job_end(self, config: DictConfig, **kwargs: Any) -> None:
        if config.hydra.mode is RunMode.MULTIRUN:
            # By the time of the files, since every worker of a launcher has a callback of its own.
            pages = [page for e in experiments(config) for page in e.glob("report/index.html")]
            written = max([self.began, *(page.stat().st_mtime for page in pages)])
            if time.time() - written > self.refresh_seconds:
                _report(config)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        atexit.unregister(self.on_multirun_end)
        _report(config, Console())


def _rules(config: DictConfig) -> ReportConf:
    """The report's settings; a sweep's configuration does not hold what was typed, see `task`."""
    typed = [word for word in config.hydra.overrides.task if word.startswith("report.")]
    return read_rules([word.removeprefix("report.") for word in typed])


def _report(config: DictConfig, console: Console | None = None) -> list[Path]:
    """Write the report on each experiment, and return its pages.

    An error is printed and leaves the runs as they are.
    """
    pages = []
    for experiment in experiments(config) if world.is_first() else ():
        if not any(experiment.glob("*/*/run.json")):
            continue
        try:
            page = reports.write_report([experiment], _rules(config), config_dirs(config), console)
            pages.append(page)
        except UsageError as mistake:
            error(str(mistake))
        except Exception as mistake:
            error(
                f"The report on {experiment} could not be written ({type(mistake).__name__}: "
                f"{mistake}); python -m reports {experiment} tries again."
            )
    return pages
