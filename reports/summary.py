"""The report for the terminal: short tables, the answer, and how many seeds would decide."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from reports import tables
from reports.report import Report
from reports.statistics import Estimate, seeds_to_decide
from reports.tables import Say, Table
from reports.verdicts import is_judged_by_loss, several_seeds
from reports.wording import sentences, words

# Columns of a terminal below which a stage's verdict is a line of its own.
NARROW = 100
SHORT = ["Stage", "Held-out loss", "Difference", "×baseline"]
MORE = ["Interval", "Tokens/s"]  # which a terminal of so many columns has room for
ALL_NUMBERS = 70
COMPARED = ["With", "Run", "Against", "Held-out loss", "From the lowest", "Difference", "Outcome"]
MOST_ROWS = 12  # of a plan's table
STYLES = {"good": "green", "bad": "red", "none": "dim"}
SIZES = (1.5, 2.5, 5, 10)  # times the margin


def show(report: Report, written: Path, console: Console) -> None:
    """Print the answer, the main ladder's table, what is shown apart, and the page's path."""
    say = words(report.rules)
    wide = SHORT + MORE * (console.width >= ALL_NUMBERS)
    ladder = tables.ladder(report, {}, (0, 1), say)
    sweeps = report.answer.sweeps if not report.main.baseline else []
    if sweeps:
        _print(tables.side_by_side(sweeps), COMPARED, console)
    else:
        _print(ladder, wide + ["Verdict"] * (console.width >= NARROW), console)
    if console.width < NARROW and not sweeps:
        for row in ladder.rows:
            said = Text(row[-1].text, style=STYLES.get(row[-1].tone, ""))
            console.print(Text(f"{row[0].text}: ").append(said))
    for table in report.tables:
        if len(table.rows) <= MOST_ROWS:
            _print(tables.rows(table.rows, table), COMPARED, console)
    console.print()
    worth = sentences(say("worth", report.worth, report.rules)) if report.worth else []
    answer = [*sentences(say("answer", report)), *worth, _power(report, say)]
    for sentence in filter(None, answer):
        console.print(Text(sentence))
    apart = [say("apart", group, report.main) for group in report.apart]
    warnings = [say("busy", report), *(f"Shown apart: {each}." for each in apart)]
    for warning in filter(None, [*warnings, *report.records.problems]):
        console.print(Text(warning, style="yellow"))
    console.print(Text(f"Report: {written}"), soft_wrap=True)


def _print(table: Table, titles: Sequence[str], console: Console) -> None:
    """The columns of a table that are named."""
    shown = RichTable(box=None, pad_edge=False, header_style="bold")
    chosen = [i for i, (title, _) in enumerate(table.columns) if title in titles]
    for title, kind in (table.columns[i] for i in chosen):
        is_number = kind in ("number", "interval")
        justify: Any = "right" if is_number else "left"
        shown.add_column(title.lower(), justify=justify, no_wrap=is_number, overflow="fold")
    for row in table.rows:
        cells = (row[i] for i in chosen)
        shown.add_row(*(Text(cell.text, style=STYLES.get(cell.tone, "")) for cell in cells))
    console.print(shown)


def _power(report: Report, say: Say) -> str:
    """How many seeds tell a difference of a given size, from the spread between seeds so far."""
    judged = [stage for stage in report.main.ladder if is_judged_by_loss(stage)]
    losses = [stage.versus.loss for stage in judged if stage.versus.loss]
    known = [loss.deviation for loss in losses if several_seeds(loss) and loss.deviation > 0]
    if not losses:
        return ""
    spread = float(np.median(known)) if known else 0.0
    seeds = {
        size: seeds_to_decide(Estimate(size, n=2, deviation=spread), len(known), report.rules)
        for size in (times * report.rules.margin for times in SIZES)
        if known
    }
    return say("power", seeds, spread, len(known))
