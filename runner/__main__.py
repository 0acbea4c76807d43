"""python -m runner: trains a stage, or several with -m; without a stage it shows the ladder."""

import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.table import Table

from conf.errors import UsageError
from conf.schema import register
from runner.identity import ROUND, conditions, override_key, resolved
from runner.messages import error, errors_in_a_sentence, fail, say, sentence
from runner.record import StageInfo, Status
from runner.run import Command, run
from runner.settings import read_settings
from stages.ladder import changes_between, read_ladder


def main() -> None:
    """Run the command and exit: 0 success, 1 a stage failed, 2 a user's error, 128 + a signal."""
    flags = get_args_parser().parse_args()
    for_hydra = flags.cfg or flags.info or flags.hydra_help or flags.shell_completion
    names_stage = "stage" in map(override_key, flags.overrides)
    with errors_in_a_sentence():
        if flags.help or not (names_stage or for_hydra):
            show_ladder(Console(), [Path(flags.config_dir)] if flags.config_dir else [])
            if not flags.help and (flags.overrides or flags.multirun):
                fail("No stage was named: add one of the above, such as +stage=step07.")
            return
        for override in flags.overrides:
            if override.startswith("stage="):
                fail(f"{override}: a stage is added to the configuration, so write +{override}.")
        if flags.multirun:
            options = [word for word in sys.argv[1:] if word not in flags.overrides]
            sys.argv[1:] = [*options, *rounds_first(flags.overrides)]
        register()
        task()


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def task(cfg: DictConfig) -> Status:
    """The single run of the command, or one run of its sweep."""
    sweeping = HydraConfig.get().mode is RunMode.MULTIRUN
    try:
        return run(read_settings(cfg), read_command(cfg), Console(), isolate=sweeping)
    except (UsageError, OmegaConfBaseException) as mistake:
        refused = UsageError(sentence(mistake))
        if not sweeping:
            fail(str(refused))
        error(str(refused))
        refused.reported = True
        raise refused from mistake


def rounds_first(overrides: Sequence[str]) -> list[str]:
    """The overrides of a sweep with `repeat` and `seed` before all others.

    Hydra varies the last override fastest. So every stage is trained once before the next round
    begins, and a machine that becomes slower does so for all stages.
    """
    return sorted(overrides, key=lambda override: override_key(override) not in ROUND)


def read_command(cfg: DictConfig) -> Command:
    """The stage, its changes and all overrides, for the record of a run."""
    overrides = list(HydraConfig.get().overrides.task)
    runtime = HydraConfig.get().runtime
    choice = str(runtime.choices["stage"])
    folders = [Path(source.path) for source in runtime.config_sources if source.schema == "file"]
    stage = next((stage for stage in read_ladder(folders) if stage.name == choice), None)
    if stage is None:
        raise UsageError(
            f"+stage={choice}: this stage is in a subfolder of stage/; move its file into stage/."
        )
    without_stage = [o for o in overrides if not o.startswith("+stage=")]
    plain = composed(*without_stage)
    before = composed(*without_stage, f"+stage={stage.parent}") if stage.parent else plain
    about = StageInfo(
        name=choice,
        number=stage.number,
        parent=stage.parent,
        title=stage.about.title,
        aim=stage.about.aim,
        guide=stage.about.guide,
        changes=changes_between(before, cfg),
    )
    return Command(about, overrides, conditions(resolved(plain)))


@cache
def composed(*overrides: str) -> DictConfig:
    """A configuration; the jobs of a sweep share the one without a stage."""
    return hydra.compose("config", list(overrides))


def show_ladder(console: Console, folders: Sequence[Path]) -> None:
    """Print the stages, those in `folders` included, and the commands to type next."""
    table = Table(title="The ladder: each stage trains with its own change and all before it")
    for column in ("#", "stage", "title", "changes", "aim"):
        table.add_column(column, overflow="fold")
    for stage in read_ladder(folders):
        changes = ", ".join(f"{key}={_as_typed(value)}" for key, value in stage.changes.items())
        about = stage.about
        table.add_row(str(stage.number), stage.name, about.title, changes, about.aim.name)
    console.print(table, highlight=False)
    say(console, "Type next:")
    for command, meaning in {
        "python -m runner +stage=step07": "trains one stage, with the changes of all before it",
        "python -m runner -m '+stage=glob(step*)'": "trains them all and writes the report",
        "python -m reports outputs/ladder": "writes the report again, from the records",
    }.items():
        say(console, f"  {command:<44} {meaning}")
    say(
        console,
        "Any value can be set: seed=2 device=cpu scale=smoke data=text data.path=FILE "
        "experiment=NAME (--cfg job shows them all, --hydra-help the flags).",
    )


def _as_typed(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    main()
