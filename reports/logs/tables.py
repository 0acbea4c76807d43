"""Runs out of files that are tables: CSV, JSON, JSON lines, and TensorBoard's event files."""

from __future__ import annotations

import io
import json
import math
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
CHART = re.compile(r"(.+) - (.+?)(__MIN|__MAX)?")  # a run's column in an export of W&B's charts


def is_table(name: str, head: str) -> bool:
    """Whether a file is read as a table and not as lines; `head` are its first characters."""
    return ".csv" in Path(name).suffixes or head.lstrip()[:1] in ("{", "[")


def read_table(text: str, columns: Mapping[str, str]) -> Iterator[tuple[str, pd.DataFrame]]:
    """The runs of a table, by a name if it holds many; `columns` of ours are called so in it.

    Raises ValueError where it is no table, or has no column for the step or a loss.
    """
    if text.lstrip()[:1] in ("{", "["):
        yield "", _chosen(pd.DataFrame(_rows(text)), columns)
        return
    table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    charts = {name: match for name in table if (match := CHART.fullmatch(str(name)))}
    if not charts:
        yield "", _chosen(table, columns)
    for run in dict.fromkeys(match[1] for match in charts.values()):
        its = {name: m[2] for name, m in charts.items() if m[1] == run and not m[3]}
        of_run = table[[name for name in table if name in its or name not in charts]]
        yield run, _chosen(of_run.rename(columns=its), columns)


def _rows(text: str) -> list[dict[str, Any]]:
    """The rows of JSON: a list, the `log_history` of a trainer's state, or a line each."""
    infinite: Any = {"parse_constant": lambda name: math.inf}  # NaN is a loss, and no empty cell
    try:
        found = json.loads(text, **infinite)
    except ValueError:
        lines = text.strip().split("\n")
        whole = lines if lines[-1].endswith("}") else lines[:-1]  # the last one may be cut
        return [json.loads(line, **infinite) for line in whole if line.strip()]
    if isinstance(found, dict):
        # The last entry of a trainer's state has the mean of the run's losses.
        planned, history = {"max_steps": found.get("max_steps")}, found.get("log_history", [found])
        found = [{k: v for k, v in row.items() if k != "train_loss"} | planned for row in history]
    return [row for row in found if isinstance(row, dict)]


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
    cells = table[[*found.values()]].astype(object)
    texts = cells.where(cells.notna(), "").astype(str)
    return numbers({ours: texts[name].tolist() for ours, name in found.items()})


def read_events(folder: Path, columns: Mapping[str, str]) -> pd.DataFrame:
    """The run of a folder of event files. Raises ValueError where tensorboard is not installed."""
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        what = "pip install 'gpt2-ladder[tensorboard]'"
        raise ValueError(f"it needs a package that is not installed: {what}") from None
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    scalars = [(tag, each) for tag in events.Tags()["scalars"] for each in events.Scalars(tag)]
    began = min((each.wall_time for _, each in scalars), default=0.0)
    rows = [{"step": s.step, tag: s.value, "seconds": s.wall_time - began} for tag, s in scalars]
    return _chosen(pd.DataFrame(rows), columns)
