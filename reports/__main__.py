"""python -m reports outputs/ladder [outputs/other ...]"""

from __future__ import annotations

import argparse
from pathlib import Path

from conf.errors import UsageError
from reports import print_summary, write_report
from runner.messages import fail


def main() -> None:
    """Writes the report and exits: 0 success, 2 a user's error."""
    parser = argparse.ArgumentParser(
        prog="python -m reports",
        description="Write the report on the runs under one or more experiment folders, from "
        "their records alone, into report/ in the first of them.",
    )
    parser.add_argument(
        "experiments",
        nargs="+",
        type=Path,
        metavar="outputs/experiment",
        help="an experiment's folder; several are compared side by side",
    )
    experiments = parser.parse_args().experiments
    try:
        write_report(experiments)
        print_summary(experiments)
    except UsageError as error:
        fail(str(error))


if __name__ == "__main__":
    main()
