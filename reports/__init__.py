"""From the records of runs to numbers, figures and pages. Never trains, never imports torch.

    import reports
    records = reports.load("outputs/ladder")    # DataFrames: records.runs, .steps, .windows
    stages = reports.stages("outputs/ladder")   # a row a stage: differences and verdicts
    page = reports.write_report("outputs/ladder")
    arms = reports.compare({"baseline": "logs/a", "unified": "logs/b/*.txt"}, target=3.28)

They import pandas and matplotlib when called, and raise `conf.errors.UsageError` where there is
nothing to report on.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

sys.path.insert(0, str(Path(__file__).parent.parent))
importlib.import_module("runner")  # which has this project's packages found first
del sys.path[0]

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from conf.schema import ReportConf
    from reports.read import Records

__all__ = ["compare", "load", "stages", "write_report"]


def load(*experiments: str | Path) -> Records:
    """Every run under experiment folders as DataFrames; `reports.read` documents the columns."""
    from reports.read import read_records

    return read_records(experiments)


def stages(
    *experiments: str | Path,
    columns: Literal["main", "all"] = "main",
    rules: ReportConf | None = None,
    config_dirs: Sequence[Path] = (),
) -> pd.DataFrame:
    """What the report says of each question that was asked: a row each.

    `group` is 0 for the ladder that the report is on; losses are in nats/token. The columns are
    those of `reports.values.MAIN`, or "all" those of stages.csv, such as p-values and memory.
    """
    from conf.errors import UsageError
    from reports.report import Report
    from reports.values import MAIN, as_frame, comparisons

    if columns not in ("main", "all"):
        raise UsageError(f'columns={columns!r}: give "main" or "all".')
    frame = as_frame(comparisons(Report(experiments, rules, config_dirs)))
    return frame if columns == "all" else frame.reindex(columns=MAIN)


def write_report(
    experiments: str | Path | Sequence[str | Path],
    rules: ReportConf | None = None,
    config_dirs: Sequence[Path] = (),
    console: Console | None = None,
    output: str | Path | None = None,
) -> Path:
    """Write the report on an experiment folder, or several side by side; return its page.

    It goes to `output`, else to `report/` in the folder, or for several to a folder beside the
    first, called after all. `rules` replace those of conf/report; `config_dirs` hold stages and
    plans of your own; the answer is printed to `console`.
    """
    from reports.page import write
    from reports.report import Report
    from reports.summary import show

    experiments = [experiments] if isinstance(experiments, str | Path) else experiments
    found, first = Report(experiments, rules, config_dirs), Path(experiments[0])
    together = "-and-".join(Path(each).absolute().name for each in experiments)
    beside = first / "report" if len(experiments) == 1 else first.parent / together
    page = write(found, Path(output or beside))
    if console:
        show(found, page, console)
    return page


def compare(
    arms: Mapping[str, str | Path | Sequence[str | Path]],
    *,
    paired: bool = False,
    unfinished: bool = False,
    format: str = "",
    pattern: str = "",
    columns: str = "",
    score: str = "",
    output: str | Path | None = None,
    console: Console | None = None,
    **settings: Any,
) -> pd.DataFrame:
    """What logs of other scripts say: a row an arm, each less the first one.

    An arm is a folder, a file or a pattern, or several; `settings` are those of conf/logs.yaml,
    such as `target=3.28`. The other arguments are the options of `python -m reports`. With
    `output` the report is written there. What could not be read is in `attrs["problems"]`.
    """
    from reports.logs import page
    from reports.logs.arms import Logs
    from reports.logs.read import Reading
    from reports.page import save
    from reports.rules import read_rules_of_logs

    places = {n: [p] if isinstance(p, str | Path) else [*p] for n, p in arms.items()}
    rules = read_rules_of_logs([f"{k}={v}" for k, v in settings.items() if v is not None])
    how = Reading.typed(format, pattern, columns, score, paired)
    logs = Logs(places, rules, how, unfinished)
    if output:
        written = save(page.build(logs), Path(output))
        if console:
            page.show(logs, written, console)
    frame = page.frame(logs)
    frame.attrs["problems"] = logs.problems
    return frame
