"""Odd files to train on: their names and links, their encodings and formats, their documents.

Each case is read exactly as an independent reading of it says, or refused in one sentence that
names the file.
"""

import bz2
import gzip
import io
import json
import lzma
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import zstandard
from hypothesis import strategies as st
from pyarrow import parquet

from conf.errors import UsageError
from gpt2.tokenizer import tokenizer
from runner.data.text import user_files
from tests.faults.fuzz import Sandbox
from tests.runner.data.test_corpus import expected, prepare, tokens

# What a shell, a glob, Hydra or an operating system might take for something else than a name.
PARTS = st.sampled_from(
    ["a", "b", "[", "]", "[a]", "[!a]", "*", "**", "?", "{", "}", "~", " ", "'", '"', "\n", "$",
     "\\", "数据", "ü", "#", "=", ",", "-", "%s", "\udc80"]
)  # fmt: skip
# Not hidden, and no name for another folder.
NAMES = st.lists(PARTS, min_size=1, max_size=4).map("".join)
NAMES = st.builds(str.__add__, NAMES, st.sampled_from(["", "", ".txt", ".", " .md"]))


@dataclass(frozen=True)
class Tree:
    """Files in folders, by their names; links to them; how all is given."""

    files: list[tuple[list[str], str, bool]]
    links: list[tuple[int, str, int, str]]
    given: str


TREES = st.builds(
    Tree,
    st.lists(st.tuples(st.lists(NAMES, max_size=2), NAMES, st.booleans()), min_size=1, max_size=5),
    st.lists(
        st.tuples(
            st.integers(0, 4),
            NAMES,
            st.integers(0, 9),
            st.sampled_from(["file", "hard", "folder", "loop", "dangling", "fifo", "socket"]),
        ),
        max_size=4,
    ),
    st.sampled_from(["file", "folder", "parts", "glob", "all", "below"]),
)


def check_tree(box: Sandbox, tree: Tree) -> None:
    """Each file is found once, by its own content, in the order of the names."""
    with tempfile.TemporaryDirectory() as name:
        top = Path(name) / "top"
        made = _make(top, tree)
        if tree.given == "file":
            for path in made:
                assert user_files(str(path)) == [path]
            return
        folder = made[0].parent
        if tree.given in ("all", "below") and os.path.lexists(top / "**"):
            return  # what exists is no glob
        path = {
            "folder": str(folder),
            "parts": f"{folder}/./",
            "glob": f"{folder}/*",
            "all": f"{top}/**",
            "below": f"{top}/**/*",
        }[tree.given]
        found = user_files(path)
        assert found == user_files(path) == sorted(found)
        contents = [file.read_bytes() for file in found]
        assert len(contents) == len(set(contents)), "a file is read twice"
        start = folder if tree.given in ("folder", "parts", "glob") else top
        deep = tree.given != "glob"
        assert set(contents) == set(_reachable(start, deep, set()))


def _make(top: Path, tree: Tree) -> list[Path]:
    made: list[Path] = []
    for number, (folders, name, hidden) in enumerate(tree.files):
        path = top.joinpath(*folders, f".{name}" if hidden and number else name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x") as file:
                file.write(f"the text of file {number}\n")
        except OSError:  # its name, or a folder's, is taken
            continue
        made.append(path)
    for at, name, to, kind in tree.links:
        target = made[to % len(made)]
        link = made[at % len(made)].parent / name
        try:
            if kind == "hard":
                os.link(target, link)
            elif kind == "fifo":
                os.mkfifo(link)
            elif kind == "socket":
                os.mknod(link, 0o140600)
            else:
                to_what = {"file": target, "folder": target.parent, "loop": top}
                link.symlink_to(to_what.get(kind, "nothing"))
        except (FileExistsError, PermissionError):
            continue
    return made


def _reachable(folder: Path, deep: bool, seen: set[str]) -> Iterator[bytes]:
    """The contents of what is not hidden, followed by hand."""
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_file():
            yield path.read_bytes()
        elif deep and path.is_dir() and os.path.realpath(path) not in seen:
            seen.add(os.path.realpath(path))
            yield from _reachable(path, deep, seen)


TEXT = "Once upon a time, naïve façades – 数据 \U0001f600.\n" * 9
ROWS = [{"text": f"document {i}: naïve", "n": i} for i in range(9)]
LINES = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in ROWS).encode()


