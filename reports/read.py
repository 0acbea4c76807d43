"""Run folders read back as three frames; nothing behind this file knows how a record lies on disk.

A record that cannot be read, or that is not a run's, is left out and named in `problems`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from conf.errors import UsageError
from runner import record
from runner.rows import HELD_OUT, STEPS, Asked, Step, Window, columns, read_asked, warm_steps

Floats = npt.NDArray[np.float64]
Row = Any  # a row of the frame of runs: its columns are its attributes
Folder = tuple[str, Path, record.Run]  # a run's name, from its experiment's down, and its record

WHOSE = dict.fromkeys(("run", "experiment", "stage", "seed"), "as in runs")
RUN_COLUMNS = {
    "run": "the run's folder, from the experiment's name down: ladder/step07/seed1-1a2b3c4d",
    **columns(record.Settings),
    **columns(record.Run),
    "asked": "what commands asked of it, see runner.rows.Asked",
    "equal": "what must be equal to compare losses, see runner.record.must_be_equal",
    "equal_speed": "what must be equal to compare speeds too",
    "frozen": "parameters that the model needs no gradient for",
    "host": "the machine's name",
}
STEP_COLUMNS = {
    **WHOSE,
    **columns(Step),
    "warm": "whether the step counts for speed",
    "tokens_seen": "tokens trained on up to and with the step",
    "seconds": "sum of step_ms up to and with the step, in seconds",
}
WINDOW_COLUMNS = {**WHOSE, **columns(Window)}


@dataclass(frozen=True, repr=False)
class Records:
    """A row a run, a step and a window of an evaluation, with RUN_COLUMNS and so on.

    They are in order of experiment, stage, seed and start. `problems` has a sentence for each
    record that was left out, or read only in part.
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
        """The runs one by one; of an empty value that is not a number, None."""
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
        table = self.evaluations.get(run, self.windows[:0])
        last = table[table["step"] == table["step"].max()]
        return last.sort_values("first_token")["loss"].to_numpy()


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
            with _noted(problems, f"{name} is left out"):
                folders.append((name, path, record.read_run(path)))
    if not folders:
        raise UsageError(
            f"No record of {len(problems)} under {paths[0]} can be read; train a stage "
            f"first, such as step02. The first problem: {problems[0]}"
        )
    steps = _table(folders, STEPS, Step, problems)
    # A resumed run may write a step again; what it wrote last is what it trained on from.
    steps = steps.drop_duplicates(["of", "step"], keep="last")
    steps = steps.sort_values(["of", "step"], ignore_index=True)
    windows = _table(folders, HELD_OUT, Window, problems)
    by_run = steps.groupby("of")
    rows, warm = [], []
    for number, (name, path, run) in enumerate(folders):
        taken = steps.iloc[by_run.indices.get(number, [])]
        asked = _asked(name, path, run.command, problems)
        rows.append({**_row(name, run, taken), "asked": asked})
        warm += warm_steps(len(taken), run.resumed_at)
    steps["warm"] = np.array(warm, bool)
    steps["tokens_seen"] = by_run["tokens"].cumsum()
    steps["seconds"] = by_run["step_ms"].cumsum() / 1000
    steps["loss"] = steps["loss"].where(np.isfinite(steps["loss"]))
    runs = pd.DataFrame(rows, columns=list(RUN_COLUMNS))
    runs = runs.sort_values(["experiment", "number", "stage", "seed", "started"])
    # A copy lies in memory by type, which makes each run's part of it small.
    steps, windows = (
        runs[list(WHOSE)].merge(table, left_index=True, right_on="of")[list(names)].copy()
        for table, names in ((steps, STEP_COLUMNS), (windows, WINDOW_COLUMNS))
    )
    return Records(runs.reset_index(drop=True), steps, windows, problems)


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
        # An experiment below this one has a report.
        if folders := {file.parent for file in files if file.parent.name != "report"}:
            return sorted(folders)
        below = sorted(experiment.glob("*/*/*/run.json"))
        what = "holds no runs" if experiment.exists() else "does not exist"
    except OSError as error:
        raise UsageError(f"{experiment} cannot be read: {error.strerror}.") from None
    if below:
        raise UsageError(
            f"{experiment} holds experiments, not runs; name one of them, such as "
            f"{below[0].parents[2]}."
        )
    raise UsageError(
        f"{experiment} {what}; give an experiment's folder, such as outputs/ladder, or train a "
        f"stage first, such as step02. Logs of another script need a name: a={experiment}."
    )


