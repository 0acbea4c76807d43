"""Log files as runs: which files are a run each, and what each of them logged."""

from __future__ import annotations

import glob
import gzip
import io
import math
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from conf.errors import UsageError
from conf.schema import LogsConf
from reports.curves import LAST_SHARE
from reports.logs import formats
from reports.logs.tables import SPLITS, is_table, read_events, read_table
from reports.read import Records, read_records
from runner.record import Status

BLOCK = 1 << 23  # characters of a log that are read at once
END = 1 << 16  # characters at a log's end that say how the run ended
EVENTS = "events.out.tfevents."
CHECKPOINT = re.compile(r"checkpoint-\d+")  # Hugging Face's folders
OURS = "records"
KINDS = (OURS, "tables", "event files", "logs")  # the more exact first
NAMED = 5  # of files that hold nothing


@dataclass(frozen=True)
class Reading:
    """How logs are read: the lines of a pattern, the columns of a table, and a line with a score.

    What is not said is found by itself. `measures` are what runs may be scored by, the first choice
    first. With `seeds` a run's seed is looked for in its log too, where its path has none.
    """

    line: re.Pattern[str] | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    score: re.Pattern[str] | None = None
    measures: Sequence[str] = formats.MEASURES
    seeds: bool = False

    @staticmethod
    def typed(format: str, pattern: str, columns: str, score: str, seeds: bool) -> Reading:
        """What these options of `python -m reports` say. Raises UsageError."""
        if format and format not in formats.FORMATS:
            raise UsageError(f"--format {format}: the formats are {', '.join(formats.FORMATS)}.")
        is_measure = score in formats.MEASURES
        patterns = pattern, "" if is_measure else score
        try:
            line, scored = (re.compile(each, re.M) if each else None for each in patterns)
        except re.error as error:
            raise UsageError(f"{error.pattern!r} is no regular expression: {error}.") from None
        theirs = dict(each.split("=", 1) for each in columns.split(",") if "=" in each)
        groups = [*line.groupindex] if line else []
        if unknown := [name for name in (*groups, *theirs) if name not in formats.COLUMNS]:
            known = ", ".join(formats.COLUMNS)
            raise UsageError(f"There is no column {unknown[0]}; there are {known}.")
        if line and not {"step"} < {*groups}:
            raise UsageError(rf"--pattern {pattern}: name (?P<step>\d+), and (?P<loss>\S+).")
        if columns and not theirs:
            raise UsageError(f"--columns {columns}: give them as step=Step,loss=train/loss.")
        if scored and scored.groups != 1:
            raise UsageError(f"--score {score}: put the number, and nothing else, in brackets.")
        measures = (score,) if is_measure else ("score",) if scored else formats.MEASURES
        return Reading(line or formats.FORMATS.get(format), theirs, scored, measures, seeds)


@dataclass(frozen=True)
class Log:
    """A run: its numbers by steps taken, its final line's by column, and whether it chose to stop.

    A loss that is no number is infinite. `seconds` are of training up to the step. `is_cut` where
    a last line was left out, `kind` is that of its file.
    """

    run: str
    points: pd.DataFrame
    final: Mapping[str, float] = field(default_factory=dict)
    stopped: bool = False
    seed: int | None = None
    is_cut: bool = False
    kind: str = "logs"

    def score(self, measure: str) -> float:
        """The final line's, else the last one; of training losses the mean over the last tenth."""
        values = self.points[measure].dropna()
        last = values[-1:]
        if measure == "loss":
            first, end = self.points.index.min(), self.points.index.max()
            last = values[values.index >= end - LAST_SHARE * (end - first)]
        return self.final.get(measure, float(last.mean()))


