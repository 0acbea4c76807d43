"""Overrides as Hydra reads them: their values, and the runs of a sweep."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.utils import get_class
from omegaconf import DictConfig

from conf.errors import UsageError
from stages.ladder import CONF

# What names the runs of a command.
NAMES_RUNS = {"stage", "plan", "recipe"}


def override_key(override: str) -> str:
    """The key of an override, without Hydra's + and ~."""
    return override.lstrip("+~").partition("=")[0]


@contextmanager
def hydra_open(config_dirs: Iterable[Path]) -> Iterator[None]:
    """Let hydra.compose search these folders before the project's, as --config-dir does."""
    instance = GlobalHydra.instance()
    before = instance.hydra  # of a caller that composes configurations too
    instance.clear()
    Hydra.create_main_hydra2("runner", _search_path(config_dirs))
    try:
        yield
    finally:
        instance.clear()
        instance.hydra = before


def _search_path(config_dirs: Iterable[Path]) -> ConfigSearchPath:
    search_path = create_config_search_path(str(CONF))
    for folder in config_dirs:
        search_path.prepend("command-line", f"file://{folder.resolve()}")
    return search_path


def parse(overrides: Sequence[str]) -> dict[str, Any]:
    """The values of a run's overrides by key, as Hydra's grammar reads them."""
    parsed = map(_parse_one, overrides)
    return {override.key_or_group: override.value() for override in parsed}


@cache
def _parse_one(override: str) -> Override:
    """The runs of a plan share their overrides, which Hydra parses slowly."""
    (parsed,) = OverridesParser.create().parse_overrides([override])
    return parsed


def read_sweep(
    overrides: Sequence[str], config_dirs: Iterable[Path]
) -> tuple[DictConfig, list[list[str]]]:
    """What is common to a sweep's runs as Hydra composes it, and the overrides of each run.

    Within `hydra_open`. Raises UsageError, and Hydra's errors.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    constant = [o.input_line for o in parsed if not o.is_sweep_override()]
    cfg = compose("config", constant, return_hydra_config=True)
    sweeper = get_class(cfg.hydra.sweeper._target_)
    if not hasattr(sweeper, "split_arguments"):  # such as Optuna's, which finds its runs later
        sweeper = BasicSweeper
    return cfg, expand(cfg.hydra.sweeper.params or {}, overrides, config_dirs, sweeper)


def expand(
    params: Mapping[str, str],
    typed: Sequence[str] = (),
    config_dirs: Iterable[Path] = (),
    sweeper: type[BasicSweeper] = BasicSweeper,
) -> list[list[str]]:
    """The overrides of each run that a sweep asks for, as its sweeper orders them.

    `typed` replace parameters of the same key. Raises Hydra's errors.
    """
    parser = OverridesParser.create(config_loader=ConfigLoaderImpl(_search_path(config_dirs)))
    swept = [f"{key}={value}" for key, value in params.items()]
    runs: list[list[str]]
    (runs,) = sweeper.split_arguments(parser.parse_overrides([*swept, *typed]), None)
    if not runs:
        globs = " ".join(word for word in [*swept, *typed] if "glob(" in word)
        raise UsageError(f"{globs} matches nothing, so there is no run.")
    return runs