def _parquet(table: Any) -> bytes:
    buffer = io.BytesIO()
    parquet.write_table(table, buffer, row_group_size=4)
    return buffer.getvalue()


SKIPPED = b"\x50\x2a\x4d\x18\x04\0\0\0skip"
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda content: content,
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor().compress,
    ".skip.zst": lambda content: SKIPPED + zstandard.ZstdCompressor().compress(content),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp037")


@dataclass(frozen=True)
class File:
    """What is in a file, how that is encoded and compressed, and how the file is called."""

    holds: str  # text, lines or parquet
    encoding: str
    compression: str
    name: str
    in_folder: bool


FILES = st.builds(
    File,
    st.sampled_from(["text", "text", "lines", "lines", "parquet"]),
    st.sampled_from(ENCODINGS) | st.sampled_from(ENCODINGS[:2]),
    st.sampled_from(list(COMPRESSIONS)),
    st.sampled_from(
        ["x.txt", "x", "x.TXT", "x.json", "x.JSON", "x.jsonl", "x.JSONL", "x.ndjson", "x.jsonl.gz",
         "x.JSONL.GZ", "x.json.gz", "x.zst", "x.jsonl.zst", "x.Parquet", "x.parquet", "x.bin"]
    ),
    st.booleans(),
)  # fmt: skip


def check_format(box: Sandbox, file: File) -> None:
    """The tokens are those of the text or of the documents, or the file is refused by its name."""
    if file.holds == "parquet":
        content, wanted = _parquet(pyarrow.Table.from_pylist(ROWS)), _documents(ROWS)
    elif file.holds == "lines":
        content, wanted = LINES.decode().encode(file.encoding, "replace"), _documents(ROWS)
    else:
        content = TEXT.encode(file.encoding, "replace")
        wanted = tokenizer().encode_ordinary(TEXT)
    content = COMPRESSIONS[file.compression](content)
    with _prepared(content, file.name, file.in_folder) as found:
        if file.holds == "lines" and file.compression == "" and "json" not in file.name.lower():
            wanted = tokenizer().encode_ordinary(LINES.decode())  # as ever
        readable = file.encoding.startswith("utf-8") or file.holds == "parquet"
        decompressed = file.compression in ("", ".gz", ".zst", ".skip.zst")
        if isinstance(found, list):
            assert readable
            assert found == wanted
        elif readable and decompressed and file.holds == "lines":
            assert "parquet" in file.name.lower() or file.name.lower().endswith((".zst", ".gz"))
        elif readable and file.compression == "":
            assert "json" in file.name.lower() or "parquet" in file.name.lower()


def _documents(rows: list[dict[str, Any]]) -> list[int]:
    return expected([row["text"] for row in rows])


