"""Log files as runs: which files are a run each, and what each of them logged."""

from __future__ import annotations

import glob
import gzip
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from conf.errors import UsageError
from reports.curves import LAST_SHARE
from reports.logs import formats
from reports.logs.tables import is_table, read_events, read_table
from reports.read import Records, read_records
from runner.record import Status

BLOCK = 1 << 23  # characters of a log that are read at once
END = 1 << 16  # characters at a log's end that say how the run ended
EVENTS = "events.out.tfevents."
CHECKPOINT = re.compile(r"checkpoint-\d+")  # Hugging Face's folders
NAMED = 5  # of files that hold nothing


@dataclass(frozen=True)
class Reading:
    """How logs are read, where not by themselves: lines, a table's columns, a line with a score.

    With `seeds` a run's seed is looked for, in its file's name and then in its log.
    """

    line: re.Pattern[str] | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    score: re.Pattern[str] | None = None
    seeds: bool = False


@dataclass(frozen=True)
class Log:
    """A run: its numbers by steps taken, its final line's by column, and whether it chose to stop.

    A loss that is no number is infinite. `seconds` are of training up to the step.
    """

    run: str
    points: pd.DataFrame
    final: Mapping[str, float] = field(default_factory=dict)
    stopped: bool = False
    seed: int | None = None
    is_ours: bool = False

    @property
    def last(self) -> float:
        """The last step."""
        return float(self.points.index.max())

    @property
    def planned(self) -> float:
        """The steps that it was to take, or 0."""
        return float(self.points["planned"].fillna(0).max())

    @property
    def seconds(self) -> float:
        """Seconds of training; NaN where there are no times."""
        return float(self.points["seconds"].max())

    def seen(self, measure: str) -> float:
        """The step at which its loss was last measured, or -1."""
        steps = self.points[measure].dropna().index
        return float(steps.max()) if len(steps) else -1.0

    def score(self, measure: str) -> float:
        """The final line's, else the last one; of training losses the mean over the last tenth."""
        values = self.points[measure].dropna()
        is_last = values.index > (1 - LAST_SHARE) * self.last
        last = values[is_last] if measure == "loss" else values[-1:]
        return self.final.get(measure, float(last.mean()))


def files_of(arm: str, place: str | Path) -> list[Path]:
    """A file for each run in a folder, of a pattern, or the file itself. Raises UsageError.

    A folder of event files is a run, and of a trainer's checkpoints the latest counts. Where there
    are records of ours, only those are runs.
    """
    found = [place] if Path(place).exists() else sorted(glob.glob(str(place), recursive=True))
    below = [f for p in map(Path, found) for f in (p.rglob("*") if p.is_dir() else [p])]
    files = [file for file in below if file.is_file() and not file.name.startswith(".")]
    if not files:
        raise UsageError(
            f"{arm}={place}: there is no such file. An arm is name=folder or name='logs/*.txt'; "
            "settings are those of conf/logs.yaml."
        )
    if ours := sorted(file for file in files if file.name == "run.json"):
        if len(stages := sorted({file.parents[1] for file in ours})) > 1:
            raise UsageError(f"{arm}={place} holds several stages; give one, such as {stages[0]}.")
        return ours

    def age(file: Path) -> tuple[bool, int, Path]:
        return not CHECKPOINT.fullmatch(file.parent.name), len(file.parent.name), file

    return [*{_run_of(file): file for file in sorted(files, key=age)}.values()]


def _run_of(file: Path) -> Path:
    is_state = file.name == "trainer_state.json" and CHECKPOINT.fullmatch(file.parent.name)
    folder = file.parents[1] if is_state else file.parent
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
        except (ValueError, OSError, EOFError) as error:
            problems.append(f"{file} is left out: {error}.")
            continue
        logs = [log for log in logs if len(log.points)]
        found += [_by_step(log, problems) for log in logs]
        empty += [] if logs else [file.name]
    if empty:
        more = f" and {len(empty) - NAMED} more" * (len(empty) > NAMED)
        problems.append(
            f"{arm}: no line of a known format is in {', '.join(empty[:NAMED])}{more}; --format, "
            "--pattern and --columns say what to read."
        )
    return found


