"""The real command line, run in its own process, and the measurements in its record."""

import contextlib
import csv
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from platformdirs import user_cache_dir

from runner import record
from runner.rows import COLD_STEPS

ROOT = Path(__file__).parent.parent.parent
# Where the command line keeps its cache, as conf/config.yaml has it.
CACHE = Path(os.environ.get("GPT2_LADDER_CACHE") or user_cache_dir("gpt2-ladder"))
GIB = 2**30
# At the end of a run: as little as the command line takes, since neither is what is measured.
BRIEF_ENDING = ("evaluation.tokens=1", "sample.tokens=1")
NO_REPORT = "~hydra.callbacks.report"

Done = subprocess.CompletedProcess[str]
# A run that is asked to end finishes its step and writes a checkpoint first.
ENDING_SECONDS = 20


class CommandFailed(Exception):
    """A command failed; the message has the end of its output."""


class OutOfTime(BaseException):
    """The time that was given to the measurements is over."""


@contextmanager
def within(minutes: float | None) -> Iterator[None]:
    """Raises OutOfTime in this block, and so ends the command that it runs, after so long."""

    def end(signum: int, frame: FrameType | None) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, 60 * (minutes or 0))  # 0: never
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@dataclass(frozen=True)
class Run:
    """One training run, from its record.

    `step_seconds` and `losses` (nats per token) are by step; `folder` is the record's.
    """

    folder: Path
    record: record.Run
    step_seconds: list[float]
    losses: list[float]

    @property
    def bf16(self) -> bool:
        """Whether its matrix products were in bfloat16, as they are where that is fast."""
        return "bf16 autocast" in self.record.applied


def train(folder: Path, stage: str, *overrides: str) -> Run:
    """Train one stage by the command line, its record in `folder` and nothing else there.

    Raises CommandFailed for a run that does not finish.
    """
    shutil.rmtree(folder, ignore_errors=True)
    runner(f"+stage={stage}", *BRIEF_ENDING, *overrides, f"output_dir={folder}", NO_REPORT)
    return read(folder)


def read(folder: Path) -> Run:
    """The one run whose record is in `folder`. Raises CommandFailed if it did not finish."""
    files = [*folder.glob("*/*/*/run.json")]
    if len(files) != 1:
        raise CommandFailed(f"{folder} has {len(files)} runs, and not the one that is read.")
    (file,) = files
    found = record.read_run(file.parent)
    if found.status is not record.Status.finished:
        raise CommandFailed(f"{file}: {found.message}")
    # Without pandas, whose memory would count in what is measured in such a process.
    with (file.parent / "steps.csv").open(newline="") as steps:
        rows = [(float(row["step_ms"]) / 1e3, float(row["loss"])) for row in csv.DictReader(steps)]
    seconds, losses = map(list, zip(*rows, strict=True))
    return Run(file.parent, found, seconds, losses)


def steady_seconds(step_seconds: list[float]) -> float:
    """The median step without the first ones, which compile and touch memory for the first time.

    Left out are three, as the runner does it, or half of them where there are not six: a step of
    many tokens takes long, and what its first ones have to do besides does not grow with it.
    """
    return statistics.median(step_seconds[min(COLD_STEPS, len(step_seconds) // 2) :])


def runner(*arguments: str) -> float:
    """Run the command line and return the seconds it took. Raises CommandFailed."""
    return python("runner", *arguments)


def python(module: str, *arguments: str, **environment: str) -> float:
    """Run a module in a process of its own and return the seconds. Raises CommandFailed."""
    done, seconds = ended(module, *arguments, **environment)
    if done.returncode:
        output = (done.stderr or done.stdout).strip()[-2000:]
        command = " ".join(("-m", module, *arguments))
        raise CommandFailed(f"{command} ended with {done.returncode}:\n{output}")
    return seconds


def ended(module: str, *arguments: str, **environment: str) -> tuple[Done, float]:
    """Run a module to its end, however that is, and also give the seconds.

    One that is out of time may close its record first.
    """
    started = time.perf_counter()
    command = [sys.executable, "-m", module, *arguments]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        printed, complained = process.communicate()
    except OutOfTime:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=ENDING_SECONDS)
        raise
    finally:
        process.kill()
    seconds = time.perf_counter() - started
    return Done(command, process.returncode, printed, complained), seconds
