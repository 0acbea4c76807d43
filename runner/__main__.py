"""python -m runner: trains a stage, or several with -m; without a stage it shows the ladder."""

import contextlib
import math
import os
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from conf.elsewhere import called_elsewhere
from conf.errors import LostProcess, Reported, UsageError
from runner import signals, world
from runner.command import composed, read_command
from runner.dry_run import is_dry_run, list_runs, plan_runs
from runner.entry import errors_in_a_sentence
from runner.messages import error, fail, say
from runner.mistakes import sentence
from runner.overrides import NAMES_RUNS, hydra_open, override_key, parse
from runner.overview import show_ladder
from runner.record import Status
from runner.run import run
from runner.settings import read_settings, refuse_unknown
from stages.ladder import read_ladder


@errors_in_a_sentence()
def main() -> None:
    """Run the command and exit.

    0 success, 1 a stage failed or diverged, 2 a mistake in the command, 128 + a signal. With
    torchrun, only the first process prints, and it decides whether a stage failed.
    """
    if not world.is_first():
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if "--version" in sys.argv:
        print(f"gpt2-ladder {version('gpt2-ladder')}")
        return
    flags, rest = get_args_parser().parse_known_args()
    if unknown := [word for word in rest if word.startswith("-")]:
        if ours := called_elsewhere(unknown[0].strip("-").partition("=")[0].replace("-", "_")):
            fail(f"There is no flag {unknown[0]}; it is a setting, without dashes: {ours}.")
        fail(
            f"There is no flag {unknown[0]}; --hydra-help shows the flags, and a setting has no "
            "dashes: -m +stage=step07 seed=1,2."
        )
    if rest:
        fail(f"{' '.join(rest)}: settings come after all flags: -m +stage=step07 seed=1,2.")
    for word in flags.overrides:
        if (key := override_key(word)) in ("hydra.launcher", "hydra.sweeper"):
            fail(f"{word}: it is chosen with a slash: {key.replace('.', '/')}=NAME.")
    typed, folders = flags.overrides, [Path(flags.config_dir)] if flags.config_dir else []
    keys = set(map(override_key, typed))
    for_hydra = flags.cfg or flags.info or flags.hydra_help or flags.shell_completion
    if flags.help or not (keys & NAMES_RUNS or for_hydra):
        parse(typed)  # refuses what is not a setting
        show_ladder(Console(), folders)
        if not flags.help and (typed or flags.multirun):
            fail("No stage was named: add one of the above, such as +stage=step07.")
    elif flags.cfg == "job" and not flags.multirun and keys & {"without", "plus"}:
        with hydra_open(folders):  # Hydra would show the stage as it is
            cfg, _ = read_command(composed(*typed), typed, read_ladder(folders))
        shown = OmegaConf.select(cfg, flags.package) if flags.package else cfg
        print(OmegaConf.to_yaml(shown, resolve=flags.resolve))
    elif not for_hydra and is_dry_run(typed):
        if world.is_first():
            list_runs(typed, folders, Console())
    else:
        if not (for_hydra or flags.multirun or keys & {"plan", "hydra.mode"}):
            refuse_sweep(typed)
        elif not for_hydra and "hydra/sweeper" not in keys:  # another may find its runs later
            plan_runs(typed, folders)  # a mistake in any run ends the command before the first
        task()


def refuse_sweep(overrides: list[str]) -> None:
    """Exit with an error for what only a sweep can do."""
    for override in OverridesParser.create().parse_overrides(overrides):
        if override.is_sweep_override() or override.key_or_group == "hydra/launcher":
            refuse_unknown(override.input_line)
            fail(f"{override.input_line}: it asks for several runs; add -m.")


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def task(cfg: DictConfig) -> float:
    """The single run of the command, or one run of its sweep.

    Returns the held-out loss in nats/token, which sweepers can minimise; NaN if a run failed,
    diverged, or was interrupted in a launcher's worker.
    """
    # Named by its module: a launcher's workers get a copy of everything else that is named here.
    return signals.this_process.train(partial(_held_out, cfg))


def _held_out(cfg: DictConfig) -> float:
    """Train a run and return its held-out loss, or NaN if the run did not finish."""
    sweeping = HydraConfig.get().mode is RunMode.MULTIRUN
    os.chdir(HydraConfig.get().runtime.cwd)  # paths are relative to it, even with job.chdir
    try:
        overrides = list(HydraConfig.get().overrides.task)
        trained, command = read_command(cfg, overrides, read_ladder(_folders()))
        config = read_settings(trained)
        # The steps of several runs would be mixed up.
        config.quiet |= not signals.this_process.is_command
        ended = run(config, command, Console(), isolate=sweeping)
        return ended.results.held_out if ended and ended.status is Status.finished else math.nan
    except (UsageError, OmegaConfBaseException) as mistake:
        if isinstance(mistake, Reported):
            sys.exit(2)
        if isinstance(mistake, LostProcess):  # the first process is lost, or could not say it
            say(Console(stderr=True), str(mistake), "red")
            sys.exit(2)
        if not sweeping:
            with contextlib.suppress(OSError):
                os.removedirs(HydraConfig.get().run.dir)  # Hydra made it, and nothing is in it
            fail(sentence(mistake))
        error(sentence(mistake))
        in_a_file = "SUBMITIT_EXECUTOR" in os.environ  # whose output the user does not see
        raise (UsageError if in_a_file else Reported)(sentence(mistake)) from mistake


def _folders() -> list[Path]:
    """The command's configuration folders, the user's before the project's."""
    sources = HydraConfig.get().runtime.config_sources
    return [Path(source.path) for source in sources if source.schema == "file"]


if __name__ == "__main__":
    main()
