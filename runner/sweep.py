"""What belongs to a sweep as a whole: its experiments, and the exit status of the command."""

import itertools
import sys
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from runner.folder import now
from runner.record import Status, UnreadableRecord, read_run


class ExitStatus(Callback):  # type: ignore[misc]  # Hydra has no types
    """Ends a sweep with status 1 where one of its runs failed, whatever launched them."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        self.started = now()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        for experiment in experiments(config):
            for file in experiment.glob("*/*/run.json"):
                try:
                    run = read_run(file.parent)
                except (UnreadableRecord, OSError):
                    continue
                # A running record here is one that could not be closed.
                lost = run.status in (Status.failed, Status.running)
                if lost and (run.ended or run.started) >= self.started:
                    sys.exit(1)


def experiments(config: DictConfig) -> list[Path]:
    """The experiment folders of a command, from its composed configuration and its overrides.

    A sweep's configuration holds one `experiment` only, where the overrides may name several.
    """
    swept = OmegaConf.to_container(config.hydra.sweeper, resolve=False)
    params = (swept.get("params") or {}) if isinstance(swept, dict) else {}
    texts = [f"{key}={value}" for key, value in params.items()]
    parser = OverridesParser.create()
    values = {"output_dir": [str(config.output_dir)], "experiment": [str(config.experiment)]}
    for override in parser.parse_overrides([*texts, *config.hydra.overrides.task]):
        if override.key_or_group in values:
            values[override.key_or_group] = _values(override)
    pairs = itertools.product(*values.values())
    return list(dict.fromkeys(Path(output).expanduser() / name for output, name in pairs))


def _values(override: Override) -> list[str]:
    if override.is_sweep_override():
        return [str(value) for value in override.sweep_string_iterator()]
    return [str(override.value())]
