"""The plans in conf/plan and in folders of the user's own: which runs each asks for."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
from omegaconf import DictConfig, OmegaConf

from conf.errors import UsageError
from conf.reading import read_yaml
from conf.schema import PlanConf
from stages.ladder import CONF, group_files

# What a plan's file may hold: every value that it sets is one of its sweeper's parameters.
SECTIONS = {"defaults", "hydra", "plan"}


@dataclass(frozen=True)
class Plan:
    """A plan: what it is about, and its `hydra.sweeper.params`."""

    name: str
    about: PlanConf
    params: dict[str, str]


def read_plans(config_dirs: Iterable[Path] = ()) -> list[Plan]:
    """Every plan. Raises UsageError for a file that is not one."""
    return [read_plan(file) for file in group_files("plan", config_dirs).values()]


def read_plan(file: Path) -> Plan:
    """Raises UsageError for a file that is not a plan."""
    content = read_yaml(file)
    params = isinstance(content, DictConfig) and OmegaConf.select(content, "hydra.sweeper.params")
    if not isinstance(params, DictConfig):
        raise UsageError(f"{file} has no hydra.sweeper.params; a plan's runs are named there.")
    if wrong := {str(key) for key in content} - SECTIONS:
        raise UsageError(
            f"{file} sets {', '.join(sorted(wrong))}; a plan sets every value under "
            "hydra.sweeper.params."
        )
    try:
        about = PlanConf(**(content.get("plan") or {}))
    except TypeError:
        raise UsageError(f"{file}: plan has a title and a question, and nothing else.") from None
    about.title = about.title or file.stem
    swept = {str(key): str(value) for key, value in params.items_ex(resolve=False)}
    return Plan(file.stem, about, swept)


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
