"""Run folders read back as three frames; nothing behind this file knows how a record lies on disk.

A record that cannot be read, or that is not a run's, is left out and named in `problems`.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
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


def read_records(experiments: Iterable[str | Path]) -> Records:
    """Every run under these experiment folders; see `reports.load`."""
    folders = list(dict.fromkeys(Path(experiment) for experiment in experiments))
    if not folders:
        raise UsageError("No experiment was named; give its folder, such as outputs/ladder.")
    problems: list[str] = []
    found: list[tuple[Run, dict[str, Any], pd.DataFrame, pd.DataFrame]] = []
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
    found.sort(key=lambda each: (each[1]["experiment"], *_order(each[0])))
    runs = pd.DataFrame([row for _, row, _, _ in found], columns=list(RUN_COLUMNS))
    steps = _joined([steps for _, _, steps, _ in found], runs)
    windows = _joined([windows for _, _, _, windows in found], runs)
    steps["loss"] = steps["loss"].where(np.isfinite(steps["loss"]))
    sums = steps.groupby("run", sort=False)[["tokens", "step_ms"]].cumsum()
    steps["tokens_seen"], steps["seconds"] = sums["tokens"], sums["step_ms"] / 1000
    counts = dict.fromkeys(("step", "first_token", "tokens"), np.int64)
    return Records(
        runs,
        steps[list(STEP_COLUMNS)].astype({"step": np.int64, "warm": bool}),
        windows[list(WINDOW_COLUMNS)].astype(counts),
        problems,
    )


def _joined(tables: list[pd.DataFrame], runs: pd.DataFrame) -> pd.DataFrame:
    """A table of all runs, with what the tables say of a run."""
    whole = pd.concat(tables, keys=runs["run"], names=["run"]).reset_index("run")
    return whole.merge(runs[["run", "experiment", "stage", "seed"]], on="run", how="left")


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


def _read(
    folder: Path, name: str, experiment: str, problems: list[str]
) -> tuple[Run, dict[str, Any], pd.DataFrame, pd.DataFrame]:
    """One run, its row, its steps and its windows; a table that cannot be read is empty."""
    try:
        run = read_run(folder)
    except FileNotFoundError:
        raise UnreadableRecord("there is no run.json beside its steps.csv") from None
    except OSError as error:
        raise UnreadableRecord(f"run.json cannot be read ({error.strerror})") from None
    if run.is_abandoned:
        message = "Its process ended without closing the record."
        run = replace(run, status=Status.interrupted, message=message)
    steps = _table(folder / STEPS, Step, run.steps_sha256, f"{name} has no curve", problems)
    if not steps["step"].is_monotonic_increasing or not steps["step"].is_unique:
        # A resumed run may write a step again; what it wrote last is what it trained on from.
        steps = steps.drop_duplicates("step", keep="last").sort_values("step", ignore_index=True)
    steps["warm"] = warm_steps(len(steps), run.resumed_at)
    without = f"{name} has no held-out windows"
    windows = _table(folder / HELD_OUT, Window, run.held_out_sha256, without, problems)
    if not run.status.is_final:
        done = [Step(*values) for values in steps[list(columns(Step))].itertuples(index=False)]
        run = replace(run, results=summarise(done, run.resumed_at, run.results))
    row = {
        **dict(_values(run.settings)),
        **dict(_values(run)),
        "run": name,
        "experiment": experiment,
        "status": run.status.value,
        "aim": run.stage.aim.value,
        "asked": _asked(folder, name, run, problems),
        "equal": must_be_equal(run),
        "equal_speed": speed_conditions(run),
        "frozen": run.model.frozen,
        "host": run.process.host,
    }
    return run, row, steps, windows


def _asked(folder: Path, name: str, run: Run, problems: list[str]) -> list[Asked]:
    """What was asked of a run; a line that cannot be, as its settings are others, is left out."""
    found = read_asked(folder)
    whole = [one for one in found if one.settings == found[0].settings and _is_object(one.typed)]
    if not found:
        again = f"type its command again: {run.command}"
        problems.append(f"{name} is compared with nothing, as it has no asked.csv; {again}.")
    elif len(whole) < len(found):
        problems.append(f"{name}: {len(found) - len(whole)} lines of asked.csv are damaged.")
    return whole


def _is_object(text: str) -> bool:
    with contextlib.suppress(ValueError):
        return isinstance(json.loads(text), dict)
    return False


def _table(
    path: Path, kind: type, sha256: str | None, without: str, problems: list[str]
) -> pd.DataFrame:
    """The whole lines of a table, Step or Window; empty, and a problem, where it cannot be read.

    `sha256` is the file's checksum when its run ended, or None while it has not: then the last line
    may be cut short.
    """
    names = list(columns(kind))
    try:
        content = path.read_bytes()
        if sha256 and hashlib.sha256(content).hexdigest() != sha256:
            raise UnreadableRecord(f"{path.name} is damaged: it is not what the run wrote")
        text = content.decode("utf-8")
        whole = text[: text.rfind("\n") + 1]
        raw = pd.read_csv(
            io.StringIO(whole), index_col=False, on_bad_lines="skip", float_precision="round_trip"
        )
        table = raw[names]
        if not all(dtype.kind in "fi" for dtype in table.dtypes):
            table = table.apply(pd.to_numeric, errors="coerce")
        table = table.astype(float)
    except FileNotFoundError:
        problems.append(f"{without}: there is no {path.name}.")
    except UnreadableRecord as error:
        problems.append(f"{without}: {error}.")
    except (OSError, UnicodeDecodeError):
        problems.append(f"{without}: {path.name} is not readable text.")
    except (ValueError, KeyError):
        problems.append(f"{without}: {path.name} has no columns {', '.join(names)}.")
    else:
        counts = table[[entry.name for entry in fields(kind) if entry.type is int]].to_numpy()
        return table[(np.isfinite(counts) & (counts >= 0)).all(axis=1)]
    return pd.DataFrame(columns=names, dtype=float)


def _values(part: Any) -> Iterator[tuple[str, Any]]:
    """The values of a record by column, as `runner.record.columns` names them."""
    for entry in fields(part):
        value = getattr(part, entry.name)
        if "doc" in entry.metadata:
            yield entry.metadata["column"] or entry.name, value
        elif is_dataclass(value):
            yield from _values(value)
