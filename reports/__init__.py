"""From the records of runs to numbers, figures and pages. Never trains, never imports torch.

    import reports
    records = reports.load("outputs/ladder")    # DataFrames: records.runs, .steps, .windows
    stages = reports.stages("outputs/ladder")   # a row a stage: differences and verdicts
    page = reports.write_report(["outputs/ladder"])

pandas and matplotlib are imported when a function is first called. Each function raises
`conf.errors.UsageError` where there is nothing to report on.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent.parent))
importlib.import_module("runner")  # which has this project's packages found first
del sys.path[0]

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from conf.schema import ReportConf
    from reports.read import Records

__all__ = ["load", "stages", "write_report"]


def load(*experiments: str | Path) -> Records:
    """Every run under one or more experiment folders (`outputs/ladder`) as DataFrames.

    `reports.read` documents the columns.
    """
    from reports.read import read_records

    return read_records(experiments)


def stages(
    *experiments: str | Path,
    rules: ReportConf | None = None,
    config_dirs: Sequence[Path] = (),
) -> pd.DataFrame:
    """What the report says of each question that was asked: a row each, as in stages.csv.

    `rules` and `config_dirs` are as in `write_report`. Column `group` is 0 for the ladder that the
    report is on; `reference_loss_value` and its interval are in nats/token.
    """
    from reports.report import Report
    from reports.values import as_frame

    return as_frame(Report(experiments, rules, config_dirs))


def write_report(
    experiments: Sequence[str | Path],
    rules: ReportConf | None = None,
    config_dirs: Sequence[Path] = (),
    console: Console | None = None,
    output: str | Path | None = None,
) -> Path:
    """Write the report on an experiment's folder, or several side by side; return its page.

    It is written into `report/` in the folder, on several into a folder of its own beside the first
    that is called after them, or into `output`: index.html (one self-contained file), report.md,
    report.json, tables as CSV and figures/, each replaced in one go. `rules` are the settings of
    its statistics, those of conf/report where none are given; `config_dirs` hold stages and plans
    of your own. The answer is printed to `console`, if one is given. Raises UsageError where the
    folder cannot be written, too.
    """
    from reports.page import write
    from reports.report import Report
    from reports.summary import show

    found = Report(experiments, rules, config_dirs)
    folder = Path(experiments[0])
    if len(experiments) == 1:
        folder = folder / "report"
    else:
        folder = folder.parent / "-and-".join(Path(each).absolute().name for each in experiments)
    page = write(found, Path(output) if output else folder)
    if console:
        show(found, page, console)
    return page