def _ours(file: Path, records: Records) -> Log:
    """A run's record; after its step s it has taken s + 1 steps."""
    (row,) = (run for run in records.rows if run.run.endswith("/".join(file.parts[-3:-1])))
    steps = records.curves.get(row.run, records.steps[:0])
    windows = records.evaluations.get(row.run, records.windows[:0])
    means = windows.groupby("step")["loss"].mean().rename("held_out").reset_index()
    points = pd.concat([steps.assign(step=steps["step"] + 1), means])
    points["planned"] = row.steps_planned
    lost = math.inf if row.status == Status.diverged else math.nan
    score = row.held_out if math.isfinite(row.held_out) else lost
    final = {} if math.isnan(score) else {"held_out": score}
    return Log(row.run, points, final, seed=row.seed, is_ours=True)


def _read(file: Path, how: Reading) -> Iterator[Log]:
    if EVENTS in file.name:
        yield Log(str(file.parent), read_events(file.parent, how.columns))
        return
    named = formats.SEED.search(file.stem)
    seed = int(named[1]) if named else None
    with _text(file) as text:
        head = text.read(4096)
        text.seek(0)
        if how.columns or (not how.line and is_table(file.name, head)):
            for run, points in read_table(text.read(), how.columns):
                yield Log(f"{file} {run}".strip(), points, seed=seed)
        elif "\0" not in head:
            yield _lines(str(file), text, seed, how)


def _text(file: Path) -> io.TextIOWrapper:
    """A file's text, of which each way to end a line is one, out of gzip or not."""
    with file.open("rb") as plain:
        first = plain.read(2)
    opened: Any = (gzip.open if first == b"\x1f\x8b" else open)(file, "rb")
    encoding = "utf-16" if first in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
    return io.TextIOWrapper(opened, encoding, errors="replace")


def _lines(run: str, text: io.TextIOWrapper, seed: int | None, how: Reading) -> Log:
    """The numbers of the lines of a pattern, or of the first format that fits.

    The last line may be cut short: it counts if it has a line end, or ends like another one.
    """
    found: list[pd.DataFrame] = []
    scores: list[str] = []
    line, end = how.line, ""
    for block in iter(lambda: "".join(text.readlines(BLOCK)), ""):
        block = formats.ESCAPES.sub("", block) if "\x1b" in block else block
        whole, _, last = block.rpartition("\n")
        if last and not formats.ends_alike(last, whole):
            block = whole + "\n"
        line = line or formats.first_format(block)
        found += [formats.matches(line, block)] if line else []
        end = (end + block)[-END:]
        scores += how.score.findall(block)[-1:] if how.score else []
        seeds = formats.SEED.findall(block) if how.seeds and seed is None else []
        seed = int(seeds[-1]) if seeds else seed
    ends = formats.matches(formats.FINAL, end).ffill().tail(1)
    final = {str(name): value for name in ends for value in ends[name].dropna()}
    if scores:
        final["score"] = float(scores[-1])
    stopped = bool(formats.STOPPED.search(end))
    points = pd.concat(found, ignore_index=True) if found else pd.DataFrame()
    return Log(run, points, final, stopped, seed)


def _by_step(log: Log, problems: list[str]) -> Log:
    """The run with a row a step: of a value that is there twice, the later one."""
    points = log.points.reindex(columns=[*formats.COLUMNS])
    points["step"] = points["step"].bfill()  # a line without one stands before that of its step
    points = points[np.isfinite(points["step"])]
    if (points["step"].diff() < 0).any():
        said = "its steps go back, as after a resume; of one that is there twice the later counts"
        problems.append(f"{log.run}: {said}.")
    points = points.groupby("step").last()
    # Where only some steps are logged, the others took as long.
    spent = (points["step_ms"] * points.index.to_series().diff().fillna(1.0)).cumsum() / 1000
    seconds = points["seconds"].fillna(points["elapsed_ms"] / 1000).fillna(spent)
    return replace(log, points=points.assign(seconds=seconds.ffill()))
