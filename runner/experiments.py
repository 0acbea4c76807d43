"""The folders that a command names: experiments, and the user's configuration."""

import itertools
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig


def config_dirs(config: DictConfig) -> list[Path]:
    """The folders with the user's custom stages and plans."""
    sources = config.hydra.runtime.config_sources
    return [Path(source.path) for source in sources if source.provider == "command-line"]


def experiments(config: DictConfig) -> list[Path]:
    """The experiment folders of a command, from its composed configuration and its overrides.

    The configuration of a sweep holds one `experiment` only; the overrides may name several.
    """
    params = config.hydra.sweeper.get("params") or {}
    typed = [*(f"{key}={value}" for key, value in params.items()), *config.hydra.overrides.task]
    values = {"output_dir": [str(config.output_dir)], "experiment": [str(config.experiment)]}
    parser = OverridesParser.create()
    for override in parser.parse_overrides(typed):
        key = override.key_or_group
        if key in values and override.is_sweep_override():
            swept = [f"{key}={value}" for value in override.sweep_string_iterator()]
            values[key] = [str(one.value()) for one in parser.parse_overrides(swept)]
        elif key in values:
            values[key] = [str(override.value())]
    pairs = itertools.product(*values.values())
    return list(dict.fromkeys(Path(output).expanduser() / name for output, name in pairs))
