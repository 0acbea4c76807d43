"""Every fault of tests/faults injected many times, and docs/reliability.md written from it."""

import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import jinja2
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from rich.console import Console

from runner.device import device_name
from runner.record import commit
from tests.faults.faults import FAULTS
from tests.faults.fuzz import DAMAGE, OVERRIDES, TEXTS, Sandbox, sandbox
from tests.faults.lab import Lab

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "reliability.md"
KEPT = PAGE.with_suffix(".json")
CASES = {"overrides": 6000, "texts": 2000, "records": 2000}


@dataclass(frozen=True)
class Row:
    """A line of the table: what was injected, how often, what came of it, and at which commit."""

    fault: str
    afterwards: str
    injected: int
    outcome: str
    seconds: float
    commit: str


def measure(console: Console, parts: list[str]) -> None:
    """Inject everything, or one part of PARTS, and write the page after each line of its table."""
    with tempfile.TemporaryDirectory() as folder:
        for part in parts or list(PARTS):
            for row in PARTS[part](Path(folder)):
                console.print(f"{row.outcome} {row.injected:,} x {row.fault} ({row.seconds:.0f} s)")
                write(row)


def _faults(folder: Path) -> Iterator[Row]:
    text = folder / "text.txt"
    text.write_bytes(_english()[:80_000])
    shared = folder / "undisturbed"
    shared.mkdir()
    for fault in FAULTS:
        place = folder / fault.inject.__name__
        place.mkdir()
        lab = Lab(place, text, place / "cache", random.Random(fault.name), shared)
        yield _tried(
            fault.name, fault.afterwards, fault.times, lambda f=fault, at=lab: f.inject(at, f.times)
        )


def _input(folder: Path) -> Iterator[Row]:
    yield _tried(
        "a download cut off, at a trickle, stalled, with another hash, redirected to an error page "
        "or away from https",
        "the cache is untouched; fallback or one sentence within a bounded time",
        7,
        lambda: _pytest("tests/gpt2/test_text.py", "goes_wrong or another_hash"),
    )
    for name, what, strategy, check in (
        ("overrides", "random overrides", OVERRIDES, lambda box, case: box.runner(*case)),
        ("texts", "random bytes as a text file", TEXTS, _train_on),
        (
            "records",
            "random damage to records",
            DAMAGE,
            lambda box, d: box.damaged(d, d.place < 0.05),
        ),
    ):
        place = folder / name
        place.mkdir()
        yield _tried(
            what,
            "a valid run, or one sentence and an exit that is not 0; no traceback, no hang, no "
            "file outside the output and cache folders",
            CASES[name],
            lambda at=place, s=strategy, c=check, n=CASES[name]: _fuzz(at, s, c, n),
        )


def _tried(fault: str, afterwards: str, times: int, inject: Callable[[], Any]) -> Row:
    started = time.monotonic()
    try:
        inject()
        outcome = "held"
    except pytest.skip.Exception as skipped:
        outcome, times = f"not tried: {skipped}", 0
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        traceback.print_exc()
        outcome = f"FAILED: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    head, dirty = commit()
    at = f"{head}, changed since" if dirty else str(head)
    return Row(fault, afterwards, times, outcome, time.monotonic() - started, at)


def _train_on(box: Sandbox, text: bytes) -> None:
    box.text.write_bytes(text)
    box.runner("train.context=4", "train.micro_batch_size=1", "force=true")


def _fuzz(folder: Path, strategy: Any, check: Callable[[Sandbox, Any], Any], cases: int) -> None:
    with sandbox(folder, _english()[:80_000]) as box:

        @settings(
            max_examples=cases,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def hold(case: Any) -> None:
            check(box, case)

        hold()


def _pytest(file: str, expression: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", file, "-k", expression]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


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


PARTS = {"faults": _faults, "input": _input}
