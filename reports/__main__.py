"""python -m reports outputs/ladder [outputs/other ...]"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from conf.errors import UsageError
from reports import write_report
from reports.rules import read_rules
from runner.messages import fail, open_streams


def main() -> None:
    """Writes the report and exits: 0 success, 2 a user's error."""
    open_streams()
    parser = argparse.ArgumentParser(
        prog="python -m reports",
        description="Write the report on the runs under one or more experiment folders. Settings "
        "of conf/report, such as margin=0.05, may follow.",
    )
    named = "an experiment's folder; several are compared side by side"
    parser.add_argument("experiments", nargs="+", metavar="outputs/experiment", help=named)
    where = "the report's folder; else report/ in the experiment's, or one beside the first of many"
    parser.add_argument("--output", type=Path, help=where)
    own = "a folder with stages and plans of your own, as given to the runner"
    parser.add_argument("--config-dir", type=Path, action="append", default=[], help=own)
    given = parser.parse_intermixed_args()
    words = given.experiments
    settings = [word for word in words if "=" in word and not Path(word).exists()]
    experiments = [word for word in words if word not in settings]
    try:
        write_report(experiments, read_rules(settings), given.config_dir, Console(), given.output)
    except UsageError as error:
        fail(str(error))


if __name__ == "__main__":
    main()
