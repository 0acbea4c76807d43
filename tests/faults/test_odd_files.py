"""A sample of the odd files that `tests.benchmarks reliability` tries by the thousand."""

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
from tests.faults import odd_files
from tests.faults.fuzz import Sandbox, few

FEW = few(40)


@FEW
@given(tree=odd_files.TREES)
def test_odd_names_and_links_lead_to_each_file_once(box: Sandbox, tree: odd_files.Tree) -> None:
    odd_files.check_tree(box, tree)


@FEW
@given(file=odd_files.FILES)
def test_a_file_is_read_as_what_it_holds_or_refused(box: Sandbox, file: odd_files.File) -> None:
    odd_files.check_format(box, file)


@FEW
@given(case=odd_files.DOCUMENTS)
def test_json_lines_are_all_read_or_the_line_is_named(
    box: Sandbox, case: odd_files.Documents
) -> None:
    odd_files.check_documents(box, case)


@FEW
@given(case=odd_files.COLUMNS)
def test_a_column_of_strings_is_read_and_others_are_refused(
    box: Sandbox, case: odd_files.Column
) -> None:
    odd_files.check_column(box, case)


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


@FEW
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
    with pytest.raises(UsageError, match=f": line {len(lines) + 1} is no item"):
        read_items(str(path), None)
