"""The ladder's short table, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from reports import formats
from reports.compare import compare
from reports.read import read_records
from reports.sentences import answer, apart
from reports.verdicts import verdict

# Columns of a terminal from which titles and the differences' ± fit beside the numbers.
ROOMY = 120
STYLES = {"good": "green", "bad": "red", "even": "", "none": "dim"}


def show(experiments: Sequence[str | Path], console: Console | None = None) -> None:
    """Print the main group's table, what is shown apart, and the page's path."""
    console = console or Console()
    records = read_records(experiments)
    main, *others = compare(records.found)
    roomy = console.width >= ROOMY
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("stage", no_wrap=True, max_width=20)
    if roomy:
        table.add_column("title", no_wrap=True, max_width=28)
    for heading in ("interval", "held-out", "previous", "tokens/s", "speed-up"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold", min_width=16)
    for stage in main.stages:
        before, judged = stage.vs_previous.loss, verdict(stage)
        cells = [
            stage.name,
            *([stage.title] if roomy else []),
            formats.interval(stage.mean),
            formats.loss(stage.mean.held_out),
            formats.change(before) if roomy or not before else formats.signed(before.value),
            formats.count(stage.mean.tokens_per_second),
            formats.times(stage.vs_baseline.speed),
        ]
        table.add_row(*map(Text, cells), Text(judged.text, style=STYLES[judged.tone]))
    console.print(table)
    console.print()
    for sentence in answer(main):
        console.print(Text(sentence))
    for group in others:
        console.print(Text(f"Shown apart: {apart(group, main)}.", style="yellow"))
    for problem in records.problems:
        console.print(Text(problem, style="yellow"))
    page = Path(experiments[0]) / "report" / "index.html"
    console.print(Text(f"Report: {page}"), soft_wrap=True)
