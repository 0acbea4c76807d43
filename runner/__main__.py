"""python -m runner: trains a stage, or several with -m; without a stage it shows the ladder."""

import sys
from collections.abc import Sequence
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
from runner.command import arithmetic_as_overrides, read_command
from runner.dry_run import list_runs
from runner.identity import ARITHMETIC, override_key
from runner.messages import error, errors_in_a_sentence, fail, say, sentence
from runner.record import Status
from runner.run import run
from runner.settings import read_settings
from stages.ladder import read_ladder
from stages.plans import hydra_open, parse, read_plans


def main() -> None:
    """Run the command and exit: 0 success, 1 a stage failed, 2 a user's error, 128 + a signal."""
    flags = get_args_parser().parse_args()
    for_hydra = flags.cfg or flags.info or flags.hydra_help or flags.shell_completion
    keys = set(map(override_key, flags.overrides))
    folders = [Path(flags.config_dir)] if flags.config_dir else []
    names_stage = keys & {"stage", "plan"}
    with errors_in_a_sentence():
        register()
        if flags.help or not (names_stage or for_hydra):
            show_ladder(Console(), folders)
            if not flags.help and (flags.overrides or flags.multirun):
                fail("No stage was named: add one of the above, such as +stage=step07.")
            return
        for override in flags.overrides:
            if override.startswith(("stage=", "plan=")):
                word = override.partition("=")[0]
                fail(f"{override}: a {word} is added to the configuration, so write +{override}.")
        if flags.cfg and not flags.multirun and "stage" in keys and keys & set(ARITHMETIC):
            at = sys.argv.index(flags.overrides[0])
            with hydra_open(folders):
                sys.argv[at:at] = arithmetic_as_overrides(flags.overrides, read_ladder(folders))
        if "dry_run" in keys and not for_hydra and asks_for_dry_run(flags.overrides):
            list_runs(flags.overrides, folders, Console())
            return
        task()


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def task(cfg: DictConfig) -> Status:
    """The single run of the command, or one run of its sweep."""
    sweeping = HydraConfig.get().mode is RunMode.MULTIRUN
    try:
        overrides = list(HydraConfig.get().overrides.task)
        trained, command = read_command(cfg, overrides, read_ladder(_folders()))
        return run(read_settings(trained), command, Console(), isolate=sweeping)
    except (UsageError, OmegaConfBaseException) as mistake:
        refused = UsageError(sentence(mistake))
        if not sweeping:
            fail(str(refused))
        error(str(refused))
        refused.reported = True
        raise refused from mistake


def asks_for_dry_run(overrides: Sequence[str]) -> bool:
    """Whether the runs are to be listed, and not trained."""
    typed = parse([override for override in overrides if override_key(override) == "dry_run"])
    if not isinstance(typed["dry_run"], bool):
        fail(f"dry_run={typed['dry_run']}: write dry_run=true or dry_run=false.")
    return typed["dry_run"]


def _folders() -> list[Path]:
    """The folders of configuration of the command, the user's own before the project's."""
    sources = HydraConfig.get().runtime.config_sources
    return [Path(source.path) for source in sources if source.schema == "file"]


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
    say(console, "Plans of many runs; dry_run=true lists them, and how long they take:")
    for plan in read_plans(folders):
        say(console, f"  +plan={plan.name:<14} {plan.about.question}")
    say(
        console,
        "Any value can be set: seed=2 device=cpu scale=smoke data=text data.path=FILE "
        "experiment=NAME (--cfg job shows them all, --hydra-help the flags).",
    )


def _as_typed(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    main()
