"""Runs trained inside the test's own process."""

import io
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from runner.data.text import find_text
from runner.record import Record
from runner.run import as_plain
from runner.training.loop import train
from tests.conftest import Settings, load_quietly


class Runs:
    """Trains configurations in this process and returns their records and steps."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings, self.folder, self.count = settings, folder, 0

    def __call__(self, *overrides: str) -> tuple[dict[str, Any], pd.DataFrame]:
        config = self.settings(*overrides)
        self.count += 1
        record = Record(self.folder / str(self.count))
        stage = {"name": "test", "aim": "loss"}
        fields = {
            "fingerprint": "test",
            "stage": stage,
            "environment": {},
            "config": as_plain(config),
            "data": {},
        }
        record.start(fields, afresh=True)
        data = config.data
        cache = Path(config.cache_dir)
        _, files, _ = find_text(data.name, data.path, data.url, data.sha256, cache)
        corpus = load_quietly(files, cache, data.held_out_fraction)
        train(config, corpus, record, Console(file=io.StringIO()))
        return record.fields, pd.read_csv(record.folder / "steps.csv")


@pytest.fixture
def runs(settings: Settings, tmp_path: Path) -> Runs:
    return Runs(settings, tmp_path / "runs")
