"""A lab and a sandbox for each test."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.fuzz import Sandbox, sandbox
from tests.faults.lab import Lab


@pytest.fixture
def own_cache(tmp_path: Path, cache_dir: Path) -> Path:
    """A cache of this test's, but for the rates of matrix products: a busy machine takes long."""
    (cache_dir / "products").mkdir(parents=True, exist_ok=True)
    own = tmp_path / "cache"
    own.mkdir()
    (own / "products").symlink_to(cache_dir / "products")
    return own


@pytest.fixture
def lab(tmp_path: Path, shared_dir: Path, text_file: Path, own_cache: Path) -> Lab:
    shared = shared_dir / "undisturbed"
    shared.mkdir(exist_ok=True)
    (tmp_path / "text.txt").write_bytes(text_file.read_bytes())
    return Lab(tmp_path, tmp_path / "text.txt", own_cache, random.Random(0), shared)


@pytest.fixture
def box(own_cache: Path, text_file: Path) -> Iterator[Sandbox]:
    with sandbox(own_cache.parent, text_file.read_bytes()) as made:
        yield made
