"""How someone says that logs are to be read."""

from __future__ import annotations

import re

from conf.errors import UsageError
from reports.logs.formats import COLUMNS, FORMATS
from reports.logs.read import Reading


def reading(
    format: str | None, pattern: str | None, columns: str | None, score: str | None, seeds: bool
) -> Reading:
    """What these options of `python -m reports` say. Raises UsageError."""
    if format and format not in FORMATS:
        raise UsageError(f"--format {format}: the formats are {', '.join(FORMATS)}.")
    line, scored = _compiled("pattern", pattern), _compiled("score", score)
    theirs = dict(each.split("=", 1) for each in (columns or "").split(",") if "=" in each)
    groups = [*line.groupindex] if line else []
    if unknown := [name for name in (*groups, *theirs) if name not in COLUMNS]:
        raise UsageError(f"There is no column {unknown[0]}; there are {', '.join(COLUMNS)}.")
    if line and not {"step"} < {*groups}:
        raise UsageError(rf"--pattern {pattern}: name a step (?P<step>\d+), and (?P<loss>\S+).")
    if columns and not theirs:
        raise UsageError(f"--columns {columns}: give them as step=Step,loss=train/loss.")
    if scored and scored.groups != 1:
        raise UsageError(f"--score {score}: put the number, and nothing else, in brackets.")
    return Reading(line or FORMATS.get(format or ""), theirs, scored, seeds)


def _compiled(option: str, pattern: str | None) -> re.Pattern[str] | None:
    try:
        return re.compile(pattern, re.M) if pattern else None
    except re.error as error:
        raise UsageError(f"--{option} {pattern} is no regular expression: {error}.") from None
