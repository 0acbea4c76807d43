"""Run folders read back as three frames; nothing behind this file knows how a record lies on disk.

A record that cannot be read, or that is not a run's, is left out and named in `problems`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from conf.errors import UsageError
from runner.record import (
    HELD_OUT,
    STEPS,
    Asked,
    Run,
    Settings,
    Status,
    Step,
    UnreadableRecord,
    Window,
    columns,
    must_be_equal,
    read_asked,
    read_run,
    speed_conditions,
    summarise,
    warm_steps,
)

Floats = npt.NDArray[np.float64]
Row = Any  # a row of the frame of runs: its columns are its attributes


RUN_COLUMNS = {
    "run": "the run's folder, from the experiment's name down: ladder/step07/seed1-1a2b3c4d",
    **columns(Settings),
    **columns(Run),
    "asked": "what commands asked of it, see runner.record.Asked",
    "equal": "what must be equal to compare losses, see runner.record.must_be_equal",
    "equal_speed": "what must be equal to compare speeds too",
    "frozen": "parameters that the model needs no gradient for",
    "host": "the machine's name",
}
STEP_COLUMNS = {
    **dict.fromkeys(("run", "experiment", "stage", "seed"), "as in runs"),
    **columns(Step),
    "warm": "whether the step counts for speed",
    "tokens_seen": "tokens trained on up to and with the step",
    "seconds": "sum of step_ms up to and with the step, in seconds",
}
WINDOW_COLUMNS = {
    **dict.fromkeys(("run", "experiment", "stage", "seed"), "as in runs"),
    **columns(Window),
}


@dataclass(frozen=True, repr=False)
class Records:
    """What was read.

    runs: a row a run, columns as in RUN_COLUMNS, in order of experiment, stage, seed and start.
    steps: a row a step of a run (tidy), columns as in STEP_COLUMNS.
    windows: a row a window of an evaluation of a run (tidy), columns as in WINDOW_COLUMNS.
    problems: a sentence for each record that was left out, or read only in part.
    """

    runs: pd.DataFrame
    steps: pd.DataFrame
    windows: pd.DataFrame
    problems: list[str]

    def __repr__(self) -> str:
        shown = ["run", "status", "worst", "best", "held_out", "tokens_per_second"]
        return self.runs[shown].round(3).to_string(index=False)

    @cached_property
    def rows(self) -> list[Row]:
        """The runs one by one; what is no number is None where there is nothing to say."""
        frame = self.runs.copy()
        words = frame.select_dtypes(exclude="number")
        frame[words.columns] = words.astype(object).where(words.notna(), None)
        return list(frame.itertuples(index=False, name="RunRow"))

    @cached_property
    def curves(self) -> dict[str, pd.DataFrame]:
        """The steps of each run that has some."""
        return {str(run): table for run, table in self.steps.groupby("run", sort=False)}

    @cached_property
    def evaluations(self) -> dict[str, pd.DataFrame]:
        """The held-out windows of each run that has some."""
        return {str(run): table for run, table in self.windows.groupby("run", sort=False)}

    def final_windows(self, run: str) -> Floats:
        """The losses of a run's last evaluation, in nats/token, in the order of the windows."""
        if run not in self.evaluations:
            return np.empty(0)
        table = self.evaluations[run]
        last = table[table["step"] == table["step"].max()]
        return last.sort_values("first_token")["loss"].to_numpy()


@dataclass(frozen=True)
class Folder:
    """A run's folder with its record; `name` is the run's, from its experiment's down."""

    experiment: str
    name: str
    path: Path
    run: Run


