"""Overrides as Hydra reads them: their values, the runs that a sweep's ask for, its folders."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from conf.errors import UsageError
from stages.ladder import CONF


def override_key(override: str) -> str:
    """The key of an override, without Hydra's + and ~."""
    return override.lstrip("+~").partition("=")[0]


@contextmanager
def hydra_open(config_dirs: Iterable[Path]) -> Iterator[None]:
    """Let hydra.compose search these folders before the project's, as --config-dir does."""
    Hydra.create_main_hydra2("runner", _search_path(config_dirs))
    try:
        yield
    finally:
        GlobalHydra.instance().clear()


def _search_path(config_dirs: Iterable[Path]) -> ConfigSearchPath:
    search_path = create_config_search_path(str(CONF))
    for folder in config_dirs:
        search_path.prepend("command-line", f"file://{folder.resolve()}")
    return search_path


def parse(overrides: Sequence[str]) -> dict[str, Any]:
    """The value of each override of a run by its key, as Hydra's grammar reads it."""
    parsed = map(_parse_one, overrides)
    return {override.key_or_group: override.value() for override in parsed}


@cache
def _parse_one(override: str) -> Override:
    """The runs of a plan share their overrides, which Hydra parses slowly."""
    return OverridesParser.create().parse_override(override)


def expand(
    params: Mapping[str, str], typed: Sequence[str] = (), config_dirs: Iterable[Path] = ()
) -> list[list[str]]:
    """The overrides of each run that a sweep asks for, as Hydra's basic sweeper orders them.

    `typed` replace parameters of the same key. Raises Hydra's errors.
    """
    parser = OverridesParser.create(config_loader=ConfigLoaderImpl(_search_path(config_dirs)))
    swept = [f"{key}={value}" for key, value in params.items()]
    runs: list[list[str]]
    (runs,) = BasicSweeper.split_arguments(parser.parse_overrides([*swept, *typed]), None)
    if not runs:
        raise UsageError(f"{' '.join([*swept, *typed])} matches nothing, so there is no run.")
    return runs


def config_dirs(config: DictConfig) -> list[Path]:
    """The folders in which a command's user keeps stages and plans of their own."""
    sources = config.hydra.runtime.config_sources
    return [Path(source.path) for source in sources if source.provider == "command-line"]


def experiments(config: DictConfig) -> list[Path]:
    """The experiment folders of a command, from its composed configuration and its overrides.

    The configuration of a sweep holds one `experiment` only; the overrides may name several.
    """
    params = config.hydra.sweeper.get("params") or {}
    typed = [*(f"{key}={value}" for key, value in params.items()), *config.hydra.overrides.task]
    values = {"output_dir": [str(config.output_dir)], "experiment": [str(config.experiment)]}
    for override in OverridesParser.create().parse_overrides(typed):
        key = override.key_or_group
        if key in values and override.is_sweep_override():
            texts = override.sweep_string_iterator()
            values[key] = [str(_parse_one(f"{key}={text}").value()) for text in texts]
        elif key in values:
            values[key] = [str(override.value())]
    pairs = itertools.product(*values.values())
    return list(dict.fromkeys(Path(output).expanduser() / name for output, name in pairs))
