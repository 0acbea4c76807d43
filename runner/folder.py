"""The record of a run on disk: run.json, steps.csv and log.txt in a folder of its own."""

import contextlib
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from filelock import FileLock, Timeout
from rich.console import Console

from runner.files import DamagedFile, file_sha256, seal, unseal, write_atomically

FORMAT = 2
ROOT = Path(__file__).parent.parent
FINAL = ("finished", "diverged")
CHECKPOINT = "checkpoint.safetensors"
WEIGHTS = "weights.safetensors"


class Step(NamedTuple):
    """One optimizer step: loss in nats per token, the norm before clipping, milliseconds."""

    step: int
    loss: float
    grad_norm: float
    lr: float
    step_ms: float
    tokens: int

    def is_finite(self) -> bool:
        """Whether the step's loss and norm are numbers to go on from."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)

    def row(self) -> str:
        """The step's line of steps.csv."""
        return ",".join(map(str, self)) + "\n"

    def line(self) -> str:
        """The step's line of the log, in the guide's form."""
        return (
            f"step {self.step}, loss: {self.loss}, norm: {self.grad_norm:.4f}, "
            f"dt: {self.step_ms:.2f}ms\n"
        )


class Record:
    """A run's folder. `fields` is what run.json holds; `save` writes it by rename, never half.

    `steps` are the steps done so far. What writes holds the folder's lock, see `held`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.steps: list[Step] = []
        self.damage: str | None = None
        self._files: list[TextIO] = []
        self.reload()

    def reload(self) -> None:
        """Read run.json; `damage` says what is wrong with it or with steps.csv, if anything is."""
        self.fields: dict[str, Any] = {}
        self.damage = None
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            try:
                self.fields = unseal((self.folder / "run.json").read_bytes())
            except DamagedFile as error:
                self.damage = f"{self.folder / 'run.json'} is damaged: {error}"
        if self.status in FINAL:
            steps = self.folder / "steps.csv"
            if not steps.is_file() or file_sha256(steps) != self.fields["steps_sha256"]:
                self.damage = f"{steps} is damaged: it is not what the run wrote"

    @property
    def status(self) -> str | None:
        """running, finished, diverged, interrupted or failed; None where nothing was started."""
        return self.fields.get("status")

    @contextlib.contextmanager
    def held(self, console: Console) -> Iterator[bool]:
        """Hold the folder against other processes; the lock of one that died is free.

        Waits for a process that trains in it, and says so; gives whether it had to.
        """
        waited = False
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            self.reload()
            holder = self.fields.get("process", {})
            console.print(
                f"{self.folder}: waiting for process {holder.get('pid')} on {holder.get('host')}, "
                "which is training it.",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
            lock.acquire()
            waited = True
        try:
            self.reload()
            yield waited
        finally:
            lock.release()

    def start(self, fields: dict[str, Any], afresh: bool) -> None:
        """Open the record, with nothing measured yet; `afresh` throws a checkpoint away."""
        stale = ["steps.csv", "log.txt", "traceback.txt"]
        if afresh or not (self.folder / CHECKPOINT).exists():
            stale += [CHECKPOINT, WEIGHTS]
        for name in stale:
            (self.folder / name).unlink(missing_ok=True)
        for left in self.folder.glob(".tmp*"):  # by safetensors, killed as it wrote
            left.unlink(missing_ok=True)
        if self.damage and (self.folder / "run.json").exists():
            os.replace(self.folder / "run.json", self.folder / "run.json.damaged")
        self.fields = {
            "format": FORMAT,
            "status": "running",
            "message": None,
            "diverged_at": None,
            **fields,
            "process": {"host": platform.node(), "pid": os.getpid()},
            "started": _now(),
            "resumed_at": [],
            "ended": None,
            "applied": [],
            "not_applied": {},
            "checks": [],
            "timings": {},
            "results": {},
            "samples": [],
            "weights": None,
            "steps_sha256": None,
        }
        self.save()
        self._open_files(())

    def go_on(self, steps: Sequence[Step], carried: dict[str, Any]) -> None:
        """Take up what a checkpoint carried: the steps up to it, and fields of run.json."""
        self.fields.update(carried)
        self.fields["resumed_at"].append(len(steps))
        self.save()
        for file in self._files:
            file.close()
        self._open_files(steps)

    def add_time(self, what: str, seconds: float) -> None:
        """Add to one of the run's timings, which are sums over all its starts."""
        self.fields["timings"][what] = self.fields["timings"].get(what, 0.0) + seconds

    def save(self) -> None:
        """Write run.json as it stands."""
        write_atomically(self.folder / "run.json", seal(self.fields))

    def step(self, step: Step) -> None:
        """Append one optimizer step to steps.csv and to the log. Raises OSError."""
        self.steps.append(step)
        for file, line in zip(self._files, (step.row(), step.line()), strict=True):
            try:
                file.write(line)
                if os.fstat(file.fileno()).st_nlink == 0:
                    raise FileNotFoundError(None, "it was deleted while the run wrote to it")
            except OSError as error:
                raise OSError(error.errno, error.strerror, file.name) from error

    def end(self, status: str, message: str | None = None) -> None:
        """Close the record with its final status."""
        for file in self._files:
            with contextlib.suppress(OSError):
                file.close()
        steps = self.folder / "steps.csv"
        self.fields.update(status=status, message=message, ended=_now())
        self.fields["steps_sha256"] = file_sha256(steps) if steps.exists() else None
        self.save()

    def _open_files(self, steps: Sequence[Step]) -> None:
        self.steps = list(steps)
        self._files = []
        header = ",".join(Step._fields) + "\n"
        for name, lines in (
            ("steps.csv", [header, *(step.row() for step in steps)]),
            ("log.txt", [step.line() for step in steps]),
        ):
            path = self.folder / name
            write_atomically(path, "".join(lines).encode())
            # Line by line: what was written is on its way to the disk before the next step.
            self._files.append(path.open("a", buffering=1, encoding="utf-8"))


