"""The folder of a run while it is trained: its lock, run.json, steps.csv and log.txt."""

import contextlib
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import TextIO

from filelock import FileLock, Timeout
from rich.console import Console

from runner.files import file_sha256, seal, write_atomically
from runner.messages import say
from runner.record import (
    CHECKPOINT,
    STEP_COLUMNS,
    WEIGHTS,
    Process,
    Run,
    Status,
    Step,
    Timings,
    UnreadableRecord,
    read_run,
)

HEADER = ",".join(STEP_COLUMNS) + "\n"


class RunFolder:
    """A run's folder. `run` is what run.json holds; `save` writes it by rename, never half.

    `run` is None where nothing was started, or run.json cannot be read; `damage` then names the
    reason. `steps` are the steps done so far. Who writes holds the folder's lock, see `locked`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.steps: list[Step] = []
        self._files: list[TextIO] = []
        self.reload()

    def reload(self) -> None:
        """Read run.json; `damage` says what is wrong with it or with steps.csv, if anything is."""
        self._run: Run | None = None
        self.damage: str | None = None
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            try:
                self._run = read_run(self.path)
            except UnreadableRecord as error:
                self.damage = f"{self.path / 'run.json'} cannot be used: {error}"
        if self._run is not None and self._run.status.is_final:
            steps = self.path / "steps.csv"
            if not steps.is_file() or file_sha256(steps) != self._run.steps_sha256:
                self.damage = f"{steps} is damaged: it is not what the run wrote"

    @property
    def run(self) -> Run:
        """The record; there is one as soon as the run has started."""
        assert self._run is not None, f"{self.path}: no run was started here"
        return self._run

    @property
    def status(self) -> Status | None:
        """How the run stands; None where nothing was started."""
        return self._run.status if self._run else None

    @contextlib.contextmanager
    def locked(self, console: Console) -> Iterator[bool]:
        """Hold the folder against other processes; the lock of one that died is free.

        Waits for a process that trains in it, and says so; gives whether it had to.
        """
        waited = False
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            self.reload()
            holder = (
                f"process {self.run.process.pid} on {self.run.process.host}"
                if (self._run)
                else "another process"
            )
            say(console, f"{self.path}: waiting for {holder}, which is training it.")
            lock.acquire()
            waited = True
        try:
            self.reload()
            yield waited
        finally:
            lock.release()

    def start(self, run: Run, afresh: bool) -> None:
        """Begin a record with nothing measured yet; `afresh` deletes a checkpoint too."""
        stale = ["steps.csv", "log.txt", "traceback.txt"]
        if afresh or not (self.path / CHECKPOINT).exists():
            stale += [CHECKPOINT, WEIGHTS]
        for name in stale:
            (self.path / name).unlink(missing_ok=True)
        for left in self.path.glob(".tmp*"):  # by safetensors, killed while it wrote
            left.unlink(missing_ok=True)
        if self.damage and (self.path / "run.json").exists():
            os.replace(self.path / "run.json", self.path / "run.json.damaged")
        run.process = Process(platform.node(), os.getpid())
        run.started = now()
        self._run = run
        self.save()
        self._open_files(())

    def resume(self, steps: Sequence[Step]) -> None:
        """Continue after the steps that a checkpoint holds."""
        self.run.resumed_at.append(len(steps))
        self.save()
        for file in self._files:
            file.close()
        self._open_files(steps)

    def add_time(self, name: str, seconds: float) -> None:
        """Add to one of the run's `Timings`."""
        timings: Timings = self.run.timings
        setattr(timings, name, getattr(timings, name) + seconds)

    def save(self) -> None:
        """Write run.json."""
        write_atomically(self.path / "run.json", seal(asdict(self.run)))

    def add_step(self, step: Step) -> None:
        """Append one optimizer step to steps.csv and to the log. Raises OSError."""
        self.steps.append(step)
        for file, line in zip(self._files, (_row(step), step.line()), strict=True):
            try:
                file.write(line)
                if os.fstat(file.fileno()).st_nlink == 0:
                    raise FileNotFoundError(None, "it was deleted while the run wrote to it")
            except OSError as error:
                raise OSError(error.errno, error.strerror, file.name) from error

    def end(self, status: Status, message: str | None = None) -> None:
        """Close the record with its final status."""
        for file in self._files:
            with contextlib.suppress(OSError):
                file.close()
        steps = self.path / "steps.csv"
        self.run.status, self.run.message, self.run.ended = status, message, now()
        self.run.steps_sha256 = file_sha256(steps) if steps.exists() else None
        self.save()

    def _open_files(self, steps: Sequence[Step]) -> None:
        self.steps = list(steps)
        self._files = []
        for name, lines in (
            ("steps.csv", [HEADER, *map(_row, steps)]),
            ("log.txt", [step.line() for step in steps]),
        ):
            path = self.path / name
            write_atomically(path, "".join(lines).encode())
            # Line by line: what was written is on its way to the disk before the next step.
            self._files.append(path.open("a", buffering=1, encoding="utf-8"))


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _row(step: Step) -> str:
    return ",".join(map(str, step.values)) + "\n"
