"""Files that are written whole or not at all, and whose damage is detected."""

import json
import math
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runner import files
from runner.files import DamagedFile, file_sha256, known_sha256, replacing, seal, unseal

FIELDS = {"name": "naïve – 数据", "loss": 10.962733268737793, "steps": [1, 2], "none": None}


def test_sealed_fields_are_read_back_and_are_plain_json() -> None:
    assert unseal(seal(FIELDS)) == FIELDS
    assert json.loads(seal(FIELDS))["loss"] == FIELDS["loss"]
    assert unseal(seal({"nan": math.nan, "inf": -math.inf})) == {"nan": None, "inf": None}


@given(st.integers(0, len(seal(FIELDS)) * 8 - 1))
@example(149)  # \u00ef to \u00Ef, which is the same letter
def test_every_flipped_bit_of_a_sealed_file_is_detected(bit: int) -> None:
    content = bytearray(seal(FIELDS))
    content[bit // 8] ^= 1 << bit % 8
    with pytest.raises(DamagedFile):
        unseal(bytes(content))


def test_a_writer_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_of_a_killed_writer_is_removed_and_that_of_a_running_one_is_not(
    tmp_path: Path,
) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    host, writers = platform.node(), (gone.pid, os.getppid())
    left, kept = (tmp_path / f".file.~{host}~{pid}.part" for pid in writers)
    left.touch()
    kept.touch()
    files.write_atomically(tmp_path / "file", b"new")
    assert not left.exists()
    assert kept.exists()


def test_a_hash_is_not_computed_again_until_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, cache = tmp_path / "file", tmp_path / "cache"
    path.write_text("one")
    os.utime(path, (1, 1))
    monkeypatch.setattr(files, "CLOCK_GRAIN_NS", 0)
    first = known_sha256(path, cache)
    assert first == file_sha256(path)
    with monkeypatch.context() as patch:
        patch.setattr(files, "file_sha256", lambda path: pytest.fail("it was read again"))
        assert known_sha256(path, cache) == first
    path.write_text("two")
    os.utime(path, (1, 1))
    assert known_sha256(path, cache) == file_sha256(path) != first
    (memory,) = (cache / "hashes").iterdir()
    memory.write_text("{}")
    assert known_sha256(path, cache) == file_sha256(path)


def test_the_hash_of_a_file_just_written_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("one")
    known_sha256(tmp_path / "file", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
