"""Run folders read back, as typed runs and as DataFrames.

A record that cannot be read, or that is not a run's, is left out and named in `problems`.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import numpy.typing as npt
import pandas as pd

from conf.errors import UsageError
from runner.record import (
    FIRST_WITH_WINDOWS,
    HELD_OUT,
    STEPS,
    Run,
    Settings,
    Status,
    Step,
    UnreadableRecord,
    Window,
    columns,
    read_run,
    summarise,
)

Floats = npt.NDArray[np.float64]


def _described(kind: type) -> dict[str, str]:
    """The columns of a record's type, and of the types inside it, with what each holds."""
    found: dict[str, str] = {}
    types = get_type_hints(kind)
    for entry in fields(kind):
        if "doc" in entry.metadata:
            found[entry.metadata["column"] or entry.name] = entry.metadata["doc"]
        elif is_dataclass(inner := types[entry.name]):
            assert isinstance(inner, type)
            found |= _described(inner)
    return found


RUN_COLUMNS = {
    "run": "the run's folder, from the experiment's name down: ladder/step07/seed1-1a2b3c4d",
    **_described(Settings),
    **_described(Run),
}
STEP_COLUMNS = {
    **dict.fromkeys(("run", "experiment", "stage", "seed"), "as in runs"),
    **columns(Step),
    "tokens_seen": "tokens trained on up to and with the step",
    "seconds": "sum of step_ms up to and with the step, in seconds",
}
HELD_OUT_COLUMNS = {
    **dict.fromkeys(("run", "experiment", "stage", "seed"), "as in runs"),
    **columns(Window),
}


@dataclass(frozen=True)
class Curve:
    """The steps of a run, an array for each of the last columns of STEP_COLUMNS."""

    step: Floats
    loss: Floats
    grad_norm: Floats
    lr: Floats
    step_ms: Floats
    tokens: Floats
    tokens_seen: Floats
    seconds: Floats


@dataclass(frozen=True)
class HeldOut:
    """The held-out losses of a run, an array for each column of held_out.csv."""

    step: Floats
    first_token: Floats
    tokens: Floats
    loss: Floats

    @property
    def curve(self) -> pd.Series:
        """The mean loss of each evaluation, by step."""
        return pd.Series(self.loss).groupby(self.step).mean()

    @property
    def final(self) -> Floats:
        """The losses of the last evaluation, in the order of the windows."""
        last = self.step == max(self.step, default=0)
        return self.loss[last][np.argsort(self.first_token[last])]


@dataclass(frozen=True)
class ReadRun:
    """A run as it was read: its name as in RUN_COLUMNS, its record and its two tables."""

    name: str
    experiment: str
    record: Run
    curve: Curve
    held_out: HeldOut

    @property
    def finished(self) -> bool:
        return self.record.status is Status.finished

    @property
    def is_ablation(self) -> bool:
        """Whether steps were taken back from its stage or added to it."""
        return not self.record.ablation.is_plain


@dataclass(frozen=True, repr=False)
class Records:
    """What was read.

    found: every run, in order of experiment, stage, seed and start.
    runs: a row a run, columns as in RUN_COLUMNS.
    steps: a row a step of a run (tidy), columns as in STEP_COLUMNS.
    held_out: a row a window of an evaluation of a run (tidy), columns as in HELD_OUT_COLUMNS.
    problems: a sentence for each record that was left out, or read only in part.
    """

    found: list[ReadRun]
    problems: list[str]

    def __repr__(self) -> str:
        return self._short.to_string(index=False)

    def _repr_html_(self) -> str:
        return self._short.to_html(index=False, border=0)

    @property
    def _short(self) -> pd.DataFrame:
        shown = ["run", "status", "worst", "best", "held_out", "tokens_per_second"]
        return self.runs[shown].round(3)

    @cached_property
    def runs(self) -> pd.DataFrame:
        return pd.DataFrame([_row(run) for run in self.found], columns=list(RUN_COLUMNS))

    @cached_property
    def steps(self) -> pd.DataFrame:
        tables = [_tidy(run, run.curve) for run in self.found]
        whole = pd.concat(tables, ignore_index=True)[list(STEP_COLUMNS)]
        return whole.astype({"step": np.int64})

    @cached_property
    def held_out(self) -> pd.DataFrame:
        tables = [_tidy(run, run.held_out) for run in self.found]
        whole = pd.concat(tables, ignore_index=True)[list(HELD_OUT_COLUMNS)]
        return whole.astype(dict.fromkeys(("step", "first_token", "tokens"), np.int64))


def _tidy(run: ReadRun, table: Curve | HeldOut) -> pd.DataFrame:
    about = {"run": run.name, "experiment": run.experiment}
    about |= {"stage": run.record.stage.name, "seed": run.record.seed}  # type: ignore[dict-item]
    return pd.DataFrame(vars(table)).assign(**about)


def read_records(experiments: Iterable[str | Path]) -> Records:
    """Every run under these experiment folders; see `reports.load`."""
    folders = list(dict.fromkeys(Path(experiment) for experiment in experiments))
    if not folders:
        raise UsageError("No experiment was named; give its folder, such as outputs/ladder.")
    found: list[ReadRun] = []
    problems: list[str] = []
    for experiment, named in _names(folders).items():
        for folder in _run_folders(experiment):
            name = f"{named}/{folder.parent.name}/{folder.name}"
            try:
                found.append(_read(folder, name, named, problems))
            except UnreadableRecord as error:
                problems.append(f"{name} is left out: {error}.")
    if not found:
        first = f" The first problem: {problems[0]}" if problems else ""
        raise UsageError(
            f"No record of {len(problems)} under {folders[0]} can be read; train a stage with "
            f"`python -m runner +stage=step02`.{first}"
        )
    found.sort(key=lambda run: (run.experiment, *_order(run.record)))
    return Records(found, problems)