def files_of(arm: str, place: str | Path) -> list[Path]:
    """A file for each run in a folder, of a pattern, or the file itself. Raises UsageError.

    A folder of event files is a run, and of a trainer's checkpoints the latest counts. Where there
    are records of ours, only those are runs.
    """
    is_there = bool(str(place)) and Path(place).exists()
    found = [place] if is_there else sorted(glob.glob(str(place), recursive=True))
    below = [f for p in map(Path, found) for f in (p.rglob("*") if p.is_dir() else [p])]
    files = [file for file in below if file.is_file() and not file.name.startswith(".")]
    ours = [file for file in files if file.name == "run.json"]
    stages = sorted({file.parents[1] for file in ours})
    if not files:
        settings = ", ".join(entry.name for entry in fields(LogsConf))
        raise UsageError(
            f"{arm}={place}: no file is there. An arm is name=folder or name='logs/*.txt', and the "
            f"settings are {settings}."
        )
    if len(stages) > 1:
        raise UsageError(f"{arm}={place} holds several stages; give one, such as {stages[0]}.")

    def age(file: Path) -> tuple[bool, int, Path]:
        return not CHECKPOINT.fullmatch(file.parent.name), len(file.parent.name), file

    return [*{_run_of(file): file for file in sorted(ours or files, key=age)}.values()]


def _run_of(file: Path) -> Path:
    is_state = file.name == "trainer_state.json" and CHECKPOINT.fullmatch(file.parent.name)
    is_split = EVENTS in file.name and file.parent.name in SPLITS
    folder = file.parents[1] if is_state or is_split else file.parent
    return folder if EVENTS in file.name else folder / file.name


def read_logs(arm: str, files: Sequence[Path], how: Reading, problems: list[str]) -> list[Log]:
    """The runs of an arm's files; `problems` get a sentence for what could not be read."""
    found: list[Log] = []
    empty = []
    experiment = cache(lambda folder: read_records([folder]))
    for file in files:
        try:
            ours = file.name == "run.json"
            logs = [_ours(file, experiment(file.parents[2]))] if ours else [*_read(file, how)]
        except (ValueError, OSError, EOFError, RecursionError, zlib.error) as error:
            problems.append(f"{file} is left out: {error}.")
            continue
        logs = [log for log in logs if len(log.points)]
        found += [_by_step(log, problems) for log in logs]
        empty += [] if logs or file.name in empty else [file.name]
    counts = Counter(log.kind for log in found)
    kinds = sorted(counts, key=lambda kind: (-counts[kind], KINDS.index(kind)))
    if len(kinds) > 1:
        said = f"those of the {' and the '.join(kinds[1:])} are left out beside those of the"
        problems.append(f"{arm}: {said} {kinds[0]}, as they may be the same runs.")
    found, seen = [log for log in found if log.kind == kinds[0]], dict[int, str]()
    for log in [*found]:
        numbers = hash((pd.util.hash_pandas_object(log.points).sum(), *log.final.values()))
        if (same := seen.setdefault(numbers, log.run)) != log.run:
            problems.append(f"{log.run} has the same numbers as {same} and is left out.")
            found.remove(log)
    if empty:
        more = f" and {len(empty) - NAMED} more" * (len(empty) > NAMED)
        problems.append(
            f"{arm}: no line of a known format is in {', '.join(empty[:NAMED])}{more}; --format, "
            "--pattern and --columns say what to read."
        )
    return found


def _ours(file: Path, records: Records) -> Log:
    """A run's record; after its step s it has taken s + 1 steps."""
    name = f"/{file.parts[-3]}/{file.parts[-2]}"
    row = next((run for run in records.rows if run.run.endswith(name)), None)
    if row is None:
        raise ValueError("its record cannot be read")
    steps = records.curves.get(row.run, records.steps[:0])
    windows = records.evaluations.get(row.run, records.windows[:0])
    means = windows.groupby("step")["loss"].mean().rename("held_out").reset_index()
    points = pd.concat([steps.assign(step=steps["step"] + 1), means])
    points = points.sort_values("step", kind="stable")
    points["planned"] = row.steps_planned
    lost = math.inf if row.status == Status.diverged else math.nan
    score = row.held_out if math.isfinite(row.held_out) else lost
    final = {} if math.isnan(score) else {"held_out": score}
    return Log(row.run, points, final, seed=row.seed, kind=OURS)


