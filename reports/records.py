"""Run folders read into DataFrames: `outputs/<experiment>/<stage>/<label>/{run.json,steps.csv}`.

A record that cannot be read, or is not one of ours, is left out and named in `Records.problems`.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reports.errors import ReportError
from runner.files import DamagedFile, process_is_gone, unseal

FORMAT = 2
STATUSES = ("finished", "running", "interrupted", "diverged", "failed")

# Steps before the clock is steady: the first ones pay for compilation, caches and allocation.
WARMUP_STEPS = 3

TEXTS = {
    "stage": "stage.name",
    "title": "stage.title",
    "aim": "stage.aim",
    "guide": "stage.guide",
    "claim": "stage.claim",
    "label": "label",
    "status": "status",
    "message": "message",
    "fingerprint": "fingerprint",
    "code": "code",
    "command": "command",
    "started": "started",
    "ended": "ended",
    "model": "config.model.name",
    "data": "data.name",
    "data_sha256": "data.sha256",
    "data_fallback": "data.fallback",
    "scale": "config.scale.name",
    "device": "environment.device",
    "device_name": "environment.device_name",
    "python": "environment.python",
    "torch": "environment.torch",
    "platform": "environment.platform",
    "commit": "environment.commit",
    "peak_flops_dtype": "results.peak_flops_dtype",
    "steps_sha256": "steps_sha256",
}
NUMBERS = {
    "number": "stage.number",
    "seed": "config.seed",
    "diverged_at": "diverged_at",
    "steps_planned": "config.train.steps",
    "micro_batch_size": "config.train.micro_batch_size",
    "context": "config.train.context",
    "clip_grad_norm": "config.train.clip_grad_norm",
    "learning_rate": "config.train.learning_rate",
    "data_bytes": "data.bytes",
    "data_tokens": "data.tokens",
    "train_tokens": "data.train_tokens",
    "held_out_tokens": "data.held_out_tokens",
    "parameters": "model.parameters",
    "flops_per_token": "model.flops_per_token",
    "threads": "environment.threads",
    "setup_s": "timings.setup_s",
    "compile_s": "timings.compile_s",
    "train_s": "timings.train_s",
    "evaluation_s": "timings.evaluation_s",
    "worst": "results.worst",
    "best": "results.best",
    "first": "results.first",
    "last": "results.last",
    "held_out": "results.held_out",
    "tokens_per_second": "results.tokens_per_second",
    "step_ms": "results.step_ms",
    "tokens_per_step": "results.tokens_per_step",
    "mfu": "results.mfu",
    "peak_flops": "results.peak_flops",
    "peak_memory_bytes": "results.peak_memory_bytes",
}

RUN_COLUMNS = {
    "run": "the run's folder, from the experiment's name down: ladder/step07/seed1-1a2b3c4d",
    "experiment": "name of the experiment's folder",
    "stage": "name of the stage, as in +stage=step07",
    "number": "the stage's rung on the ladder, from 1",
    "title": "the stage's title",
    "aim": "what the stage is for: flow, baseline, loss, speed, stability, or a word of its own",
    "guide": "the guide's words in short",
    "claim": "what the guide claims for the stage, or empty",
    "label": "name of the run's folder",
    "seed": "seed of the draws and of the order of the data",
    "status": "running, finished, diverged, interrupted or failed",
    "message": "why it diverged, failed or was interrupted, or empty",
    "diverged_at": "step at which the loss was no longer finite",
    "fingerprint": "hash of config, data and code",
    "code": "hash of the training code and torch's version",
    "command": "command that makes the run again",
    "variant": "overrides that change the training, sorted and joined by spaces; empty for the "
    "ladder proper",
    "started": "start, ISO 8601, UTC",
    "ended": "end, ISO 8601, UTC, or empty",
    "model": "name of the model",
    "parameters": "parameters of the model",
    "flops_per_token": "floating point operations a trained token costs",
    "data": "name of the data",
    "data_sha256": "hash of the text",
    "data_bytes": "size of the text in bytes",
    "data_tokens": "tokens of the text",
    "train_tokens": "tokens trained on",
    "held_out_tokens": "tokens held out",
    "data_fallback": "why this data was used instead of what was asked for, or empty",
    "scale": "name of the scale",
    "steps_planned": "optimizer steps the run was to take",
    "micro_batch_size": "sequences in a micro batch",
    "context": "tokens in a sequence",
    "clip_grad_norm": "norm to which gradients are clipped; NaN without clipping",
    "learning_rate": "peak learning rate",
    "device": "cpu, cuda or mps",
    "device_name": "the device's own name",
    "threads": "CPU threads torch used",
    "python": "version of Python",
    "torch": "version of torch",
    "platform": "operating system",
    "commit": "commit of the code, or empty",
    "dirty": "whether the code differed from the commit",
    "setup_s": "seconds to set the run up",
    "compile_s": "seconds of compilation, which step_ms leaves out",
    "train_s": "seconds of training",
    "evaluation_s": "seconds of held-out evaluation",
    "steps": "steps in steps.csv",
    "worst": "highest training loss, nats/token",
    "best": "lowest training loss, nats/token",
    "first": "training loss of the first step, nats/token",
    "last": "training loss of the last step, nats/token",
    "held_out": "loss on the held-out text, nats/token",
    "tokens_per_second": "median over the steady steps",
    "step_ms": "milliseconds of a step, median over the steady steps",
    "tokens_per_step": "tokens in an optimizer step",
    "mfu": "FLOP/s of the model over peak_flops",
    "peak_flops": "FLOP/s of a matrix product measured on the machine",
    "peak_flops_dtype": "type of that matrix product",
    "peak_memory_bytes": "largest memory of the run in bytes",
    "changes": "dict, what the stage changes: dotted key -> (before, after)",
    "applied": "list of the techniques that acted",
    "not_applied": "dict, technique -> why it did not act",
    "checks": "list of dicts: name, passed, detail",
    "samples": "list of dicts: prompt, seed, text",
    "config": "dict, the whole resolved configuration",
}

STEP_COLUMNS = {
    "run": "as in runs",
    "experiment": "as in runs",
    "stage": "as in runs",
    "seed": "as in runs",
    "step": "optimizer step, from 0",
    "loss": "training loss, mean over the step's micro batches, nats/token; NaN where it diverged",
    "grad_norm": "global L2 norm of the gradient before clipping",
    "lr": "learning rate",
    "step_ms": "wall milliseconds of the step",
    "tokens": "tokens trained on in the step",
    "tokens_seen": "tokens trained on up to and with the step",
    "seconds": "sum of step_ms up to and with the step, in seconds",
}
MEASURED = ("step", "loss", "grad_norm", "lr", "step_ms", "tokens")

CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True)
class Records:
    """What was read.

    runs: a row a run, columns as in RUN_COLUMNS, in order of experiment, stage, seed and start.
    steps: a row a step of a run (tidy), columns as in STEP_COLUMNS.
    problems: a sentence for each record that was left out, or read only in part.
    """

    runs: pd.DataFrame
    steps: pd.DataFrame
    problems: list[str]


class _Unreadable(Exception):
    """Why a record is left out."""


def read_records(experiments: Iterable[str | Path]) -> Records:
    """Every run under these experiment folders; see `reports.load`."""
    folders = list(dict.fromkeys(Path(experiment) for experiment in experiments))
    if not folders:
        raise ReportError("Name at least one experiment's folder, such as outputs/ladder.")
    names = _names(folders)
    rows: list[dict[str, Any]] = []
    tables: list[pd.DataFrame] = []
    problems: list[str] = []
    for experiment in folders:
        for folder in _run_folders(experiment):
            name = f"{names[experiment]}/{folder.parent.name}/{folder.name}"
            try:
                row = _read_run(folder)
            except _Unreadable as error:
                problems.append(f"{name} is left out: {error}.")
                continue
            row |= {"run": name, "experiment": names[experiment]}
            try:
                table = _read_steps(folder / "steps.csv", row.pop("steps_sha256"))
            except _Unreadable as error:
                problems.append(f"{name} has no curve: {error}.")
                table = _no_steps()
            _fill_from_steps(row, table)
            rows.append(row)
            tables.append(table.assign(**{key: row[key] for key in list(STEP_COLUMNS)[:4]}))
    if not rows:
        first = f" The first problem: {problems[0]}" if problems else ""
        raise ReportError(
            f"No record of {len(problems)} under {folders[0]} can be read; train a stage with "
            f"`python -m runner +stage=step02`.{first}"
        )
    runs = pd.DataFrame(rows, columns=list(RUN_COLUMNS))
    runs = runs.sort_values(["experiment", "number", "stage", "seed", "started"], kind="stable")
    steps = pd.concat(tables, ignore_index=True)[list(STEP_COLUMNS)]
    return Records(runs.reset_index(drop=True), steps, problems)


def _names(folders: list[Path]) -> dict[Path, str]:
    """The folders' own names, with the parent's before it where two are called the same."""
    names = {folder: folder.resolve().name for folder in folders}
    shared = {name for name in names.values() if list(names.values()).count(name) > 1}
    return {
        folder: f"{folder.resolve().parent.name}/{name}" if name in shared else name
        for folder, name in names.items()
    }


def _run_folders(experiment: Path) -> list[Path]:
    if not experiment.is_dir():
        what = "is not a folder" if experiment.exists() else "does not exist"
        raise ReportError(
            f"{experiment} {what}; give an experiment's folder, such as outputs/ladder, or train "
            f"a stage first with `python -m runner +stage=step02`."
        )
    try:
        found = sorted(
            {
                file.parent
                for pattern in ("*/*/run.json", "*/*/steps.csv")
                for file in experiment.glob(pattern)
            }
        )
        below = sorted(experiment.glob("*/*/*/run.json"))
    except OSError as error:
        raise ReportError(f"{experiment} cannot be read: {error.strerror}.") from None
    if found:
        return found
    if below:
        raise ReportError(
            f"{experiment} holds experiments, not runs; name one of them, "
            f"such as `python -m reports {below[0].parents[2]}`."
        )
    raise ReportError(
        f"{experiment} holds no runs (a run is <stage>/<label>/run.json); train a stage first "
        f"with `python -m runner +stage=step02`."
    )


def _read_run(folder: Path) -> dict[str, Any]:
    try:
        record = unseal((folder / "run.json").read_bytes())
    except FileNotFoundError:
        raise _Unreadable("there is no run.json beside its steps.csv") from None
    except OSError as error:
        raise _Unreadable(f"run.json cannot be read ({error.strerror})") from None
    except DamagedFile as error:
        raise _Unreadable(f"run.json is damaged: {error}") from None
    if "format" not in record:
        raise _Unreadable("run.json is not a run's record (it has no format)")
    if record["format"] != FORMAT:
        raise _Unreadable(f"its format is {_text(record['format'])!r}, and this reads {FORMAT}")
    row: dict[str, Any] = {column: _text(_at(record, path)) for column, path in TEXTS.items()}
    row |= {column: _number(_at(record, path)) for column, path in NUMBERS.items()}
    if not row["stage"]:
        raise _Unreadable("run.json names no stage")
    if row["status"] not in STATUSES:
        raise _Unreadable(f"its status {row['status']!r} is none of {', '.join(STATUSES)}")
    process = _dict(record.get("process"))
    host, pid = process.get("host"), process.get("pid")
    if row["status"] == "running" and isinstance(pid, int) and process_is_gone(str(host), pid):
        row |= {"status": "interrupted", "message": "Its process ended without closing the record."}
    row["title"] = row["title"] or row["stage"]
    row["variant"] = " ".join(sorted(_text(word) for word in _list(record.get("variant"))))
    row["dirty"] = _at(record, "environment.dirty") is True
    row["changes"] = {
        _text(key): (values[0], values[1])
        for key, values in _dict(_at(record, "stage.changes")).items()
        if isinstance(values, list) and len(values) == 2
    }
    row["applied"] = [_text(word) for word in _list(record.get("applied"))]
    row["not_applied"] = {
        _text(what): _text(why) for what, why in _dict(record.get("not_applied")).items()
    }
    row["checks"] = [
        {
            "name": _text(check.get("name")),
            "passed": check.get("passed") is True,
            "detail": _text(check.get("detail")),
        }
        for check in _list(record.get("checks"))
        if isinstance(check, dict)
    ]
    row["samples"] = [
        {key: _text(sample.get(key)) for key in ("prompt", "seed", "text")}
        for sample in _list(record.get("samples"))
        if isinstance(sample, dict)
    ]
    row["config"] = _dict(record.get("config"))
    return row


def _read_steps(path: Path, sha256: str) -> pd.DataFrame:
    """The whole lines of a steps.csv; a last line cut short is a step that never ended.

    `sha256` is the file's checksum when its run ended, or empty while it has not.
    """
    try:
        content = path.read_bytes()
        text = content.decode("utf-8")
    except FileNotFoundError:
        raise _Unreadable("there is no steps.csv") from None
    except (OSError, UnicodeDecodeError):
        raise _Unreadable("steps.csv is not readable text") from None
    if sha256 and hashlib.sha256(content).hexdigest() != sha256:
        raise _Unreadable("steps.csv is damaged: it is not what the run wrote")
    whole = text[: text.rfind("\n") + 1]
    if not whole.strip():
        return _no_steps()
    try:
        raw = pd.read_csv(io.StringIO(whole), index_col=False, on_bad_lines="skip")
    except ValueError:
        raise _Unreadable("steps.csv is not a table") from None
    if not {"step", "loss"} <= set(raw.columns):
        raise _Unreadable("steps.csv has no columns step and loss")
    columns: dict[str, np.ndarray[Any, np.dtype[np.float64]]] = {
        column: np.asarray(pd.to_numeric(raw[column], errors="coerce"), dtype=float)
        if column in raw
        else np.full(len(raw), np.nan)
        for column in MEASURED
    }
    table = pd.DataFrame(columns)
    table = table[np.isfinite(table["step"]) & (table["step"] >= 0)]
    # A resumed run may write a step again; what it wrote last is what it trained on from.
    table = table.drop_duplicates("step", keep="last").sort_values("step", ignore_index=True)
    table["step"] = table["step"].astype(np.int64)
    table.loc[~np.isfinite(table["loss"]), "loss"] = np.nan
    table["tokens_seen"] = table["tokens"].cumsum()
    table["seconds"] = table["step_ms"].cumsum() / 1000
    return table


def _no_steps() -> pd.DataFrame:
    columns = (*MEASURED, "tokens_seen", "seconds")
    table = pd.DataFrame({column: np.empty(0) for column in columns})
    table["step"] = table["step"].astype(np.int64)
    return table


def _fill_from_steps(row: dict[str, Any], table: pd.DataFrame) -> None:
    """What an unfinished run's results do not say yet, from the steps it has taken."""
    row["steps"] = len(table)
    loss = table["loss"].to_numpy()
    finite = loss[np.isfinite(loss)]
    step_ms, tokens = table["step_ms"].to_numpy(), table["tokens"].to_numpy()
    steady = slice(min(WARMUP_STEPS, max(len(table) - 1, 0)), None)
    measured: dict[str, float] = {}
    if len(finite):
        measured |= {"worst": finite.max(), "best": finite.min()}
        measured |= {"first": loss[0], "last": loss[-1]}
    if len(table):
        measured["tokens_per_step"] = float(tokens[-1])
        measured["step_ms"] = float(np.median(step_ms[steady]))
        with np.errstate(divide="ignore", invalid="ignore"):
            measured["tokens_per_second"] = float(
                np.median(1000 * tokens[steady] / step_ms[steady])
            )
    for column, value in measured.items():
        if math.isnan(row[column]) and math.isfinite(value):
            row[column] = float(value)


def _at(record: Any, path: str) -> Any:
    for key in path.split("."):
        if not isinstance(record, dict):
            return None
        record = record.get(key)
    return record


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    try:
        return float(value) if math.isfinite(value) else math.nan
    except OverflowError:
        return math.nan


def _text(value: Any) -> str:
    if value is None or isinstance(value, (dict, list)):
        return ""
    return CONTROL_CHARACTERS.sub("\N{REPLACEMENT CHARACTER}", str(value))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _dict(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def rows(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """The rows of a table as dicts, for code that reads better with plain values."""
    for row in table.to_dict("records"):
        yield {str(key): value for key, value in row.items()}