def _order(run: Run) -> tuple[int, str, int, str]:
    return run.stage.number, run.stage.name, run.seed, run.started


def _names(folders: Sequence[Path]) -> dict[Path, str]:
    """The folders' own names, with the parent's before it where two are called the same."""
    names = [os.fsencode(f.absolute().name).decode(errors="backslashreplace") for f in folders]
    return {
        folder: f"{folder.absolute().parent.name}/{name}" if names.count(name) > 1 else name
        for folder, name in zip(folders, names, strict=True)
    }


def _run_folders(experiment: Path) -> list[Path]:
    advice = "train a stage first with `python -m runner +stage=step02`"
    if not experiment.is_dir():
        what = "is not a folder" if experiment.exists() else "does not exist"
        raise UsageError(
            f"{experiment} {what}; give an experiment's folder, such as outputs/ladder, "
            f"or {advice}."
        )
    try:
        files = [
            file
            for name in ("run.json", "steps.csv")
            for file in experiment.glob(f"*/*/{name}")
            if file.parent.name != "report"  # of an experiment below
        ]
        below = sorted(experiment.glob("*/*/*/run.json"))
    except OSError as error:
        raise UsageError(f"{experiment} cannot be read: {error.strerror}.") from None
    if not files and below:
        raise UsageError(
            f"{experiment} holds experiments, not runs; name one of them, "
            f"such as `python -m reports {below[0].parents[2]}`."
        )
    if not files:
        raise UsageError(
            f"{experiment} holds no runs (a run is <stage>/<label>/run.json); {advice}."
        )
    return sorted({file.parent for file in files})


def _read(folder: Path, name: str, experiment: str, problems: list[str]) -> ReadRun:
    """One run; a table is empty, and a problem is named, where it cannot be read."""
    try:
        run = read_run(folder)
    except FileNotFoundError:
        raise UnreadableRecord("there is no run.json beside its steps.csv") from None
    except OSError as error:
        raise UnreadableRecord(f"run.json cannot be read ({error.strerror})") from None
    if run.is_abandoned:
        message = "Its process ended without closing the record."
        run = replace(run, status=Status.interrupted, message=message)
    table = _table(folder / STEPS, Step, run.steps_sha256, f"{name} has no curve", problems)
    # A resumed run may write a step again; what it wrote last is what it trained on from.
    table = table.drop_duplicates("step", keep="last").sort_values("step", ignore_index=True)
    table["loss"] = table["loss"].where(np.isfinite(table["loss"]))
    windows = pd.DataFrame(columns=list(columns(Window)), dtype=float)
    if run.format >= FIRST_WITH_WINDOWS:
        without = f"{name} has no held-out windows"
        windows = _table(folder / HELD_OUT, Window, run.held_out_sha256, without, problems)
    if not run.status.is_final:
        steps = [Step(*values) for values in table.itertuples(index=False)]
        run = replace(run, results=summarise(steps, run.resumed_at, run.results))
    sums = {"tokens_seen": table["tokens"].cumsum(), "seconds": table["step_ms"].cumsum() / 1000}
    curve = {str(key): np.asarray(value) for key, value in table.assign(**sums).items()}
    held_out = HeldOut(**{str(key): np.asarray(value) for key, value in windows.items()})
    return ReadRun(name, experiment, run, Curve(**curve), held_out)


def _table(
    path: Path, kind: type, sha256: str | None, without: str, problems: list[str]
) -> pd.DataFrame:
    """A table of the record, Step or Window; empty, and a problem, where it cannot be read."""
    try:
        return _read_table(path, list(columns(kind)), sha256)
    except UnreadableRecord as error:
        problems.append(f"{without}: {error}.")
        return pd.DataFrame(columns=list(columns(kind)), dtype=float)


def _read_table(path: Path, names: list[str], sha256: str | None) -> pd.DataFrame:
    """The whole lines of a CSV file; a last line cut short was never finished.

    `sha256` is the file's checksum when its run ended, or None while it has not.
    """
    try:
        content = path.read_bytes()
        text = content.decode("utf-8")
    except FileNotFoundError:
        raise UnreadableRecord(f"there is no {path.name}") from None
    except (OSError, UnicodeDecodeError):
        raise UnreadableRecord(f"{path.name} is not readable text") from None
    if sha256 and hashlib.sha256(content).hexdigest() != sha256:
        raise UnreadableRecord(f"{path.name} is damaged: it is not what the run wrote")
    whole = text[: text.rfind("\n") + 1]
    try:
        raw = pd.read_csv(
            io.StringIO(whole), index_col=False, on_bad_lines="skip", float_precision="round_trip"
        )
        table = raw[names].apply(pd.to_numeric, errors="coerce").astype(float)
    except (ValueError, KeyError):
        raise UnreadableRecord(f"{path.name} has no columns {', '.join(names)}") from None
    return table[np.isfinite(table["step"]) & (table["step"] >= 0)]


def _row(run: ReadRun) -> dict[str, Any]:
    record = run.record
    row = {**dict(_values(record.settings)), **dict(_values(record)), "status": record.status.value}
    return {"run": run.name, **row, "experiment": run.experiment}


def _values(part: Any) -> Iterator[tuple[str, Any]]:
    """The values of a record by column, as `_described` names them."""
    for entry in fields(part):
        value = getattr(part, entry.name)
        if "doc" in entry.metadata:
            yield entry.metadata["column"] or entry.name, value
        elif is_dataclass(value):
            yield from _values(value)
