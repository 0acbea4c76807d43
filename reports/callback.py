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
from reports.rules import read_rules
from runner import world
from runner.experiments import config_dirs, experiments
from runner.messages import error, say


class Report(Callback):  # type: ignore[misc]  # Hydra has no types
    """Writes the report after a run, every `refresh_minutes` of a sweep, and at its end.

    Also where a sweep that has begun a run is interrupted or a job raises, and Hydra does not call
    `on_multirun_end`.
    """

    def __init__(self, refresh_minutes: float) -> None:
        self.refresh_seconds = 60 * refresh_minutes
        self.began = time.time()

    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        console = Console(quiet=config.quiet)
        for page in _report(config):
            picture = page.parent / "figures" / f"stage-{config.stage.name}.svg"
            if picture.exists():
                say(console, f"  picture: {picture}")
            say(console, f"  report: {page}")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        atexit.register(self._at_exit, config)

    def on_job_end(self, config: DictConfig, **kwargs: Any) -> None:
        if config.hydra.mode is RunMode.MULTIRUN:
            # By the time of the files, since every worker of a launcher has a callback of its own.
            pages = [page for e in experiments(config) for page in e.glob("report/index.html")]
            written = max([self.began, *(page.stat().st_mtime for page in pages)])
            if time.time() - written > self.refresh_seconds:
                _report(config)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        atexit.unregister(self._at_exit)
        _report(config, Console())

    def _at_exit(self, config: DictConfig) -> None:
        asked = (file for e in experiments(config) for file in e.glob("*/*/asked.csv"))
        if any(file.stat().st_mtime >= self.began for file in asked):
            _report(config, Console())


def _report(config: DictConfig, console: Console | None = None) -> list[Path]:
    """Write the report on each experiment, and return its pages; an error is only printed."""
    pages = []
    task = config.hydra.overrides.task  # a sweep's configuration does not hold what was typed
    typed = [word.removeprefix("report.") for word in task if word.startswith("report.")]
    for folder in experiments(config) if world.is_first() else ():
        if not any(folder.glob("*/*/run.json")):
            continue
        try:
            rules, own = read_rules(typed), config_dirs(config)
            pages.append(reports.write_report([folder], rules, own, console))
        except UsageError as mistake:
            error(str(mistake))
        except Exception as mistake:
            said = f"could not be written ({type(mistake).__name__}: {mistake})"
            error(f"The report on {folder} {said}; python -m reports {folder} tries again.")
    return pages
