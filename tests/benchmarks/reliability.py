"""Every fault of tests/faults injected many times, and docs/reliability.md written from it."""

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
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from runner.identity import commit
from runner.training.device import device_name
from tests.benchmarks.ours import ROOT
from tests.benchmarks.pages import DOCS, read, save, write
from tests.faults import fuzz, odd_commands, odd_files, odd_models
from tests.faults.faults import FAULTS, Fault
from tests.faults.fuzz import Sandbox, sandbox
from tests.faults.lab import Lab

PAGE = DOCS / "reliability.md"

Row = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """A line of the table; `inject` returns how often it did."""

    fault: str
    afterwards: str
    inject: Callable[[Path], int]


SURVIVED = (
    "a valid run, or one sentence and an exit that is not 0; no traceback, no hang, no file "
    "outside the output and cache folders"
)
# What is drawn at random: its name on the command line, what it is, what must be so afterwards, how
# many cases, their strategy, and the check of one.
DRAWN: list[tuple[str, str, str, int, Any, Callable[[Sandbox, Any], None]]] = [
    ("overrides", "random overrides", SURVIVED, 6000, fuzz.OVERRIDES, fuzz.check_overrides),
    ("texts", "random bytes as a text file", SURVIVED, 2000, fuzz.TEXTS, fuzz.check_text),
    ("records", "random damage to records", SURVIVED, 2000, fuzz.DAMAGE, fuzz.check_damage),
    (
        "models",
        "odd but legal custom models: layers without use, lazy or tied, buffers expanded or grown, "
        "parts compiled or parametrized, draws of random, NumPy and torch, states of any kind, and "
        "those that exit, panic or take few positions",
        "trained; the same numbers with looks and evaluations, and resumed; kept weights are read "
        "again; or refused in a sentence before the first step",
        40, odd_models.MODELS, odd_models.hold,
    ),
    (
        "exits",
        "custom models that exit or panic while they are trained",
        "the record is closed as failed",
        30, odd_models.MODELS, odd_models.hold_record,
    ),
    (
        "names",
        "files, folders and links of any name: brackets, quotes, line breaks, other scripts, loops "
        "of links, sockets; given as a file, a folder or a glob",
        "each file is read once, and what exists is no glob",
        1000, odd_files.TREES, odd_files.check_tree,
    ),
    (
        "formats",
        "text, JSON lines and parquet in eight encodings and five compressions under any name, "
        "alone and in a folder",
        "its own tokens, or a sentence that names the file",
        1000, odd_files.FILES, odd_files.check_format,
    ),
    (
        "documents",
        "JSON lines with lines that are blank, broken, too deep or have huge numbers; compressed "
        "in several parts, cut off, with garbage behind",
        "the tokens of all documents, or a sentence that names the line",
        1000, odd_files.DOCUMENTS, odd_files.check_documents,
    ),
    (
        "columns",
        "parquet columns of every type of string and of others, not UTF-8, cut off",
        "the tokens of all rows, or a sentence that names the file",
        1000, odd_files.COLUMNS, odd_files.check_column,
    ),
    (
        "typed",
        "texts that look like numbers or truth values, for every key that holds a text",
        "what was typed, in a run and in a sweep",
        300, odd_commands.TYPED, odd_commands.check_typed,
    ),
    (
        "quoted",
        "values in quotes and between blanks, as programs type them",
        "a dry run answers as for plain ones",
        100, odd_commands.QUOTED, odd_commands.check_quoted,
    ),
    (
        "configuration",
        "files of the configuration in other encodings, with marks, nested deeply, damaged, called "
        ".yml, folders, links to nowhere",
        "read, or named in one sentence",
        500, odd_commands.FILES, odd_commands.check_file,
    ),
    (
        "streams",
        "a reader or a terminal that is gone, a full disk, closed streams, terminals in five "
        "encodings",
        "the process ends as with a reader; what cannot be shown is replaced",
        500, odd_commands.STREAMS, odd_commands.check_streams,
    ),
    (
        "neighbours",
        "modules in the current folder that have the names of this project's packages",
        "no command is broken by them",
        100, odd_commands.NAMES, odd_commands.check_names,
    ),
    (
        "modules",
        "custom models in modules of such names, or that import such",
        "a sentence that names the file",
        300, odd_commands.MODULES, odd_commands.check_module,
    ),
    (
        "ends",
        "records of any status, with and without a held-out loss",
        "the exit status is that of the record",
        200, odd_commands.ENDS, odd_commands.check_end,
    ),
]  # fmt: skip