@contextlib.contextmanager
def _noted(problems: list[str], what: str) -> Iterator[None]:
    """Where a file cannot be read within, have the problems say what that means, and why."""
    try:
        yield
    except record.UnreadableRecord as error:
        problems.append(f"{what}: {error}.")
    except FileNotFoundError as error:
        problems.append(f"{what}: there is no {Path(error.filename).name}.")
    except OSError as error:
        problems.append(f"{what}: it cannot be read ({error.strerror}).")


def _row(name: str, run: record.Run, steps: pd.DataFrame) -> dict[str, Any]:
    """A run as a row of the frame of runs, given its steps."""
    if run.is_abandoned:
        message = "Its process ended without closing the record."
        run = replace(run, status=record.Status.interrupted, message=message)
    if not run.status.is_final:
        table = steps[list(columns(Step))]
        done = [Step(*values) for values in table.itertuples(index=False)]
        run = replace(run, results=record.summarise(done, run.resumed_at, run.results))
    return {
        **dict(_values(run.settings)),
        **dict(_values(run)),
        "run": name,
        "experiment": name.rsplit("/", 2)[0],
        "equal": record.must_be_equal(run),
        "equal_speed": record.speed_conditions(run),
        "frozen": run.model.frozen,
        "host": run.process.host,
    }


def _asked(name: str, path: Path, command: str, problems: list[str]) -> list[Asked]:
    """What was asked of a run; a line that cannot be, as its settings are others, is left out."""
    found, whole = read_asked(path), []
    for one in found:
        with contextlib.suppress(ValueError):
            if one.settings == found[0].settings and isinstance(json.loads(one.typed), dict):
                whole.append(one)
    if not found:
        again = f"as it has no asked.csv; type its command again: {command}"
        problems.append(f"{name} is compared with nothing, {again}.")
    elif len(whole) < len(found):
        problems.append(f"{name}: {len(found) - len(whole)} lines of asked.csv are damaged.")
    return whole


def _table(folders: Sequence[Folder], file: str, kind: type, problems: list[str]) -> pd.DataFrame:
    """The lines of numbers of a table of all runs, Step or Window, with the number of the run.

    The last line may be cut short. A file of a run that has ended must be what the run wrote.
    """
    names, numbers = list(columns(kind)), array("d")
    for number, (name, path, run) in enumerate(folders):
        wrote = getattr(run, f"{file.removesuffix('.csv')}_sha256")
        with _noted(problems, f"{name} is shown without its {file}"):
            content = (path / file).read_bytes()
            if wrote and hashlib.sha256(content).hexdigest() != wrote:
                raise record.UnreadableRecord("it is damaged, and not what the run wrote")
            first, *lines = content.decode(errors="replace").split("\n")
            if first != ",".join(names):
                raise record.UnreadableRecord(f"its columns are not {', '.join(names)}")
            for line in lines[:-1]:
                with contextlib.suppress(ValueError):
                    values = [float(number), *map(float, line.split(","))]
                    numbers.extend(values if len(values) == 1 + len(names) else ())
    rows = np.array(numbers).reshape(-1, 1 + len(names))
    table = pd.DataFrame(rows, columns=["of", *names])
    counts = ["of", *(entry.name for entry in fields(kind) if entry.type is int)]
    counted = table[counts].ge(0) & table[counts].lt(2**53)
    return table[counted.all(axis=1)].astype(dict.fromkeys(counts, np.int64))


def _values(part: Any) -> Iterator[tuple[str, Any]]:
    """The values of a record by column, as `runner.rows.columns` names them."""
    for entry in fields(part):
        value = getattr(part, entry.name)
        if "doc" in entry.metadata:
            name = entry.metadata["column"] or entry.name
            yield name, value.value if isinstance(value, Enum) else value
        elif is_dataclass(value):
            yield from _values(value)
