"""python -m runner: trains a stage, or with -m several, and shows the ladder when given none."""

import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from conf.errors import UsageError
from conf.schema import register
from runner.identity import conditions, resolved
from runner.messages import error, fail, mistakes_in_a_sentence, say
from runner.record import StageInfo, Status
from runner.run import Command, run
from runner.settings import read_settings
from stages.ladder import changes_between, read_ladder

HYDRA_FLAGS = (
    "--cfg", "-c", "--info", "-i", "--hydra-help", "--version", "--shell-completion", "-sc",
)  # fmt: skip


def main() -> None:
    """Runs what the command line asks for and exits: 0 done, 1 a stage failed, 2 a mistake."""
    console = Console()
    arguments = sys.argv[1:]
    with mistakes_in_a_sentence():
        if "--help" in arguments or "-h" in arguments:
            show_ladder(console, config_dirs(arguments))
            return
        names = [a.lstrip("+~").split("=")[0] for a in arguments]
        if "stage" not in names and not set(names) & set(HYDRA_FLAGS):
            show_ladder(console, config_dirs(arguments))
            if arguments:
                fail("No stage was named: add one of the above, such as +stage=step07.")
            return
        for argument in arguments:
            if argument.startswith("stage="):
                fail(f"{argument}: a stage is added to the configuration, so write +{argument}.")
        register()
        statuses.clear()
        task()
    if Status.failed in statuses:
        sys.exit(1)


# How the run of this process ended; a sweep's exit status comes from its records, see runner.sweep.
statuses: list[Status] = []


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def task(cfg: DictConfig) -> None:
    """One run of the command, or of each combination that a sweep goes through."""
    sweeping = HydraConfig.get().mode is RunMode.MULTIRUN
    try:
        status = run(read_settings(cfg), read_command(cfg), Console(), isolate=sweeping)
    except UsageError as mistake:
        if not sweeping:
            fail(str(mistake))
        error(str(mistake))
        raise
    if not sweeping:
        statuses.append(status)


def read_command(cfg: DictConfig) -> Command:
    """What was typed, and the stage with its delta, as they go into the record."""
    overrides = list(HydraConfig.get().overrides.task)
    choice = str(HydraConfig.get().runtime.choices["stage"])
    sources = HydraConfig.get().runtime.config_sources
    folders = [Path(source.path) for source in sources if source.schema == "file"]
    ladder = {stage.name: stage for stage in read_ladder(folders)}
    if choice not in ladder:
        raise UsageError(
            f"+stage={choice}: this stage is in a subfolder of stage/; move its file into stage/."
        )
    stage = ladder[choice]
    without_stage = [o for o in overrides if not o.startswith("+stage=")]
    plain = hydra.compose("config", without_stage)
    parent = [f"+stage={stage.parent}"] if stage.parent else []
    before = hydra.compose("config", [*without_stage, *parent]) if parent else plain
    about = StageInfo(
        name=choice,
        number=stage.number,
        title=stage.about.title,
        aim=stage.about.aim,
        guide=stage.about.guide,
        changes=changes_between(before, cfg),
    )
    return Command(about, overrides, conditions(resolved(plain)))


def show_ladder(console: Console, folders: Sequence[Path] = ()) -> None:
    """The ladder as a table, and the three commands to type next."""
    table = Table(title="The ladder: each stage trains with its own change and all before it")
    for column in ("#", "stage", "title", "changes", "aim"):
        table.add_column(column, overflow="fold")
    for stage in read_ladder(folders):
        changes = ", ".join(f"{key}={_shown(value)}" for key, value in stage.changes.items())
        about = stage.about
        table.add_row(str(stage.number), stage.name, about.title, changes, about.aim.name)
    console.print(table, highlight=False)
    say(console, "Type next:")
    for command, meaning in {
        "python -m runner +stage=step07": "trains one stage, with all before it",
        "python -m runner -m '+stage=glob(step*)'": "trains them all and writes the report",
        "python -m reports outputs/ladder": "writes the report again, from the records",
    }.items():
        say(console, f"  {command:<44} {meaning}")
    say(
        console,
        "Any value can be set: seed=2 device=cpu scale=smoke data=text data.path=FILE "
        "experiment=NAME (--cfg job shows them all, --hydra-help the flags).",
    )


def config_dirs(arguments: Sequence[str]) -> list[Path]:
    """The folders given with --config-dir, from the raw command line."""
    folders = []
    for flag, following in zip(arguments, [*arguments[1:], ""], strict=False):
        if flag in ("--config-dir", "-cd"):
            folders.append(Path(following))
        elif flag.startswith("--config-dir="):
            folders.append(Path(flag.removeprefix("--config-dir=")))
    return folders


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    main()
