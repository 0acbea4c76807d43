"""Runs out of files that are tables: CSV, JSON, JSON lines, and TensorBoard's event files."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from reports.logs.formats import MEASURES, numbers

# What loggers call a column, in lower case.
NAMES = {
    "step": ("step", "_step", "global_step", "trainer/global_step", "iter", "iteration"),
    "loss": ("loss", "train/loss", "train_loss", "train_loss_step", "training_loss", "loss/train"),
    "held_out": (
        "held_out", "held_out/loss", "eval_loss", "eval/loss", "val_loss", "val/loss",
        "valid_loss", "validation_loss", "loss/val",
    ),
    "bits_per_byte": ("bits_per_byte", "val_bpb", "val/bpb"),
    "seconds": ("seconds", "_runtime", "relative time (process)", "train_runtime"),
    "step_ms": ("step_ms",),
    "planned": ("max_steps",),
}  # fmt: skip
# A run's column in an export of W&B's charts; pandas counts columns of one name.
CHART = re.compile(r"(?P<run>.+) - (?P<what>.+?)(?P<bound>__MIN|__MAX)?(?P<count>\.\d+)?")
SPLITS = ("train", "val", "validation", "eval")
LINES = re.compile(r'{".*}\s*\n{"')  # JSON lines


def is_table(name: str, head: str) -> bool:
    """Whether a file is read as a table and not as lines; `head` are its first characters."""
    known = {".csv", ".json", ".jsonl", ".ndjson"}
    return bool(known & {*Path(name).suffixes[-2:]} or LINES.match(head))


def read_table(text: str, columns: Mapping[str, str]) -> Iterator[tuple[str, pd.DataFrame]]:
    """The runs of a table, by a name if it holds many; `columns` of ours are called so in it.

    Raises ValueError where it is no table, or has no column for the step or a loss.
    """
    if text.lstrip()[:1] in ("{", "["):
        if rows := _rows(text):
            yield "", _chosen(pd.DataFrame(rows), columns)
        return
    table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    charts = {name: match for name in table if (match := CHART.fullmatch(str(name)))}
    if not charts:
        yield "", _chosen(table, columns)
    for run in dict.fromkeys((m["run"], m["count"]) for m in charts.values()):
        its = {n: m["what"] for n, m in charts.items() if (m["run"], m["count"]) == run}
        its = {name: what for name, what in its.items() if not charts[name]["bound"]}
        of_run = table[[name for name in table if name in its or name not in charts]]
        logged = of_run[(of_run[[*its]] != "").any(axis="columns")]
        yield f"{run[0]}{run[1] or ''}", _chosen(logged.rename(columns=its), columns)


def _rows(text: str) -> list[dict[str, Any]]:
    """The rows of JSON: a list, the `log_history` of a trainer's state, or a line each."""
    try:
        found = json.loads(text, parse_constant=str)
    except ValueError:
        lines = text.strip().split("\n")
        whole = lines if lines[-1].endswith("}") else lines[:-1]  # the last one may be cut
        found = [json.loads(line, parse_constant=str) for line in whole if line.strip()]
    is_state = isinstance(found, dict)
    rows = (found.get("log_history") or ()) if is_state else found
    rows = [row for row in rows if isinstance(row, dict)]
    if is_state and rows:
        # A run that sums itself up has ended, maybe early; its train_loss is the mean of the run's.
        steps = found.get("global_step" if "train_runtime" in rows[-1] else "max_steps")
        kept = [{k: v for k, v in row.items() if k != "train_loss"} for row in rows]
        rows = [row | {"max_steps": steps} for row in kept]
    if len({frozenset(row) for row in rows}) == 1:  # a table, whose empty cells are NaN
        rows = [{k: None if v == "NaN" else v for k, v in row.items()} for row in rows]
    return rows


def _chosen(table: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    """The columns that were typed, or that are called as usual."""
    theirs = {str(name).lower(): name for name in reversed(table.columns)}
    usual = {ours: [theirs[n] for n in names if n in theirs] for ours, names in NAMES.items()}
    found = {ours: each[0] for ours, each in usual.items() if each} | dict(columns)
    missing = [name for name in columns.values() if name not in table]
    if missing or "step" not in found or not {*found} & {*MEASURES}:
        what = missing[0] if missing else "for a loss" if "step" in found else "for the step"
        some = ", ".join(map(str, table.columns[:8]))
        raise ValueError(f"it has no column {what}, but {some}; --columns step=...,loss=...")
    texts = table.astype(object).where(table.notna(), "").astype(str)
    return numbers({ours: texts[name].tolist() for ours, name in found.items()})


def read_events(folder: Path, columns: Mapping[str, str]) -> pd.DataFrame:
    """The run of a folder of event files, and of those below it that are called after a split.

    Raises ValueError where tensorboard is not installed.
    """
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        what = "pip install 'gpt2-ladder[tensorboard]'"
        raise ValueError(f"it needs a package that is not installed: {what}") from None
    scalars = []
    for split in (each for each in ("", *SPLITS) if (folder / each).is_dir()):
        events = EventAccumulator(str(folder / split), size_guidance={"scalars": 0}).Reload()
        for tag in events.Tags()["scalars"]:
            name = f"{split}/{tag}".strip("/")
            scalars += [(name, each) for each in events.Scalars(tag)]
    if not scalars:
        return pd.DataFrame()
    began = min(each.wall_time for _, each in scalars)
    # As text a loss that is no number is told from no loss.
    rows = [
        {"step": s.step, tag: str(s.value), "seconds": s.wall_time - began} for tag, s in scalars
    ]
    return _chosen(pd.DataFrame(rows).sort_values("step", kind="stable"), columns)
