"""Every fault of tests/faults injected many times, and docs/reliability.md written from it."""

import json
import os
import platform
import random
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from rich.console import Console

from runner.identity import commit
from runner.training.device import device_name
from tests.faults.faults import FAULTS, Fault
from tests.faults.fuzz import DAMAGE, OVERRIDES, TEXTS, Damage, Sandbox, sandbox
from tests.faults.lab import Lab

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "reliability.md"
KEPT = PAGE.with_suffix(".json")


@dataclass(frozen=True)
class Row:
    """A line of the table: the fault, how often it was injected, the outcome, and the commit."""

    fault: str
    afterwards: str
    injected: int
    outcome: str
    seconds: float
    commit: str


@dataclass(frozen=True)
class Trial:
    """A line of the table that is still to be measured; `inject` returns how often it did."""

    fault: str
    afterwards: str
    inject: Callable[[Path], int]


def trials() -> dict[str, Trial]:
    """Every trial by the name it has on the command line."""
    found = {
        fault.inject.__name__: Trial(fault.name, fault.afterwards, partial(_inject, fault))
        for fault in FAULTS
    }
    found["downloads"] = Trial(
        "a download cut off, at a trickle, stalled, with another hash, redirected to an error page "
        "or away from https",
        "the cache is untouched; fallback or one sentence within a bounded time",
        _downloads,
    )
    survived = (
        "a valid run, or one sentence and an exit that is not 0; no traceback, no hang, no file "
        "outside the output and cache folders"
    )
    for name, what, cases, strategy, check in (
        ("overrides", "random overrides", 6000, OVERRIDES, lambda box, case: box.runner(*case)),
        ("texts", "random bytes as a text file", 2000, TEXTS, _train_on),
        ("records", "random damage to records", 2000, DAMAGE, _damage),
    ):
        found[name] = Trial(what, survived, partial(_fuzz, strategy, check, cases))
    return found


def measure(console: Console, names: list[str]) -> None:
    """Inject what is named, or everything; writes the page after each line of its table."""
    everything = trials()
    if unknown := set(names) - everything.keys():
        sys.exit(f"No such trial: {', '.join(unknown)}; there are {', '.join(everything)}.")
    for name in names or list(everything):
        with tempfile.TemporaryDirectory() as folder:
            row = _tried(everything[name], Path(folder))
        console.print(f"{name}: {row.outcome}, {row.injected:,} times, in {row.seconds:.0f} s")
        write(row)


def _tried(trial: Trial, folder: Path) -> Row:
    started = time.monotonic()
    try:
        injected, outcome = trial.inject(folder), "held"
    except pytest.skip.Exception as skipped:
        injected, outcome = 0, f"not tried: {skipped}"
    except Exception as error:
        traceback.print_exc()
        first = next(iter(str(error).splitlines()), type(error).__name__)
        injected, outcome = 0, f"FAILED: {first}"
    head, dirty = commit()
    at = f"{head}, changed since" if dirty else str(head)
    seconds = time.monotonic() - started
    return Row(trial.fault, trial.afterwards, injected, outcome, seconds, at)


def _inject(fault: Fault, folder: Path) -> int:
    text, shared = folder / "text.txt", folder / "undisturbed"
    text.write_bytes(_english()[:80_000])
    shared.mkdir()
    fault.inject(
        Lab(folder, text, folder / "cache", random.Random(fault.name), shared), fault.times
    )
    return fault.times


def _downloads(folder: Path) -> int:
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "tests/runner/data/test_text.py"]
    chosen = ["-k", "goes_wrong or another_hash"]
    done = subprocess.run([*command, *chosen], cwd=ROOT, check=True, capture_output=True, text=True)
    (passed,) = re.findall(r"(\d+) passed", done.stdout)
    return int(passed)


def _damage(box: Sandbox, damage: Damage) -> None:
    box.damaged(damage, whole=damage.place < 0.05)


def _train_on(box: Sandbox, text: bytes) -> None:
    box.text.write_bytes(text)
    box.runner("train.context=4", "train.micro_batch_size=1", "force=true")


def _fuzz(strategy: Any, check: Callable[[Sandbox, Any], Any], cases: int, folder: Path) -> int:
    tried = 0
    with sandbox(folder, _english()[:80_000]) as box:

        @settings(
            max_examples=cases,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def hold(case: Any) -> None:
            nonlocal tried
            tried += 1
            check(box, case)

        hold()
    return tried


def _english() -> bytes:
    import pydoc_data.topics

    return "\n\n".join(pydoc_data.topics.topics.values()).encode()


def write(row: Row) -> None:
    """A row into docs/reliability.json, in place of an earlier one of its fault, and the page."""
    kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    rows = {**kept.get("rows", {}), row.fault: asdict(row)}
    measured = {
        "date": str(datetime.now(timezone.utc).date()),
        "machine": f"{os.cpu_count()} cores of {device_name(torch.device('cpu'))}",
        "system": platform.platform(),
        "torch": torch.__version__,
        "rows": rows,
    }
    KEPT.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    order = [fault.name for fault in FAULTS]
    rows = dict(sorted(rows.items(), key=lambda r: order.index(r[0]) if r[0] in order else 99))
    template = (Path(__file__).parent / "reliability.md.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        trim_blocks=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    page = environment.from_string(template).render({**measured, "rows": list(rows.values())})
    PAGE.write_text(page, encoding="utf-8")
