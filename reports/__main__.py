"""python -m reports outputs/ladder [outputs/other ...]"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from reports import ReportError, print_summary, write_report


def main(arguments: list[str] | None = None) -> int:
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
        help="an experiment's folder; several are put side by side",
    )
    experiments = parser.parse_args(arguments).experiments
    try:
        write_report(experiments)
        print_summary(experiments)
    except ReportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
