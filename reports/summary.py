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

STYLES = {"good": "green", "bad": "red", "even": "", "none": "dim"}


def show(experiments: Sequence[str | Path], console: Console | None = None) -> None:
    """Print the main group's table, what was left apart, and the page's path."""
    console = console or Console()
    records = read_records(experiments)
    main, *others = compare(records)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("stage", no_wrap=True)
    table.add_column("title", max_width=26, no_wrap=True)
    for heading in ("interval", "held-out", "to previous", "tokens/s", "speed-up"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    for stage in main.stages:
        table.add_row(
            Text(stage.name),
            Text(stage.title),
            Text(words.interval(stage)),
            words.loss(stage.mean["held_out"]),
            words.change(stage.loss_vs_previous),
            words.count(stage.mean["tokens_per_second"]),
            words.times(stage.speed_vs_baseline),
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
