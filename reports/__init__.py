"""From the records of runs to numbers, figures and pages. Never trains, never imports torch.

    import reports
    records = reports.load("outputs/ladder")    # DataFrames: records.runs, records.steps
    page = reports.write_report(["outputs/ladder"])

pandas and matplotlib are imported when a function is first called, so that `import reports` is
cheap for a program that only may need a report later.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from reports.errors import ReportError

if TYPE_CHECKING:
    from rich.console import Console

    from reports.records import Records

__all__ = ["ReportError", "load", "print_summary", "write_report"]


def load(*experiments: str | Path) -> Records:
    """Every run under one or more experiment folders (`outputs/ladder`) as DataFrames.

    `reports.records` documents the columns. Raises ReportError where a folder holds no runs.
    """
    from reports.records import read_records

    return read_records(experiments)


def write_report(experiments: Sequence[str | Path]) -> Path:
    """Write the report on these experiment folders into the first one and return its page.

    Leaves `report/index.html` (one self-contained file), `report.md`, `stages.csv`, `steps.csv`,
    `report.json` and `figures/`, each replaced in one go, so that a reader never meets half a
    file. Raises ReportError where there is nothing to report on or the folder cannot be written.
    """
    from reports.page import write

    return write(experiments)


def print_summary(experiments: Sequence[str | Path], console: Console | None = None) -> None:
    """Print the ladder's short table and where the page lies. Raises ReportError as `load` does."""
    from reports.summary import show

    show(experiments, console)
