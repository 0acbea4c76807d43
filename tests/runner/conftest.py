"""Runs trained inside the test's own process."""

import io
import signal
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from rich.console import Console

from conf.reading import register
from conf.schema import Config
from runner.data.corpus import Corpus, load
from runner.data.source import find_source
from runner.data.stream import TokenStream
from runner.folder import RunFolder
from runner.identity import as_plain, conditions
from runner.record import Run
from runner.signals import Interrupted
from runner.training.device import find_device
from runner.training.loop import train
from runner.training.parallel import Parallel
from tests.conftest import ROOT, Settings
from tests.records import synthetic_run

# What takes longer than a few steps do.
QUICK = ("evaluation.tokens=128", "evaluation.peak_seconds=0.01", "sample.tokens=3")


@cache
def composed(*overrides: str) -> DictConfig:
    """A configuration at the smoke scale, of which a test must change a copy."""
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", ["scale=smoke", *overrides])


class Runs:
    """Trains configurations in this process and returns their records and steps."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings, self.folder, self.count = settings, folder, 0

    def __call__(
        self, *overrides: str, given: dict[str, Any] | None = None, again: bool = False
    ) -> tuple[Run, pd.DataFrame]:
        """`given` are the conditions, where they are not those of the overrides.

        With `again` the run before goes on from its checkpoint.
        """
        config = self.settings(*QUICK, *overrides)
        self.count += not again
        folder = RunFolder(self.last)
        plain = as_plain(config)
        composed = given or conditions(plain)
        folder.start(synthetic_run(config=plain, conditions=composed), afresh=not again)
        alone = Parallel(find_device(config.device, config.scale.name))
        train(config, self.corpus(config), folder, Console(file=io.StringIO()), alone)
        return folder.run, pd.read_csv(folder.path / "steps.csv", float_precision="round_trip")

    def interrupted(
        self, monkeypatch: pytest.MonkeyPatch, micro_batch: int, *overrides: str
    ) -> None:
        """Train until a signal comes while this micro batch is read, from 0."""
        read = TokenStream.micro_batch

        def interrupt(stream: TokenStream, number: int) -> tuple[torch.Tensor, torch.Tensor]:
            if number == micro_batch:
                signal.raise_signal(signal.SIGTERM)
            return read(stream, number)

        with monkeypatch.context() as patched:
            patched.setattr(TokenStream, "micro_batch", interrupt)
            with pytest.raises(Interrupted):
                self(*overrides)

    @property
    def last(self) -> Path:
        """The folder of the last run."""
        return self.folder / str(self.count)

    @staticmethod
    def corpus(config: Config) -> Corpus:
        cache, held_out = Path(config.cache_dir), config.data.held_out_fraction
        return load(find_source(config.data, cache), cache, held_out, print, lambda *_: None)


@pytest.fixture
def runs(settings: Settings, tmp_path: Path) -> Runs:
    return Runs(settings, tmp_path / "runs")


@pytest.fixture
def words(tmp_path: Path, text_file: Path, cache_dir: Path) -> list[str]:
    """Overrides of a small run in this test's folder."""
    folders = [f"data.path={text_file}", f"cache_dir={cache_dir}", f"output_dir={tmp_path}/outputs"]
    return ["scale=smoke", "device=cpu", "data=text", *folders]
