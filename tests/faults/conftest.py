"""A lab for each test."""

import random
from pathlib import Path

import pytest

from tests.faults.lab import Lab


@pytest.fixture
def lab(tmp_path: Path, shared_dir: Path, text_file: Path) -> Lab:
    shared = shared_dir / "undisturbed"
    shared.mkdir(exist_ok=True)
    (tmp_path / "text.txt").write_bytes(text_file.read_bytes())
    return Lab(tmp_path, tmp_path / "text.txt", tmp_path / "cache", random.Random(0), shared)