def read_records(experiments: Iterable[str | Path]) -> Records:
    """Every run under these experiment folders; see `reports.load`."""
    paths = list(dict.fromkeys(Path(experiment) for experiment in experiments))
    if not paths:
        raise UsageError("No experiment was named; give its folder, such as outputs/ladder.")
    problems: list[str] = []
    folders: list[Folder] = []
    for experiment, named in _names(paths).items():
        for path in _run_folders(experiment):
            name = f"{named}/{path.parent.name}/{path.name}"
            try:
                folders.append(Folder(named, name, path, _read_run(path)))
            except UnreadableRecord as error:
                problems.append(f"{name} is left out: {error}.")
    if not folders:
        first = f" The first problem: {problems[0]}" if problems else ""
        raise UsageError(
            f"No record of {len(problems)} under {paths[0]} can be read; train a stage with "
            f"`python -m runner +stage=step02`.{first}"
        )
    folders.sort(key=lambda f: (
        f.experiment, f.run.stage.number, f.run.stage.name, f.run.seed, f.run.started,
    ))  # fmt: skip
    steps = _table(folders, STEPS, Step, problems).sort_values(["run", "step"], kind="stable")
    # A resumed run may write a step again; what it wrote last is what it trained on from.
    steps = steps.drop_duplicates(["run", "step"], keep="last", ignore_index=True)
    windows = _table(folders, HELD_OUT, Window, problems)
    taken = steps.groupby("run").indices
    rows = [_row(f, steps.iloc[taken.get(i, [])], problems) for i, f in enumerate(folders)]
    runs = pd.DataFrame(rows, columns=list(RUN_COLUMNS))
    warm = [warm_steps(len(taken.get(i, [])), f.run.resumed_at) for i, f in enumerate(folders)]
    steps["warm"] = [*chain.from_iterable(warm)]
    steps["loss"] = steps["loss"].where(np.isfinite(steps["loss"]))
    sums = steps.groupby("run")[["tokens", "step_ms"]].cumsum()
    steps["tokens_seen"], steps["seconds"] = sums["tokens"], sums["step_ms"] / 1000
    return Records(
        runs,
        _of_runs(steps, runs)[list(STEP_COLUMNS)].astype({"warm": bool}),
        _of_runs(windows, runs)[list(WINDOW_COLUMNS)],
        problems,
    )