def read_run(folder: Path) -> dict[str, Any] | None:
    """A folder's run.json, or None where there is none that can be read."""
    try:
        return unseal((folder / "run.json").read_bytes())
    except (OSError, DamagedFile):
        return None


def baseline_of(fields: dict[str, Any], experiment: Path) -> dict[str, Any] | None:
    """The newest finished baseline that a run may be compared with: same data, scale, seed."""

    def conditions(run: dict[str, Any]) -> tuple[Any, ...]:
        config, environment = run["config"], run["environment"]
        return (
            run["data"]["sha256"],
            config["scale"]["name"],
            config["seed"],
            environment["device_name"],
            run["code"],
            run["variant"],
        )

    found = []
    for file in experiment.glob("*/*/run.json"):
        run = read_run(file.parent)
        try:
            if (
                run
                and run["stage"]["aim"] == "baseline"
                and run["status"] == "finished"
                and conditions(run) == conditions(fields)
            ):
                found.append(run)
        except (KeyError, TypeError):
            continue
    return max(found, key=lambda run: str(run["ended"]), default=None)


def fingerprint(config: dict[str, Any], data_sha256: str, code: str) -> str:
    """What a run's outcome depends on, as one hash."""
    whole = json.dumps([config, data_sha256, code], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()


@cache
def code_hash() -> str:
    """The training code as one hash: the model's, the loop's and the checks' source, and torch."""
    digest = hashlib.sha256(importlib.metadata.version("torch").encode())
    for room in ("gpt2", "runner", "stages"):
        for source in sorted((ROOT / room).glob("*.py")):
            digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()


@cache
def commit() -> tuple[str | None, bool]:
    """The commit of this checkout and whether files differ from it; (None, False) outside git."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return head, bool(_git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, False


def _git(*arguments: str) -> str:
    command = ("git", "-C", str(ROOT), *arguments)
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