def _read(file: Path, how: Reading) -> Iterator[Log]:
    named = formats.SEED_OF_PATH.findall("/".join(file.parts[-3:]))
    seed = int(named[-1]) if named else None
    if EVENTS in file.name:
        folder = _run_of(file)
        yield Log(str(folder), read_events(folder, how.columns), seed=seed, kind="event files")
        return
    with _text(file) as text:
        head = text.read(4096)
        text.seek(0)
        if "\0" in head:
            return
        if how.columns or (not how.line and is_table(file.name, head)):
            for run, points in read_table(text.read(), how.columns):
                yield Log(f"{file} {run}".strip(), points, seed=seed, kind="tables")
        else:
            yield _lines(str(file), text, seed, how)


def _text(file: Path) -> io.TextIOWrapper:
    """A file's text, of which each way to end a line is one, out of gzip or not."""
    with file.open("rb") as plain:
        first = plain.read(2)
    opened: Any = (gzip.open if first == b"\x1f\x8b" else open)(file, "rb")
    encoding = "utf-16" if first in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    return io.TextIOWrapper(opened, encoding, errors="replace")


def _lines(run: str, text: io.TextIOWrapper, seed: int | None, how: Reading) -> Log:
    """The numbers of the lines of a pattern, or of the first format that fits.

    The last line may be cut short: it counts if it has a line end, or ends like another one.
    """
    found: list[pd.DataFrame] = []
    scores, line, end, is_cut = list[str](), how.line, "", False
    for block in iter(lambda: "".join(text.readlines(BLOCK)), ""):
        block = formats.ESCAPES.sub("", block) if "\x1b" in block else block
        whole, _, last = block.rpartition("\n")
        if last and (is_cut := not formats.ends_alike(last, whole)):
            block = whole + "\n"
        line = line or formats.fitting(block)
        found += [formats.matches(line, block)] if line else []
        end = (end + block)[-END:]
        scores += how.score.findall(block)[-1:] if how.score else []
        seeds = formats.SEED.findall(block) if how.seeds and seed is None else []
        seed = int(seeds[-1]) if seeds else seed
    ends = formats.matches(formats.FINAL, end).ffill().tail(1)
    final = {str(name): value for name in ends for value in ends[name].dropna()}
    if scores:
        final["score"] = formats.numbers({"score": scores[-1:]})["score"].iloc[0]
    points = pd.concat(found, ignore_index=True) if found else pd.DataFrame()
    if len(points):  # a line without a step stands before that of its step
        points["step"] = points["step"].bfill()
    return Log(run, points, final, bool(formats.STOPPED.search(end)), seed, is_cut)


def _by_step(log: Log, problems: list[str]) -> Log:
    """The run with a row a step: of a value that is there twice, the later one."""
    points = log.points.reindex(columns=[*formats.COLUMNS])
    if log.is_cut:
        problems.append(f"{log.run}: its last line is cut, and left out.")
    points = points[np.isfinite(points["step"])]
    if (points["step"].diff() < 0).any():
        said = "its steps go back, as after a resume; of one that is there twice the later counts"
        problems.append(f"{log.run}: {said}.")
    points = points.groupby("step").last()
    # Steps that are not logged are taken to have the median of those that are.
    timed = points["step_ms"].dropna()
    steps = timed.index.to_series().diff()
    before = min(max(1.0, timed.index.min()), steps.median() if len(steps) > 1 else 1.0)
    others = steps.fillna(before) - 1
    spent = (timed + others * timed.median()).cumsum() / 1000
    seconds = points["seconds"].fillna(points["elapsed_ms"] / 1000).fillna(spent)
    return replace(log, points=points.assign(seconds=seconds.ffill()))
