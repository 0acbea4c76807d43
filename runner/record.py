"""The record of a run on disk: run.json, steps.csv and log.txt in a folder of its own."""

import csv
import hashlib
import importlib.metadata
import json
import math
import subprocess
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

from gpt2.text import write_atomically

FORMAT = 1
COLUMNS = ("step", "loss", "grad_norm", "lr", "step_ms", "tokens")
ROOT = Path(__file__).parent.parent


class Record:
    """A run's folder. `fields` is what run.json holds; `save` writes it by rename, never half."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fields: dict[str, Any] = read_run(folder) or {}

    @property
    def status(self) -> str | None:
        """running, finished, diverged, interrupted or failed; None where nothing was started."""
        return self.fields.get("status")

    def start(self, fields: dict[str, Any]) -> None:
        """Begin anew, with nothing measured yet."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for stale in ("steps.csv", "log.txt", "weights.safetensors"):
            (self.folder / stale).unlink(missing_ok=True)
        self.fields = {
            "format": FORMAT,
            "status": "running",
            "message": None,
            "diverged_at": None,
            **fields,
            "started": _now(),
            "ended": None,
            "applied": [],
            "not_applied": {},
            "checks": [],
            "timings": {},
            "results": {},
            "samples": [],
        }
        self.save()
        with (self.folder / "steps.csv").open("w", newline="") as file:
            csv.writer(file).writerow(COLUMNS)

    def save(self) -> None:
        """Write run.json as it stands."""
        text = json.dumps(_finite(self.fields), indent=1, ensure_ascii=False, default=str)
        write_atomically(self.folder / "run.json", text.encode())

    def step(
        self, step: int, loss: float, grad_norm: float, lr: float, step_ms: float, tokens: int
    ) -> str:
        """Append one optimizer step and return its line, in the guide's form."""
        line = f"step {step}, loss: {loss}, norm: {grad_norm:.4f}, dt: {step_ms:.2f}ms"
        with (self.folder / "steps.csv").open("a", newline="") as file:
            csv.writer(file).writerow((step, loss, grad_norm, lr, round(step_ms, 3), tokens))
        with (self.folder / "log.txt").open("a") as file:
            file.write(line + "\n")
        return line

    def end(self, status: str, message: str | None = None) -> None:
        """Close the record with its final status."""
        self.fields.update(status=status, message=message, ended=_now())
        self.save()


def read_run(folder: Path) -> dict[str, Any] | None:
    """A folder's run.json, or None where there is none that can be read."""
    try:
        fields = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return fields if isinstance(fields, dict) else None


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


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
