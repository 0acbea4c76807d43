"""python -m runner: trains a stage, or several with -m; without a stage it shows the ladder."""

import contextlib
import math
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from conf.errors import UsageError, did_you_mean
from runner import world
from runner.command import arithmetic_as_overrides, read_command, recipe_as_overrides
from runner.dry_run import list_runs
from runner.entry import errors_in_a_sentence
from runner.expansion import expand, hydra_open, parse
from runner.identity import ARITHMETIC, override_key
from runner.interruption import in_command
from runner.messages import error, fail, say, sentence, warn
from runner.record import Status
from runner.run import run
from runner.settings import read_settings
from runner.worker import in_worker
from stages.arithmetic import Ladder
from stages.ladder import group_files, read_ladder
from stages.plans import read_plan
from stages.recipes import read_recipe

# The flags that one types; --hydra-help has them all.
FLAGS = ("--multirun", "--config-dir", "--cfg", "--help", "--version", "--hydra-help", "--info")


@errors_in_a_sentence()
def main() -> None:
    """Run the command and exit.

    0 success, 1 a stage failed or diverged, 2 a mistake in the command, 128 + a signal. Of several
    processes of torchrun only the first prints, and decides whether a stage failed.
    """
    if not world.is_first():
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if "--version" in sys.argv:
        print(f"gpt2-ladder {version('gpt2-ladder')}")
        return
    flags, rest = get_args_parser().parse_known_args()
    if rest and not any(word.startswith("-") for word in rest):  # overrides on both sides of a flag
        flags.overrides += rest
        before = [word for word in sys.argv[1:] if word not in flags.overrides]
        sys.argv[1:] = [*before, *flags.overrides]
    elif rest:
        unknown = next(word for word in rest if word.startswith("-"))
        near = did_you_mean(unknown, FLAGS)
        fail(f"There is no flag {unknown}.{near} A setting has no dashes: +stage=step07 seed=2.")
    for_hydra = flags.cfg or flags.info or flags.hydra_help or flags.shell_completion
    folders = [Path(flags.config_dir)] if flags.config_dir else []
    if "recipe" in map(override_key, flags.overrides):
        _type_first(recipe_as_overrides(flags.overrides, folders), flags)
    keys = set(map(override_key, flags.overrides))
    names_stage = keys & {"stage", "plan"}
    if flags.help or not (names_stage or for_hydra):
        show_ladder(Console(), folders)
        if not flags.help and (flags.overrides or flags.multirun):
            fail("No stage was named: add one of the above, such as +stage=step07.")
        return
    for override in flags.overrides:
        if override.startswith(("stage=", "plan=", "recipe=")):
            word = override.partition("=")[0]
            fail(f"{override}: a {word} is added to the configuration, so write +{override}.")
        if "glob(" in override:
            expand({}, [override], folders)  # one that matches nothing is refused
    if flags.cfg and not flags.multirun and "stage" in keys and keys & set(ARITHMETIC):
        with hydra_open(folders):
            found = arithmetic_as_overrides(flags.overrides, read_ladder(folders))
        _type_first(found, flags)
    sweeps = flags.multirun or for_hydra or keys & {"plan", "dry_run", "hydra.mode"}
    for override in OverridesParser.create().parse_overrides(flags.overrides):
        line = str(override.input_line)
        if override.key_or_group in ARITHMETIC and isinstance(override.value(), str):
            fail(f"{line}: write a list, such as {override.key_or_group}=[step04].")
        if override.is_sweep_override() and not sweeps:
            fail(f"{line}: to train each of several values in turn, add -m.")
        if override.key_or_group == "hydra/launcher" and not sweeps:
            fail(f"{line}: it launches the runs of a sweep; add -m.")
        if override.key_or_group in ("hydra.launcher", "hydra.sweeper"):
            fail(f"{line}: it is chosen with a slash, {line.replace('.', '/', 1)}.")
    if "dry_run" in keys and not for_hydra and asks_for_dry_run(flags.overrides):
        if world.is_first():
            list_runs(flags.overrides, folders, Console())
        return
    task()


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def task(cfg: DictConfig) -> float:
    """The single run of the command, or one run of its sweep.

    Returns the held-out loss in nats/token, which sweepers can minimise; NaN where a run failed,
    diverged, or was interrupted in a launcher's worker.
    """
    return _held_out(cfg) if in_command() else in_worker(partial(_held_out, cfg))


