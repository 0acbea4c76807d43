"""The folder of a run: its lock, run.json, steps.csv, held_out.csv, asked.csv and log.txt."""

import contextlib
import csv
import io
import os
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, astuple
from datetime import datetime, timezone
from pathlib import Path
from typing import TextIO

from filelock import FileLock, Timeout
from rich.console import Console

from conf.errors import UsageError
from runner import world
from runner.files import file_sha256, seal, write_atomically
from runner.messages import say
from runner.observations import Accuracy, DrawnText
from runner.record import (
    CHECKPOINT,
    EVENTS,
    WEIGHTS,
    Process,
    Run,
    Status,
    UnreadableRecord,
    read_run,
)
from runner.rows import ASKED, HELD_OUT, STEPS, Asked, Step, Window, columns

LOG = "log.txt"

# What a watcher of a folder gets: every row as it is written, and the run at its end.
Written = Step | Sequence[Window] | Accuracy | DrawnText | Run


class RunFolder:
    """A run's folder: `run` is the content of run.json, `steps` and `windows` of the tables.

    `damage` says why a file cannot be used, or is None. Only the process that holds the folder's
    lock may write, see `locked`. If several processes train the run, the others write nothing.
    `watch` gets what is written, and raises no Exception.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.steps: list[Step] = []
        self.windows: list[Window] = []
        self.watch: Callable[[Written], None] = lambda what: None
        self._writes = world.is_first()
        self._files: dict[str, TextIO] = {}
        self._replaced: dict[str, bytes] = {}  # files of the result that `start` replaced
        self.reload()

    def reload(self) -> None:
        """Read run.json and check the tables."""
        self._run: Run | None = None
        self.damage: str | None = None
        try:
            self._run = read_run(self.path)
            written = {STEPS: self._run.steps_sha256, HELD_OUT: self._run.held_out_sha256}
            for name, sha256 in written.items() if self._run.status.is_final else ():
                if _sha256(self.path / name) != sha256:
                    damaged = self.path / name
                    self.damage = f"{damaged} is damaged: it differs from what the run wrote"
        except UnreadableRecord as error:
            self.damage = f"{self.path / 'run.json'} cannot be used: {error}"
        except (FileNotFoundError, NotADirectoryError):
            pass  # nothing was started here

    @property
    def run(self) -> Run:
        """The record of a run that has started."""
        assert self._run is not None, f"{self.path}: no run was started here"
        return self._run

    @property
    def status(self) -> Status | None:
        """The run's status; None if nothing was started or run.json cannot be read."""
        return self._run.status if self._run else None

    @contextlib.contextmanager
    def locked(self, console: Console) -> Iterator[bool]:
        """Hold the folder's lock, after waiting for another process that trains in the folder.

        Yields whether it had to wait. The lock of a process that died is free. If several processes
        train together, raises UsageError instead of waiting.
        """
        if not self._writes:
            yield False
            return
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock")
        with contextlib.suppress(Timeout):
            lock.acquire(blocking=False)
        if waits := not lock.is_locked:
            self.reload()
            trainer = self._run.process if self._run else None
            who = f"process {trainer.pid} on {trainer.host}" if trainer else "another process"
            if world.size() > 1:  # the others would not know what this one waits for
                raise UsageError(f"{self.path}: {who} is training it; wait until that has ended.")
            say(console, f"{self.path}: waiting for {who}, which is training it.")
            lock.acquire()
        try:
            self.reload()
            yield waits
        finally:
            lock.release()

    def start(self, run: Run, afresh: bool) -> None:
        """Begin the record of a run; `afresh` deletes a checkpoint too."""
        stale = [STEPS, HELD_OUT, LOG, "traceback.txt", ".tmp*"]  # .tmp: by a killed safetensors
        if afresh or not (self.path / CHECKPOINT).exists():
            stale += [CHECKPOINT, WEIGHTS, EVENTS]
        if self.status and self.status.is_final and not self.damage:
            kept = (self.path / name for name in ("run.json", STEPS, HELD_OUT, LOG))
            self._replaced = {file.name: file.read_bytes() for file in kept if file.exists()}
        if self.damage and self._writes and (self.path / "run.json").exists():
            os.replace(self.path / "run.json", self.path / "run.json.damaged")
        self.damage = None
        run.process = Process(platform.node(), os.getpid())
        run.started = now()
        self._run = run
        self.save()  # first, so that on a full disk a result stays whole
        for name in stale if self._writes else ():
            for left in self.path.glob(name):
                left.unlink(missing_ok=True)
        self._open_files((), ())

    def ask(self, asked: Asked) -> None:
        """Append a command's request to asked.csv; needs no lock. Raises OSError."""
        if not self._writes:
            return
        with (self.path / ASKED).open("a+b") as file:
            file.seek(0)
            before = file.read()
            lines = _lines(astuple(asked)) if before else _lines(columns(Asked), astuple(asked))
            quoted = before.count(b'"') % 2
            if quoted or before[-1:] not in (b"", b"\n"):  # its last line was cut short
                # One column too many marks it as not whole.
                lines = '"' * quoted + "," * len(columns(Asked)) + "\n" + lines
            file.write(lines.encode(errors="backslashreplace"))

    def undo_start(self) -> None:
        """Restore the result that `start` replaced, or delete the folder if there was none.

        Folders above that are then empty are deleted too. Raises OSError.
        """
        self._close_files()
        if self._replaced:
            for name, content in self._replaced.items():
                write_atomically(self.path / name, content)
            self.reload()
            return
        self._run = None
        shutil.rmtree(self.path, ignore_errors=True)
        for above in (self.path.parent, self.path.parent.parent):
            with contextlib.suppress(OSError):
                above.rmdir()

    def resume(self, steps: Sequence[Step], windows: Sequence[Window]) -> None:
        """Continue after the steps and evaluations of a checkpoint."""
        self.run.resumed_at.append(len(steps))
        self.save()
        self._open_files(steps, windows)

    def save(self) -> None:
        """Write run.json."""
        if self._writes:
            write_atomically(self.path / "run.json", seal(asdict(self.run)))

    def add_step(self, step: Step) -> None:
        """Append one optimizer step to steps.csv and to the log. Raises OSError."""
        self.steps.append(step)
        self._append(STEPS, _lines(astuple(step)))
        self._append(LOG, step.line())
        self.watch(step)

    def add_windows(self, windows: Sequence[Window]) -> None:
        """Append one evaluation to held_out.csv. Raises OSError."""
        self.windows += windows
        self._append(HELD_OUT, _lines(*map(astuple, windows)))
        self.watch(windows)

    def add_accuracy(self, found: Accuracy) -> None:
        """Write HellaSwag's accuracy into run.json. Raises OSError."""
        self.run.hellaswag.append(found)
        self.save()
        self.watch(found)

    def add_sample(self, sample: DrawnText) -> None:
        """Write a text drawn from the model into run.json. Raises OSError."""
        self.run.samples.append(sample)
        self.save()
        self.watch(sample)

    def forget_last_evaluation(self) -> None:
        """Drop what an evaluation after the last step has found so far; it begins anew."""
        run, steps = self.run, len(self.steps)
        self.windows = [window for window in self.windows if window.step < steps]
        run.hellaswag = [accuracy for accuracy in run.hellaswag if accuracy.step < steps]
        run.samples = [sample for sample in run.samples if (sample.step or 0) < steps]

    def end(self, status: Status, message: str | None = None) -> None:
        """Close the record with its final status."""
        self._close_files()
        self.run.status, self.run.message, self.run.ended = status, message, now()
        self.run.steps_sha256 = _sha256(self.path / STEPS)
        self.run.held_out_sha256 = _sha256(self.path / HELD_OUT)
        self.save()
        self.watch(self.run)

    def _open_files(self, steps: Sequence[Step], windows: Sequence[Window]) -> None:
        self._close_files()
        self.steps, self.windows = list(steps), list(windows)
        contents = {
            STEPS: _lines(columns(Step), *map(astuple, steps)),
            HELD_OUT: _lines(columns(Window), *map(astuple, windows)),
            LOG: "".join(step.line() for step in steps),
        }
        for name, content in contents.items() if self._writes else ():
            path = self.path / name
            write_atomically(path, content.encode())
            # Buffered by line: a line is handed to the system before the next step.
            self._files[name] = path.open("a", buffering=1, encoding="utf-8")

    def _append(self, name: str, lines: str) -> None:
        if not self._writes:
            return
        file = self._files[name]
        try:
            file.write(lines)
            if os.fstat(file.fileno()).st_nlink == 0:
                raise FileNotFoundError(None, "it was deleted while the run wrote to it")
        except OSError as error:
            raise OSError(error.errno, error.strerror, file.name) from error

    def _close_files(self) -> None:
        for file in self._files.values():
            with contextlib.suppress(OSError):
                file.close()
        self._files = {}


def is_done(run: Run, path: Path, keeps_weights: bool) -> bool:
    """Whether a run has its result and, if it must keep its weights, has them in its folder."""
    lacks_weights = keeps_weights and not (path / WEIGHTS).exists()
    return run.status.is_final and not (run.status is Status.finished and lacks_weights)


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def _lines(*rows: Iterable[object]) -> str:
    """Rows of a table, as CSV."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _sha256(file: Path) -> str | None:
    return file_sha256(file) if file.is_file() else None
