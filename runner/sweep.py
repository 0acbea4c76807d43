"""The experiments of a command, and its exit status."""

import itertools
import math
import sys
import time
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.utils import get_class
from omegaconf import DictConfig
from rich.console import Console

from runner import world
from runner.messages import duration, say
from runner.record import Status, read_runs
from stages.plans import expand


class ExitStatus(Callback):  # type: ignore[misc]  # Hydra has no types
    """Ends the command with status 1 where a run failed or diverged.

    A sweep's failures are read from the records, which every launcher leaves. Of several processes
    of one run the first decides.
    """

    def __init__(self) -> None:
        self.failed = False

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if job_return.status is JobStatus.COMPLETED and math.isnan(job_return.return_value):
            self.failed = True

    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        if self.failed and world.is_first():
            sys.exit(1)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        self.earlier = _failures(config) if world.is_first() else set()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        if world.is_first() and (self.failed or _failures(config) - self.earlier):
            sys.exit(1)


class Progress(Callback):  # type: ignore[misc]  # Hydra has no types
    """Says which run of a sweep begins, and how long the rest takes at the pace so far.

    Says nothing where another sweeper than Hydra's own decides what runs.
    """

    def __init__(self) -> None:
        self.total = self.done = 0

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        if issubclass(get_class(config.hydra.sweeper._target_), BasicSweeper):
            typed, params = config.hydra.overrides.task, config.hydra.sweeper.params or {}
            self.total = len(expand(dict(params), list(typed), config_dirs(config)))
        self.began = time.monotonic()

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        if self.total > 1:
            left = f", {self._left()} left" if self.done else ""
            say(Console(), f"Run {self.done + 1} of {self.total}{left}", "bold")

    def on_job_end(self, config: DictConfig, **kwargs: Any) -> None:
        self.done += 1

    def _left(self) -> str:
        """The time that the other runs take at the pace so far."""
        pace = (time.monotonic() - self.began) / self.done
        return f"about {duration(pace * (self.total - self.done))}"


def _failures(config: DictConfig) -> set[tuple[Path, str, str | None]]:
    """The records of runs that failed, diverged or died, each with its start and its end."""
    failures = set()
    for experiment in experiments(config):
        for file, run in read_runs(experiment).items():
            if run.status in (Status.failed, Status.diverged) or run.is_abandoned:
                failures.add((file, run.started, run.ended))
    return failures


def config_dirs(config: DictConfig) -> list[Path]:
    """The folders in which a user keeps stages and plans of their own."""
    sources = config.hydra.runtime.config_sources
    return [Path(source.path) for source in sources if source.provider == "command-line"]


def experiments(config: DictConfig) -> list[Path]:
    """The experiment folders of a command, from its composed configuration and its overrides.

    The configuration of a sweep holds one `experiment` only; the overrides may name several.
    """
    params = config.hydra.sweeper.get("params") or {}
    typed = [*(f"{key}={value}" for key, value in params.items()), *config.hydra.overrides.task]
    parser = OverridesParser.create()
    values = {"output_dir": [str(config.output_dir)], "experiment": [str(config.experiment)]}
    for override in parser.parse_overrides(typed):
        key = override.key_or_group
        if key in values and override.is_sweep_override():
            each = [f"{key}={value}" for value in override.sweep_string_iterator()]
            values[key] = [str(one.value()) for one in parser.parse_overrides(each)]
        elif key in values:
            values[key] = [str(override.value())]
    pairs = itertools.product(*values.values())
    return list(dict.fromkeys(Path(output).expanduser() / name for output, name in pairs))
