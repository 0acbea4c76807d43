"""Odd files, beside what test_drawn.py draws of them."""

import codecs
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf.errors import UsageError
from runner.data.hellaswag import items_sha256, read_items
from runner.data.text import user_files
from tests.faults.fuzz import few


@pytest.mark.parametrize("kind", ["fifo", "dangling", "loop", "device", "folder"])
def test_what_is_no_file_is_refused_by_name_and_never_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "odd"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        (path / ".hidden").mkdir(parents=True)
    else:
        path.symlink_to({"dangling": "nothing", "loop": "odd", "device": "/dev/zero"}[kind])
    with pytest.raises(UsageError, match=rf"data.path={path}: no file to read; .*\.$"):
        user_files(str(path))
    with pytest.raises(UsageError, match=rf"evaluation.hellaswag={path}: .*; give .*\.$"):
        items_sha256(str(path), tmp_path / "cache")


def test_texts_are_not_lost_to_a_small_json_and_documents_not_to_a_small_text(
    tmp_path: Path,
) -> None:
    said: list[str] = []
    (tmp_path / "metadata.json").write_text('{"file": "a.txt"}\n{"file": "b.txt"}\n')
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("Once upon a time.\n" * 9)
    assert [file.name for file in user_files(str(tmp_path), said.append)] == ["a.txt", "b.txt"]
    (tmp_path / "metadata.json").write_text('{"text": "Once upon a time."}\n' * 99)
    assert [file.name for file in user_files(str(tmp_path), said.append)] == ["metadata.json"]
    assert ["metadata.json" in said[0], "a.txt, b.txt" in said[1]] == [True, True]


ITEM = {"ctx": "A man", "endings": ["a", "b", "c", "d"], "label": 1}


@few(40)
@given(
    lines=st.lists(st.sampled_from(["", " ", json.dumps(ITEM)]), max_size=9),
    mark=st.booleans(),
    most=st.none() | st.integers(1, 4),
)
def test_hellaswag_is_read_with_blank_lines_and_a_mark(
    tmp_path: Path, lines: list[str], mark: bool, most: int | None
) -> None:
    path = tmp_path / "items"
    content = "".join(f"{line}\n" for line in lines).encode()
    items = [line for line in lines if line.strip()]
    path.write_bytes(codecs.BOM_UTF8 * mark + content)
    if items:
        assert len(read_items(str(path), most)) == len(items[:most])
    path.write_bytes(codecs.BOM_UTF8 * mark + content + b"{}\n")
    with pytest.raises(UsageError, match=f": line {len(lines) + 1} is not an item"):
        read_items(str(path), None)
