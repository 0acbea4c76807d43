"""python -m reports outputs/ladder [outputs/other ...], or baseline=logs/a unified=logs/b ..."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from rich.console import Console

from conf.errors import UsageError
from conf.schema import LogsConf, ReportConf
from reports import compare, write_report
from reports.formats import slug
from reports.rules import read_rules
from runner.messages import fail, open_streams

SETTINGS = {entry.name for kind in (ReportConf, LogsConf) for entry in fields(kind)}


def main() -> None:
    """Writes the report and exits: 0 success, 2 a user's error."""
    open_streams()
    parser = argparse.ArgumentParser(
        prog="python -m reports",
        description="Write the report on the runs under one or more experiment folders, or on arms "
        "of logs, of which the first is what the others are compared with. Settings of conf/report "
        "or conf/logs.yaml, such as margin=0.05 or target=3.28, may follow.",
    )
    named = "an experiment's folder, or an arm of logs: name=folder, name=file or name='logs/*.txt'"
    parser.add_argument("words", nargs="+", metavar="outputs/experiment | arm=logs", help=named)
    where = "the report's folder; else report/ in the experiment's, or one beside the first of many"
    parser.add_argument("--output", type=Path, help=where)
    own = "a folder with stages and plans of your own, as given to the runner"
    parser.add_argument("--config-dir", type=Path, action="append", default=[], help=own)
    add = parser.add_argument_group("logs").add_argument
    add("--paired", action="store_true", help="pair runs by the seed in a file's name or log")
    add("--unfinished", action="store_true", help="count runs that did not reach their end")
    add("--format", help="how a log's lines are written; else found by the lines that fit")
    add("--pattern", help=r"the same as a regular expression: 'step (?P<step>\d+) (?P<loss>\S+)'")
    add("--columns", help="columns of a table: step=Step,loss=train/loss,held_out=val/loss")
    add("--score", help="a run's loss: held_out, bits_per_byte, loss, or as 'final: (\\S+)'")
    given = vars(parser.parse_intermixed_args())
    words, output, config_dirs = (given.pop(name) for name in ("words", "output", "config_dir"))
    options = {name: value for name, value in given.items() if value}  # of logs
    pairs = [word for word in words if "=" in word[1:] and not Path(word).exists()]
    settings = [pair for pair in pairs if pair.partition("=")[0] in SETTINGS]
    arms: dict[str, list[str]] = {}
    for name, _, place in (p.partition("=") for p in pairs if p not in settings):
        arms.setdefault(name, []).append(place)
    experiments = [word for word in words if word not in pairs]
    try:
        if arms and experiments:
            name = Path(experiments[0]).name
            raise UsageError(
                f"{next(iter(arms))}= is no setting; there are {', '.join(sorted(SETTINGS))}. If "
                f"it is an arm of logs, {experiments[0]} needs a name too: {name}={experiments[0]}."
            )
        if options and not arms:
            raise UsageError(
                f"--{next(iter(options))} is for logs: name an arm, such as baseline=logs/a."
            )
        if arms:
            output = output or Path("outputs", "-and-".join(map(slug, arms)))
            values = dict(setting.split("=", 1) for setting in settings)
            compare(arms, output=output, console=Console(), **options, **values)
        else:
            write_report(experiments, read_rules(settings), config_dirs, Console(), output)
    except UsageError as error:
        fail(str(error))


if __name__ == "__main__":
    main()
