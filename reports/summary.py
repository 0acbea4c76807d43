"""The ladder's short table, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from reports import words
from reports.answer import answer
from reports.compare import compare
from reports.records import read_records

# Columns of a terminal from which titles and the differences' ± fit beside the numbers.
ROOMY = 120
STYLES = {"good": "green", "bad": "red", "even": "", "none": "dim"}


def show(experiments: Sequence[str | Path], console: Console | None = None) -> None:
    """Print the main group's table, what was left apart, and the page's path."""
    console = console or Console()
    records = read_records(experiments)
    main, *others = compare(records)
    roomy = console.width >= ROOMY
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("stage", no_wrap=True, max_width=20)
    if roomy:
        table.add_column("title", no_wrap=True, max_width=28)
    for heading in ("interval", "held-out", "previous", "tokens/s", "speed-up"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold", min_width=16)
    for stage in main.stages:
        before = stage.loss_vs_previous
        narrow = words.signed(before.value) if before else words.NONE
        cells = [
            words.interval(stage),
            words.loss(stage.mean["held_out"]),
            words.change(before) if roomy else narrow,
            words.count(stage.mean["tokens_per_second"]),
            words.times(stage.speed_vs_baseline),
        ]
        table.add_row(
            Text(stage.name),
            *([Text(stage.title)] if roomy else []),
            *(Text(cell) for cell in cells),
            Text(stage.verdict.text, style=STYLES[stage.verdict.tone]),
        )
    console.print(table)
    console.print()
    for sentence in answer(main):
        console.print(Text(sentence))
    for group in others:
        runs = f"{len(group.runs)} run{'s' if len(group.runs) > 1 else ''}"
        said = f"Shown apart: {runs} with {words.unlike(group, main)}."
        console.print(Text(said, style="yellow"))
    for problem in records.problems:
        console.print(Text(problem, style="yellow"))
    page = Path(experiments[0]) / "report" / "index.html"
    console.print(Text(f"Report: {page}"), soft_wrap=True)