def _held_out(cfg: DictConfig) -> float:
    """Train a run; returns its held-out loss, NaN where its record says that it did not finish."""
    sweeping = HydraConfig.get().mode is RunMode.MULTIRUN
    os.chdir(HydraConfig.get().runtime.cwd)  # paths are relative to it, whatever job.chdir is
    try:
        overrides = list(HydraConfig.get().overrides.task)
        trained, command = read_command(cfg, overrides, read_ladder(_folders()))
        config = read_settings(trained)
        config.quiet |= not in_command()  # the steps of several runs would be mixed up
        ended = run(config, command, Console(), isolate=sweeping)
        return ended.results.held_out if ended and ended.status is Status.finished else math.nan
    except (UsageError, OmegaConfBaseException) as mistake:
        if getattr(mistake, "told", False):  # the first process has the reason, and says it
            sys.exit(2)
        refused = UsageError(sentence(mistake))
        if not sweeping:
            with contextlib.suppress(OSError):
                os.removedirs(HydraConfig.get().run.dir)  # Hydra made it, and nothing is in it
            fail(str(refused))
        if world.is_first():
            error(str(refused))
        refused.reported = "SUBMITIT_EXECUTOR" not in os.environ  # whose output is a file
        raise refused from mistake


def _type_first(overrides: Sequence[str], flags: Namespace) -> None:
    """Put overrides before those that were typed, which are in `flags` and in sys.argv."""
    at = sys.argv.index(flags.overrides[0])
    sys.argv[at:at] = overrides
    flags.overrides[:0] = overrides


def asks_for_dry_run(overrides: Sequence[str]) -> bool:
    """Whether the runs are to be listed, and not trained."""
    typed = [override for override in overrides if override_key(override) == "dry_run"]
    asked = str(parse(typed)["dry_run"]).lower()
    if asked not in ("true", "false"):
        fail(f"dry_run={asked}: write dry_run=true or dry_run=false.")
    return asked == "true"


def _folders() -> list[Path]:
    """The folders of configuration of the command, the user's own before the project's."""
    sources = HydraConfig.get().runtime.config_sources
    return [Path(source.path) for source in sources if source.schema == "file"]


def show_ladder(console: Console, folders: Sequence[Path]) -> None:
    """Print the stages, those in `folders` included, and the commands to type next."""
    say(console, "The ladder: each stage trains with its own change and all before it.", "bold")
    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in ("place", "stage", "what it changes"):
        table.add_column(overflow="fold")
    problems: list[str] = []
    stages = read_ladder(folders, problems)
    trunk = [stage.name for stage in Ladder(stages, {}).chain(stages[-1].name)]
    for stage in stages:
        branches = stage.parent and stage.name not in trunk
        place = f"on {stage.parent}" if branches else str(stage.number)
        changes = ", ".join(_as_typed(key, value) for key, value in stage.changes.items())
        about = Text(f"{stage.about.title} ({stage.about.aim.name})")
        table.add_row(place, stage.name, about.append(f"\n{changes}" if changes else "", "dim"))
    console.print(table, highlight=False)
    say(console, "Type next:", "bold")
    _show_commands(console, {
        "python -m runner +stage=step07": "trains one stage, with the changes of all before it",
        "python -m runner -m '+stage=glob(step*)'": "trains them all and writes the report",
        "python -m reports outputs/ladder": "writes the report again, from the records",
    })  # fmt: skip
    say(console, "Plans of many runs; dry_run=true lists them, and how long they take:", "bold")
    _show_choices(console, "plan", folders, lambda file: read_plan(file).about.question, problems)
    say(console, "Recipes, each one long run:", "bold")
    _show_choices(console, "recipe", folders, lambda file: read_recipe(file).title, problems)
    for problem in problems:
        warn(console, f"Left out: {problem}")
    console.print(
        "Any value can be set: seed=2 device=cpu scale=smoke data=text data.path=FILE "
        "experiment=NAME (--cfg job shows them all, --hydra-help the flags).",
        highlight=False,
    )


def _show_choices(
    console: Console,
    group: str,
    folders: Sequence[Path],
    meaning: Callable[[Path], str],
    problems: list[str],
) -> None:
    """What may be added of a group, with its meaning; a file that has none joins the problems."""
    found = {}
    for name, file in group_files(group, folders, "*.y*ml").items():
        try:
            found[f"+{group}={name}"] = meaning(file)
        except UsageError as mistake:
            problems.append(str(mistake))
    _show_commands(console, found)


def _show_commands(console: Console, meanings: Mapping[str, str]) -> None:
    """Each command and its meaning, side by side where the terminal is wide enough for both."""
    widest = max(map(len, meanings))
    side_by_side = widest + max(map(len, meanings.values())) + 4 <= console.width
    for command, meaning in meanings.items():
        if side_by_side:
            say(console, f"  {command:<{widest}}  {meaning}")
        else:
            say(console, f"  {command}")
            console.print(Padding(Text(meaning), (0, 0, 0, 6)))


def _as_typed(key: str, value: object) -> str:
    """A stage's change as one types it; the scale decides values that refer to it."""
    if "${" in str(value):
        return f"{key} by the scale"
    return f"{key}={str(value).lower() if isinstance(value, bool) else value}"


if __name__ == "__main__":
    main()
