"""What a sweep prints about its runs, and the exit status of a command."""

import math
import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.utils import get_class
from omegaconf import DictConfig
from rich.console import Console

from runner import world
from runner.experiments import config_dirs, experiments
from runner.messages import divert_errors, duration, open_streams, say
from runner.overrides import expand
from runner.process import end_with_parent
from runner.record import Run, Status, read_runs
from runner.signals import this_process

# How often the records are read while others train.
SECONDS_BETWEEN_LOOKS = 10.0


class ExitStatus(Callback):  # type: ignore[misc]  # Hydra has no types
    """Ends the command with 128 + a signal, or with 1 if a run is not finished.

    A sweep's failures are read from the records, which every launcher leaves. If several processes
    train one run, the first decides.
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
        self.earlier = set(_ended(config)) if world.is_first() else set()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        this_process.raise_if_asked()  # a launcher's workers have ended
        if world.is_first():
            ended = _ended(config)
            new = [ended[key].status for key in ended.keys() - self.earlier]
            if self.failed or any(status is not Status.finished for status in new):
                sys.exit(1)


class Progress(Callback):  # type: ignore[misc]  # Hydra has no types
    """Says which run of a sweep begins, and how long the rest takes at the pace so far.

    Says nothing with a sweeper that is not built on Hydra's own. If runs print into files, as jobs
    of a cluster do, it says which have ended.
    """

    def __init__(self) -> None:
        self.total = 0

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        self.began = time.monotonic()
        if folder := config.hydra.launcher.get("submitit_folder"):
            jobs = Path(folder.partition("%")[0]).expanduser()  # each may have a folder below it
            with suppress(OSError):  # submitit cannot write there either, and says so
                # At Ctrl-C its processes that wait for jobs on this machine print tracebacks.
                divert_errors(jobs / "errors.txt")
                look = threading.Thread(target=_say_ended, args=(config, jobs), daemon=True)
                look.start()
        elif hasattr(get_class(config.hydra.sweeper._target_), "split_arguments"):
            typed, params = config.hydra.overrides.task, config.hydra.sweeper.params or {}
            self.total = len(expand(dict(params), list(typed), config_dirs(config)))

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        open_streams()  # a worker begins here
        if os.environ.get("SUBMITIT_EXECUTOR") == "local":
            end_with_parent()
        if self.total > 1 and not this_process.asked:
            number = config.hydra.job.num + 1
            at_once = max(1, config.hydra.launcher.get("n_jobs", 1))
            done = number - 1 - (at_once - 1) / 2  # the others that run now count as half done
            left = f", {self._left(done)} left" if number > at_once else ""
            console = Console(quiet=config.quiet)
            say(console, f"Run {number} of {self.total}{left}", "bold")

    def _left(self, done: float) -> str:
        """The time that the other runs take at the pace so far."""
        pace = (time.monotonic() - self.began) / done
        return f"about {duration(pace * (self.total - done))}"


def _say_ended(config: DictConfig, jobs: Path) -> None:
    """Print where jobs print as soon as there is one, and a line for every run that ends."""
    known, began = set(_ended(config)), jobs.stat().st_mtime_ns
    while jobs.stat().st_mtime_ns == began:
        time.sleep(0.1)
    say(Console(), f"What the runs print is in {jobs}", "bold")
    while True:
        time.sleep(SECONDS_BETWEEN_LOOKS)
        for key, run in _ended(config).items():
            if key not in known and run.ended:
                known.add(key)
                named = " ".join([run.stage.name, *run.ablation.overrides])
                say(Console(), f"{named}, seed {run.seed}: {run.status.value}, {key[0].parent}")


def _ended(config: DictConfig) -> dict[tuple[Path, str, str | None], Run]:
    """All runs that have ended, also those of earlier commands, by their file, start and end."""
    return {
        (file, run.started, run.ended): run
        for experiment in experiments(config)
        for file, run in read_runs(experiment).items()
        if run.status is not Status.running or run.is_abandoned
    }
