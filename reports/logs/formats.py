"""Which lines of a log hold numbers: a pattern a format, whose groups are called like COLUMNS."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

# What a run may be scored by, the first choice first: a typed score, nats/token, bits/byte, and
# the training loss. `seconds` or `elapsed_ms` are from the start, `step_ms` of one step, and
# `planned` are the steps that the run was to take.
MEASURES = ("score", "held_out", "bits_per_byte", "loss")
COLUMNS = ("step", *MEASURES, "seconds", "elapsed_ms", "step_ms", "planned")
NUMBER = r"[-+]?(?:[\d.]+(?:e[-+]?\d+)?|nan|inf)"
PLACE = re.compile(rf"{{({'|'.join(COLUMNS)})}}")
NAN = re.compile(r"[-+]?(?:nan|inf)", re.I)
THOUSANDS = re.compile(r"(?<=\d),(?=\d{3})")
ESCAPES = re.compile(r"\x1b\[[\d;?]*[A-Za-z]")
LONGEST = 200  # characters at a line's end that hold its last number
OTHERS = 5000  # lines with which a last one is compared
LAST_NUMBER = re.compile(r"[^\d.]*[\d.]+[^\d.]*$")


# What launchers and loggers put before a line: [rank0]: 0: 2025-01-01 12:00:00,000 - root - INFO -
PREFIX = r"(?:\[[^]\n]*\]:? *|\d{4}-\d\d-\d\d[ T]\S+ +|(?:root|INFO)\S* +|\d+: +|[-:|] +)*"


def _line(begins: str, *places: str) -> re.Pattern[str]:
    """A line by how it begins; the other places, each at a word, may be anywhere or missing.

    It begins with the end of the line before, which is found four times as fast as `^`.
    """
    words = "".join(rf"(?=(?:(?:\S* )*?{place})?)" for place in places)
    named = PLACE.sub(lambda column: f"(?P<{column[1]}>{NUMBER})", f"\\n{PREFIX}{begins}{words}")
    return re.compile(named, re.I)


# Of formats that fit the same lines, the first. A column stands where its number does.
FORMATS = {
    "guide": _line("step {step}, ", "loss: {loss}", "dt: {step_ms}ms"),
    "speedrun": _line(
        "step:{step}/{planned}", "val_loss:{held_out}", "val_bpb:{bits_per_byte}",
        "train_loss:{loss}", "train_time:(?:{elapsed_ms}ms|{seconds}s)",
    ),
    "llm.c": _line("s:{step} ", "tel:{held_out}", "trl:{loss}"),
    "nanochat": _line(
        r"step {step}(?:/{planned} \(| \| validation(?= bpb))", "loss: {loss}",
        "bpb: {bits_per_byte}", "dt: {step_ms}ms",
    ),
    "build-nanogpt": _line(
        r"(?:step +{step} \|(?= loss)|validation loss: {held_out})", "loss: {loss}",
        "dt: {step_ms}ms",
    ),
    "build-nanogpt-log": _line("{step} (?=train |val |hella )", "val {held_out}", "train {loss}"),
    "nanogpt": _line(
        "(?:step|iter) {step}:(?= train loss| loss)", "val loss {held_out}", "loss {loss}, time",
        "time {step_ms}ms",
    ),
    "litgpt": _line(
        r"(?:epoch \d+ \| )?iter {step}(?: step \d+ \|(?= loss train)|:(?= val loss))",
        "val loss {held_out}", "train: {loss}", "iter time: {step_ms} ms",
    ),
    "torchtitan": _line(
        "(?P<validates>validate )?step: *{step} +loss: +(?(validates){held_out}|{loss})"
    ),
}  # fmt: skip
# At the end of a log of any format: a run's own score, and why it stopped early.
FINAL = _line(
    r"(?:\w+_exact|final evaluation)\b", "val(?:_loss:| loss: ){held_out}",
    "val_bpb:{bits_per_byte}",
)  # fmt: skip
STOPPED = re.compile("^stopping_early:", re.M)
SEED = re.compile(r"\bseed[ :=]{0,2}(\d+)", re.I)
SEED_OF_PATH = re.compile(r"seed[ _=-]?(\d+)", re.I)


def fitting(text: str) -> re.Pattern[str] | None:
    """The format that fits the most lines, or the first of them; a comment may look like one."""
    text = f"\n{text}"
    found = [pattern for pattern in FORMATS.values() if pattern.search(text)]
    counts = [len(pattern.findall(text)) if len(found) > 1 else 1 for pattern in found]
    return found[counts.index(max(counts))] if found else None


def ends_alike(last: str, lines: str) -> bool:
    """Whether a last line without an end is whole: its last number is written as another is."""

    def form(line: str) -> str:
        place = LAST_NUMBER.search(line[-LONGEST:])
        return re.sub(r"\d", "0", re.sub(r"(?<![\d.])\d+", "0", place[0])) if place else line

    wanted = form(last)
    return not lines or any(form(line) == wanted for line in lines.split("\n")[-OTHERS:])


def matches(pattern: re.Pattern[str], text: str) -> pd.DataFrame:
    """The numbers of the lines that fit, in their order."""
    rows = pattern.findall(f"\n{text}")
    if pattern.groups == 1:
        rows = [(row,) for row in rows]
    cells = [*zip(*rows, strict=True)] or [()] * pattern.groups
    places = pattern.groupindex.items()
    return numbers({name: cells[place - 1] for name, place in places if name in COLUMNS})


def numbers(columns: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Texts as numbers; what is empty or a word is NaN, and a loss that is "nan" infinite."""
    found = {}
    for name, cells in columns.items():
        try:
            values = np.array([float(cell) if cell else math.nan for cell in cells])
        except ValueError:
            texts = pd.Series(cells, dtype=object).str.strip(",; ")
            texts = texts.str.replace(THOUSANDS, "", regex=True)
            values = np.array(pd.to_numeric(texts, errors="coerce"), float)
        if name in MEASURES and not np.isfinite(values).all():
            values[[bool(NAN.match(cell)) for cell in cells]] = math.inf
        found[name] = values
    return pd.DataFrame(found)
