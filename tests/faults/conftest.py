"""A lab and a sandbox for each test."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.fuzz import Sandbox, sandbox
from tests.faults.lab import Lab


@pytest.fixture
def lab(tmp_path: Path, shared_dir: Path, text_file: Path) -> Lab:
    shared = shared_dir / "undisturbed"
    shared.mkdir(exist_ok=True)
    (tmp_path / "text.txt").write_bytes(text_file.read_bytes())
    return Lab(tmp_path, tmp_path / "text.txt", tmp_path / "cache", random.Random(0), shared)


@pytest.fixture
def box(tmp_path: Path, text_file: Path) -> Iterator[Sandbox]:
    with sandbox(tmp_path, text_file.read_bytes()) as made:
        yield made