def trials() -> dict[str, Trial]:
    """Every trial by the name it has on the command line."""
    found = {f.inject.__name__: Trial(f.name, f.afterwards, partial(_inject, f)) for f in FAULTS}
    found["downloads"] = Trial(
        "a download cut off, at a trickle, stalled, with another hash, redirected to an error page "
        "or away from https",
        "the cache is untouched; fallback or one sentence within a bounded time",
        _downloads,
    )
    for name, what, afterwards, cases, strategy, check in DRAWN:
        found[name] = Trial(what, afterwards, partial(_fuzz, strategy, check, cases))
    return found


def main(*names: str) -> None:
    """Inject what is named, or everything; writes the page after each line of its table."""
    everything = trials()
    if unknown := set(names) - everything.keys():
        sys.exit(f"No such trial: {', '.join(unknown)}; there are {', '.join(everything)}.")
    for name in names or everything:
        with tempfile.TemporaryDirectory() as folder:
            row = _tried(everything[name], Path(folder))
        print(f"{name}: {row['outcome']}, {row['injected']:,} times, in {row['seconds']:.0f} s")
        keep(row)


def _tried(trial: Trial, folder: Path) -> Row:
    started = time.monotonic()
    injected = 0
    try:
        injected, outcome = trial.inject(folder), "held"
    except pytest.skip.Exception as skipped:
        outcome = f"not tried: {skipped}"
    except Exception as error:
        traceback.print_exc()
        outcome = f"FAILED: {next(iter(str(error).splitlines()), type(error).__name__)}"
    head, dirty = commit()
    return {
        "fault": trial.fault,
        "afterwards": trial.afterwards,
        "injected": injected,
        "outcome": outcome,
        "seconds": time.monotonic() - started,
        "commit": f"{head}, changed since" if dirty else str(head),
    }


def _inject(fault: Fault, folder: Path) -> int:
    text, shared = folder / "text.txt", folder / "undisturbed"
    text.write_bytes(_english())
    shared.mkdir()
    lab = Lab(folder, text, folder / "cache", random.Random(fault.name), shared)
    fault.inject(lab, fault.times)
    return fault.times


def _downloads(folder: Path) -> int:
    chosen = (  # by their names, so that pytest fails where one has another
        "failed_download_ends_soon_and_does_not_change_the_cache",
        "download_with_another_hash_is_refused_and_kept_out_of_the_cache",
    )
    tests = [f"tests/runner/data/test_text.py::test_a_{name}" for name in chosen]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", *tests]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    (passed,) = re.findall(r"(\d+) passed", done.stdout)
    return int(passed)


def _fuzz(strategy: Any, check: Callable[[Sandbox, Any], Any], cases: int, folder: Path) -> int:
    tried = 0
    health = list(HealthCheck)
    with sandbox(folder, _english()) as box:

        @settings(max_examples=cases, deadline=None, database=None, suppress_health_check=health)
        @given(strategy)
        def hold(case: Any) -> None:
            nonlocal tried
            tried += 1
            check(box, case)

        hold()
    return tried


def _english() -> bytes:
    return "\n\n".join(topics.values()).encode()[:80_000]


def keep(row: Row) -> None:
    """A row into docs/reliability.json, in place of an earlier one of its fault, and the page."""
    kept = read(PAGE)["rows"] if PAGE.with_suffix(".json").exists() else {}
    found = {
        "date": str(datetime.now(timezone.utc).date()),
        "machine": f"{os.cpu_count()} cores of {device_name(torch.device('cpu'))}",
        "system": platform.platform(),
        "torch": torch.__version__,
        "rows": {**kept, row["fault"]: row},
    }
    save(PAGE, found)
    rows = [found["rows"].get(trial.fault) for trial in trials().values()]
    write(PAGE, **{**found, "rows": filter(None, rows)})