@contextmanager
def _prepared(content: bytes, name: str, in_folder: bool = False) -> Iterator[list[int] | str]:
    """A file's tokens, or the sentence that refuses it."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "in" / name
        path.parent.mkdir()
        path.write_bytes(content)
        try:
            corpus = prepare(path.parent if in_folder else path, Path(temporary) / "cache")
        except UsageError as refused:
            sentence = str(refused)
            assert str(path) in sentence or "all its documents are empty" in sentence, sentence
            assert "; " in sentence, sentence
            assert sentence.endswith("."), sentence
            assert len(sentence.splitlines()) == 1, sentence
            yield sentence
        else:
            yield tokens(corpus)


# Lines that are no document, that are a fine one, and that are refused.
BLANK = st.sampled_from([b"", b" \r", b"\t"])
FINE = st.builds(
    lambda row, extra: json.dumps({**row, **extra}).encode(),
    st.fixed_dictionaries({"text": st.text(st.characters(exclude_categories=["Cs"]), min_size=1)}),
    st.dictionaries(st.sampled_from("abc"), st.floats() | st.integers() | st.none()),
)
HUGE = st.integers(4300, 9000).map(lambda n: b'{"n": -%s, "text": "huge"}' % (b"7" * n))
DEEP = st.integers(50_000, 90_000).map(
    lambda n: b'{"n": ' + b"[" * n + b"]" * n + b', "text": "deep"}'
)
BROKEN = st.sampled_from(
    [b'{"text": "half', b"[]", b"5", b"\xff", b'{"text": "\xe9"}', b'{"text": 5}', b'{"t": "x"}',
     '{"text": "x"}'.encode("utf-16"), b'{"text": ["x"]}', b"\0"]
)  # fmt: skip


@dataclass(frozen=True)
class Documents:
    """JSON lines of which one may be broken, compressed in parts, and the damage to the file."""

    lines: list[bytes]
    broken: tuple[int, bytes] | None
    mark: bool
    parts: int
    compression: str
    cut: float
    garbage: bytes


DOCUMENTS = st.builds(
    Documents,
    st.lists(BLANK | FINE | FINE | HUGE, min_size=1, max_size=9),
    st.none() | st.tuples(st.integers(0, 9), DEEP | BROKEN),
    st.booleans(),
    st.integers(1, 3),
    st.sampled_from(["", ".gz", ".zst", ".skip.zst"]),
    st.just(1.0) | st.floats(0, 1),
    st.just(b"") | st.binary(min_size=1, max_size=40),
)


def check_documents(box: Sandbox, case: Documents) -> None:
    """All the documents are read, or the sentence names the line."""
    lines = list(case.lines)
    if case.broken:
        lines.insert(case.broken[0], case.broken[1])
    compress = COMPRESSIONS[case.compression]
    step = -(-len(lines) // case.parts)
    parts = [lines[i : i + step] for i in range(0, len(lines), step)]
    content = [b"".join(line + b"\n" for line in part) for part in parts]
    content[0] = b"\xef\xbb\xbf" * case.mark + content[0]
    whole = b"".join(map(compress, content))
    name = f"x.jsonl{case.compression.replace('.skip', '')}"
    damaged = whole[: int(len(whole) * case.cut)] + case.garbage
    huge = {"text": "huge"}
    rows = [huge if b"huge" in line else json.loads(line) for line in case.lines if line.strip()]
    rows = [row for row in rows if row["text"].strip()]
    with _prepared(damaged, name) as found:
        if damaged != whole:
            return  # it is read or refused, which _prepared checks
        if case.broken:
            place = lines.index(case.broken[1]) + 1
            assert isinstance(found, str), "a broken line is not refused"
            assert f"line {place}" in found
        else:
            assert found == _documents(rows) if rows else "no text" in found


TYPES: dict[str, Any] = {
    "string": pyarrow.string(),
    "large_string": pyarrow.large_string(),
    "string_view": pyarrow.string_view(),
    "dictionary": pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),
    "binary": pyarrow.binary(),
    "list": pyarrow.list_(pyarrow.string()),
    "struct": pyarrow.struct([("text", pyarrow.string())]),
    "null": pyarrow.null(),
    "timestamp": pyarrow.timestamp("us"),
    "no utf-8": pyarrow.binary(),
}


@dataclass(frozen=True)
class Column:
    """A parquet file's texts, their type, columns beside it, and what part of the file is left."""

    texts: list[str | None]
    kind: str
    beside: list[str]
    cut: float


COLUMNS = st.builds(
    Column,
    st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"])), max_size=9),
    st.sampled_from([*TYPES, *list(TYPES)[:4]]),
    st.lists(st.sampled_from(["text.text", "id", "Text", ""]), max_size=2, unique=True),
    st.just(1.0) | st.floats(0, 1, exclude_max=True),
)


def check_column(box: Sandbox, case: Column) -> None:
    """A column of strings is read in whatever form, and any other is refused in a sentence."""
    values: list[Any] = list(case.texts)
    if case.kind in ("binary", "no utf-8"):
        values = [v and v.encode() + b"\xff" * (case.kind == "no utf-8") for v in values]
    elif case.kind == "list":
        values = [[v] for v in values]
    elif case.kind == "struct":
        values = [{"text": v} for v in values]
    elif case.kind in ("null", "timestamp"):
        values = [None if case.kind == "null" else 2**62 for _ in values]
    column = pyarrow.array(values, TYPES[case.kind])
    if case.kind == "no utf-8":  # as a writer that does not check leaves them
        column = pyarrow.Array.from_buffers(pyarrow.string(), len(column), column.buffers())
    others = [pyarrow.array(range(len(values)), pyarrow.int64()) for _ in case.beside]
    content = _parquet(pyarrow.table([column, *others], names=["text", *case.beside]))
    with _prepared(content[: int(len(content) * case.cut)], "x.parquet") as found:
        rows = [{"text": text} for text in case.texts if text and text.strip()]
        if case.cut < 1:
            assert isinstance(found, str)
        elif list(TYPES).index(case.kind) < 4 and rows:
            assert found == _documents(rows)
        elif rows:
            assert isinstance(found, str)
