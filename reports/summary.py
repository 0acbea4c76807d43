"""The report for the terminal: short tables, and the answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from reports import tables
from reports.formats import CODE
from reports.report import Report
from reports.wording import sentences, words

WIDE = {"ladder": 70, "plan": 100}  # columns of a terminal from which a table has all numbers
SHORT = ["Stage", "Held-out loss", "Difference", "Speed-up"]
COMPARED = ["With", "Run", "Against", "Held-out loss", "From the lowest", "Difference", "Outcome"]
STYLES = {"good": "green", "bad": "red", "none": "dim"}


def show(report: Report, written: Path, console: Console) -> None:
    """Print the main ladder's table, the answer, what is shown apart, and the page's path."""
    compared = COMPARED + ["Speed-up"] * (console.width >= WIDE["plan"])
    spoken = words(report.rules)

    def say(macro: str, *given: Any) -> str:
        return spoken(macro, *given).replace(CODE, "")

    if not report.is_ladder:
        _print(tables.side_by_side(report.answer.sweeps), COMPARED, console)
    else:
        ladder = tables.ladder(report, {}, say)
        _print(ladder, SHORT + ["Range", "Tokens/s"] * (console.width >= WIDE["ladder"]), console)
        console.print()
        if legend := say("legend", report):
            console.print(Text(legend, "dim"))
        for s in report.main.stages:
            verdict = report.verdicts[s.name]
            said = Text(f"{s.name} {s.title}: ")
            said.append(say("verdict", s, verdict), STYLES.get(verdict.tone.value, ""))
            evidence = say("evidence", s, verdict)
            console.print(said.append(f", {evidence}" if evidence else ""))
    for plan in report.plans:
        if len(plan.rows) <= tables.MOST_ROWS:
            console.print(Text(plan.about.title or say("title", "plan"), style="bold"))
            _print(tables.rows(plan.rows, say, plan), compared, console)
    console.print()
    worth = [s for of in (report.worth, report.beyond) if of for s in sentences(say("worths", of))]
    for sentence in [*sentences(say("answer", report)), *worth]:
        console.print(Text(sentence))
    apart = [f"Shown apart: {say('group', group, report.main)}." for group in report.apart]
    for warning in filter(None, [say("busy", report), *apart, *report.records.problems]):
        console.print(Text(warning, style="yellow"))
    console.print(Text(f"Report: {written}"), soft_wrap=True)


def _print(table: tables.Table, titles: Sequence[str], console: Console) -> None:
    """The columns of a table that are named."""
    shown = RichTable(box=None, pad_edge=False, header_style="bold")
    chosen = [i for i, (title, _) in enumerate(table.columns) if title in titles]
    for title, kind in (table.columns[i] for i in chosen):
        justify: Any = "right" if kind == "number" else "left"
        shown.add_column(title.lower(), justify=justify, no_wrap=kind == "number", overflow="fold")
    for row in table.rows:
        shown.add_row(*(_text(row[i]) for i in chosen))
    console.print(shown)


def _text(cell: tables.Cell) -> Text:
    return Text(cell.text, style=STYLES.get(cell.tone, ""))
