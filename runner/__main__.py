"""python -m runner: trains a stage, or with -m several, and shows the ladder when given none."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

import reports
from conf.schema import register
from conf.errors import UsageError
from runner.messages import fail, tell, told_in_a_sentence
from runner.run import Command, experiment_folder, run
from runner.settings import read_settings
from stages.ladder import changes_between, read_ladder

HYDRA_FLAGS = (
    "--cfg", "-c", "--info", "-i", "--hydra-help", "--version", "--shell-completion", "-sc",
)  # fmt: skip
# Overrides that do not make a run another experiment than the ladder's own.
NOT_A_VARIANT = (
    "stage", "seed", "experiment", "output_dir", "cache_dir", "force", "checkpoint", "device",
    "scale", "data", "sample", "hydra",
)  # fmt: skip

# A long sweep can be watched in its report, which is written again this often.
REPORT_SECONDS = 120.0


def main() -> None:
    """Runs what the command line asks for and exits: 0 done, 1 a stage failed, 2 a mistake."""
    console = Console()
    arguments = sys.argv[1:]
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
    statuses: list[str] = []
    reported: dict[Path, float] = {}  # the experiments swept, and when their report was due last

    @hydra.main(version_base="1.3", config_path="../conf", config_name="config")
    def task(cfg: DictConfig) -> None:
        sweeping = HydraConfig.get().mode is RunMode.MULTIRUN
        try:
            config = read_settings(cfg)
            outcome = run(config, read_command(cfg), console, isolate=sweeping)
        except UsageError as error:
            if not sweeping:
                fail(str(error))
            tell(str(error))
            statuses.append("failed")
            return
        statuses.append(outcome.status)
        if sweeping:
            experiment = experiment_folder(config)
            since = reported.setdefault(experiment, time.monotonic())
            if outcome.trained and time.monotonic() - since > REPORT_SECONDS:
                write_report(experiment, console)
                reported[experiment] = time.monotonic()

    register()
    with told_in_a_sentence():
        task()
    for experiment in reported:
        if write_report(experiment, console):
            reports.print_summary([experiment], console)
    if "failed" in statuses:
        sys.exit(1)


def write_report(experiment: Path, console: Console) -> bool:
    """Writes the comparison of everything trained so far; says why where it could not."""
    try:
        reports.write_report([experiment])
    except reports.ReportError as error:
        console.print(str(error), style="red", markup=False, soft_wrap=True)
        return False
    return True


def read_command(cfg: DictConfig) -> Command:
    """What was typed, and the stage as it goes into the record, with its delta."""
    overrides = list(HydraConfig.get().overrides.task)
    choice = str(HydraConfig.get().runtime.choices["stage"])
    sources = HydraConfig.get().runtime.config_sources
    folders = [Path(source.path) for source in sources if source.schema == "file"]
    ladder = {stage.name: stage for stage in read_ladder(folders)}
    if choice not in ladder:
        raise UsageError(f"+stage={choice}: a stage's file lies in stage/, in no folder below.")
    parent = ladder[choice].parent
    others = [o for o in overrides if not o.startswith("+stage=")]
    before = hydra.compose("config", [*others, *([f"+stage={parent}"] if parent else [])])
    about = cfg.stage
    stage = {
        "name": choice,
        "number": ladder[choice].number,
        "title": about.title,
        "aim": about.aim,
        "guide": about.guide,
        "claim": about.claim,
        "changes": changes_between(before, cfg),
    }
    variant = [o for o in others if o.lstrip("+~").split("=")[0].split(".")[0] not in NOT_A_VARIANT]
    return Command(stage, overrides, variant)


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
    console.print("Type next:")
    for command, meaning in {
        "python -m runner +stage=step07": "trains one stage, with all before it",
        "python -m runner -m '+stage=glob(step*)'": "trains them all and writes the report",
        "python -m reports outputs/ladder": "writes the report again, from the records",
    }.items():
        console.print(f"  {command:<44} {meaning}", highlight=False, markup=False, soft_wrap=True)
    console.print(
        "Any value can be set: seed=2 device=cpu scale=smoke data=text data.path=FILE "
        "experiment=NAME (--cfg job shows them all, --hydra-help the flags).",
        highlight=False,
        markup=False,
        soft_wrap=True,
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