def _of_runs(table: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """A table with the runs' names for their numbers, and with what the tables say of a run."""
    said = runs[["run", "experiment", "stage", "seed"]].iloc[table["run"]]
    return pd.concat([said.reset_index(drop=True), table.drop(columns="run")], axis=1)


def _names(folders: Sequence[Path]) -> dict[Path, str]:
    """The folders' own names, with the parent's before it where two are called the same."""
    names = [os.fsencode(f.absolute().name).decode(errors="backslashreplace") for f in folders]
    return {
        folder: f"{folder.absolute().parent.name}/{name}" if names.count(name) > 1 else name
        for folder, name in zip(folders, names, strict=True)
    }


def _run_folders(experiment: Path) -> list[Path]:
    try:
        files = [f for name in ("run.json", STEPS) for f in experiment.glob(f"*/*/{name}")]
        below = sorted(experiment.glob("*/*/*/run.json"))
    except OSError as error:
        raise UsageError(f"{experiment} cannot be read: {error.strerror}.") from None
    # An experiment below this one has a report.
    if folders := sorted({file.parent for file in files if file.parent.name != "report"}):
        return folders
    if below:
        raise UsageError(
            f"{experiment} holds experiments, not runs; name one of them, "
            f"such as `python -m reports {below[0].parents[2]}`."
        )
    what = "is not a folder" if experiment.exists() else "does not exist"
    if experiment.is_dir():
        what = "holds no runs (a run is <stage>/<label>/run.json)"
    raise UsageError(
        f"{experiment} {what}; give an experiment's folder, such as outputs/ladder, or train a "
        "stage first with `python -m runner +stage=step02`."
    )


def _read_run(path: Path) -> Run:
    try:
        run = read_run(path)
    except FileNotFoundError:
        raise UnreadableRecord("there is no run.json beside its steps.csv") from None
    except OSError as error:
        raise UnreadableRecord(f"run.json cannot be read ({error.strerror})") from None
    if run.is_abandoned:
        message = "Its process ended without closing the record."
        run = replace(run, status=Status.interrupted, message=message)
    return run


def _row(folder: Folder, steps: pd.DataFrame, problems: list[str]) -> dict[str, Any]:
    """A run as a row of the frame of runs, given its steps."""
    run = folder.run
    if not run.status.is_final:
        done = [Step(*values) for values in steps[list(columns(Step))].itertuples(index=False)]
        run = replace(run, results=summarise(done, run.resumed_at, run.results))
    return {
        **dict(_values(run.settings)),
        **dict(_values(run)),
        "run": folder.name,
        "experiment": folder.experiment,
        "status": run.status.value,
        "aim": run.stage.aim.value,
        "asked": _asked(folder, problems),
        "equal": must_be_equal(run),
        "equal_speed": speed_conditions(run),
        "frozen": run.model.frozen,
        "host": run.process.host,
    }


def _asked(folder: Folder, problems: list[str]) -> list[Asked]:
    """What was asked of a run; a line that cannot be, as its settings are others, is left out."""
    found = read_asked(folder.path)
    whole = [one for one in found if one.settings == found[0].settings and _is_object(one.typed)]
    if not found:
        again = f"type its command again: {folder.run.command}"
        problems.append(f"{folder.name} is compared with nothing, as it has no asked.csv; {again}.")
    elif len(whole) < len(found):
        problems.append(f"{folder.name}: {len(found) - len(whole)} lines of asked.csv are damaged.")
    return whole


def _is_object(text: str) -> bool:
    with contextlib.suppress(ValueError):
        return isinstance(json.loads(text), dict)
    return False


def _table(folders: Sequence[Folder], file: str, kind: type, problems: list[str]) -> pd.DataFrame:
    """The whole lines of a table of all runs, Step or Window, with the number of the run.

    A file that cannot be read joins the problems. The last line may be cut short.
    """
    names, lines = list(columns(kind)), []
    for number, folder in enumerate(folders):
        run = folder.run
        sha256 = run.steps_sha256 if kind is Step else run.held_out_sha256
        try:
            text = _text(folder.path / file, ",".join(names), sha256)
        except UnreadableRecord as error:
            what = "curve" if kind is Step else "held-out windows"
            problems.append(f"{folder.name} has no {what}: {error}.")
        else:
            lines += [f"{number},{line}".split(",") for line in text.split("\n")[1:-1]]
    whole = [line for line in lines if len(line) == 1 + len(names)]
    table = pd.DataFrame(whole, columns=["run", *names]).apply(pd.to_numeric, errors="coerce")
    counts = ["run", *(entry.name for entry in fields(kind) if entry.type is int)]
    counted = table[counts].ge(0) & table[counts].lt(np.inf)
    kinds = {name: np.int64 if name in counts else np.float64 for name in table}
    return table[counted.all(axis=1)].astype(kinds).reset_index(drop=True)


def _text(path: Path, header: str, sha256: str | None) -> str:
    """A table's lines below its header; `sha256` is its checksum once its run has ended."""
    try:
        content = path.read_bytes()
        text = content.decode("utf-8")
    except FileNotFoundError:
        raise UnreadableRecord(f"there is no {path.name}") from None
    except (OSError, UnicodeDecodeError):
        raise UnreadableRecord(f"{path.name} is not readable text") from None
    if sha256 and hashlib.sha256(content).hexdigest() != sha256:
        raise UnreadableRecord(f"{path.name} is damaged: it is not what the run wrote")
    if not text.startswith(f"{header}\n"):
        raise UnreadableRecord(f"{path.name} has no columns {header.replace(',', ', ')}")
    return text


def _values(part: Any) -> Iterator[tuple[str, Any]]:
    """The values of a record by column, as `runner.record.columns` names them."""
    for entry in fields(part):
        value = getattr(part, entry.name)
        if "doc" in entry.metadata:
            yield entry.metadata["column"] or entry.name, value
        elif is_dataclass(value):
            yield from _values(value)
