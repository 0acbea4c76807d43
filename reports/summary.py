"""The ladder's short table, for the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from reports import formats, plan_sentences
from reports.findings import Findings

# Columns of a terminal from which titles and the differences' intervals fit beside the numbers.
ROOMY = 130
# Columns below which a stage's verdict is a line of its own, and those that fit all numbers.
NARROW = 100
ALL_NUMBERS = 60
STYLES = {"good": "green", "bad": "red", "even": "", "none": "dim"}


def show(found: Findings, page: Path, console: Console) -> None:
    """Print the answer, the main group's table, what is shown apart, and the page's path."""
    roomy, narrow = console.width >= ROOMY, console.width < NARROW
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("stage", no_wrap=True, max_width=20)
    if roomy:
        table.add_column("title", no_wrap=True, max_width=28)
    numbers = ["held-out", "previous", "×baseline"]
    if console.width >= ALL_NUMBERS:
        numbers = ["interval", "held-out", "previous", "tokens/s", "×baseline"]
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    if not narrow:
        table.add_column("verdict", overflow="fold", min_width=10)
    verdicts = []
    for stage in found.main.stages:
        before, verdict = stage.vs_previous.loss, found.verdicts[0][stage.name]
        values = {
            "interval": formats.interval(stage.mean),
            "held-out": formats.loss(stage.mean.held_out),
            "previous": formats.change(before)
            if roomy or not before
            else formats.signed(before.value),
            "tokens/s": formats.count(stage.mean.tokens_per_second),
            "×baseline": formats.times(stage.vs_baseline.speed),
        }
        names = [stage.name, *([stage.title] if roomy else [])]
        said = Text(verdict.text, style=STYLES[verdict.tone])
        cells = map(Text, [*names, *(values[heading] for heading in numbers)])
        table.add_row(*cells, *([] if narrow else [said]))
        verdicts.append(Text(f"{stage.name}: ").append(said))
    console.print(table)
    for verdict_line in verdicts if narrow else []:
        console.print(verdict_line)
    console.print()
    worth = plan_sentences.worth(found.worth, found.rules) if found.worth else []
    for sentence in (*found.answer, *worth):
        console.print(Text(sentence))
    for warning in (
        found.disturbed,
        *(f"Shown apart: {difference}." for _, difference, _ in found.others),
        *found.records.problems,
    ):
        if warning:
            console.print(Text(warning, style="yellow"))
    console.print(Text(f"Report: {page}"), soft_wrap=True)
