"""The cache of a text's tokens: made, resumed and repaired, from plain text and from documents."""

import gzip
import json
import multiprocessing
import subprocess
import tempfile
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from platformdirs import user_cache_dir
from pyarrow import parquet

from conf.errors import UsageError
from conf.schema import DataConf, Order
from gpt2.tokenizer import END_OF_TEXT, tokenizer
from runner.data import corpus as cache_of_tokens
from runner.data.corpus import Corpus, load
from runner.data.documents import DocumentFiles
from runner.data.source import find_source
from tests.conftest import CommandLine

SHAKESPEARE = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
SHAKESPEARE_FILE = Path(user_cache_dir("gpt2-ladder")) / "text" / f"{SHAKESPEARE}.txt"
SENTENCE = "the quick brown fox jumps over a lazy dog , then sleeps until the morning\n"
WORDS = SENTENCE.split(" ")
DOCUMENTS = [
    " ".join(WORDS[(i * j) % len(WORDS)] for j in range(1, 20 + i % 7)) for i in range(300)
]
SHARD = 1000


def expected(documents: list[str] = DOCUMENTS) -> list[int]:
    """Tokenized one by one, by tiktoken's own list of integers."""
    encode = tokenizer().encode_ordinary
    return [token for text in documents for token in [*encode(text), END_OF_TEXT]]


def write(path: Path, documents: list[str] = DOCUMENTS, column: str = "text") -> Path:
    """The documents as the path's ending says; a .txt is one text."""
    rows = [{"id": i, column: text} for i, text in enumerate(documents)]
    lines = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=70)
    elif path.suffix == ".zst":  # two frames, as parallel compressors write
        half = len(lines) // 2
        compress = zstandard.ZstdCompressor().compress
        path.write_bytes(compress(lines[:half]) + compress(lines[half:]))
    elif path.suffix == ".txt":
        path.write_text("".join(documents))
    else:
        path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)
    return path


def conf(path: Path | None, **keys: object) -> DataConf:
    values = {
        **{"name": "text", "path": path and str(path), "url": None, "sha256": None},
        **{"dataset": None, "subset": None, "split": "train", "column": "text", "tokens": None},
        **{"order": Order.shuffled, "held_out_fraction": 0.1},
    }
    return DataConf(**{**values, **keys})  # type: ignore[arg-type]


def prepare(
    path: Path | None, cache: Path, say: Callable[[str], None] = print, **keys: object
) -> Corpus:
    return load(find_source(conf(path, **keys), cache, say), cache, 0.1, say, lambda *_: None)


def tokens(corpus: Corpus) -> list[int]:
    first, *rest = corpus.train
    return [int(t) for part in (first, corpus.held_out, *rest) for t in part]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_of_tokens, "SHARD_TOKENS", SHARD)


@pytest.mark.skipif(not SHAKESPEARE_FILE.exists(), reason="Tiny Shakespeare is not in the cache")
def test_tiny_shakespeare_has_338025_tokens(tmp_path: Path) -> None:
    corpus = prepare(SHAKESPEARE_FILE, tmp_path)
    assert corpus.sha256 == SHAKESPEARE
    assert (corpus.bytes, len(tokens(corpus))) == (1_115_394, 338_025)


def test_of_a_text_the_last_tenth_is_held_out_and_the_cache_gives_the_same(
    text_file: Path, tmp_path: Path
) -> None:
    first, again = (prepare(text_file, tmp_path) for _ in range(2))
    whole = tokenizer().encode_ordinary(text_file.read_text(encoding="utf-8"))
    (train,) = again.train
    assert [*train.tolist(), *first.held_out.tolist()] == whole
    assert len(first.held_out) == int(len(whole) * 0.1)
    assert isinstance(train, np.memmap)
    assert len(list(tmp_path.rglob("*.uint16"))) == 1


@settings(deadline=None)  # each case writes files
@given(st.text(st.sampled_from("ab'st1!  \n\n\t\u3000\x1c\x85é数"), min_size=1, max_size=200))
def test_a_text_in_pieces_has_the_tokens_of_the_whole(text: str) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr("runner.data.documents.PIECE_BYTES", 7)
        path = Path(name) / "t.txt"
        path.write_bytes(f"x{text}".encode())
        corpus = prepare(path, Path(name))
        assert tokens(corpus) == tokenizer().encode_ordinary(f"x{text}")


def test_several_texts_are_joined_by_end_of_text_which_written_out_is_only_text(
    tmp_path: Path,
) -> None:
    (tmp_path / "in").mkdir()
    texts = "first", "second <|endoftext|>"
    for name, text in zip("ab", texts, strict=True):
        (tmp_path / "in" / f"{name}.txt").write_text(text)
    assert tokens(prepare(tmp_path / "in", tmp_path)) == expected(list(texts))[:-1]


def test_a_batch_ends_after_many_rows_or_many_characters(tmp_path: Path) -> None:
    long = "word " * 150_000
    path = write(tmp_path / "a.jsonl", ["short"] * 70 + [long] * 3)
    batches = list(DocumentFiles([path], "text").read(None))
    assert [len(batch.texts) for batch in batches] == [64, 8, 1]
    assert [batch.position for batch in batches] == [[0, 0], [0, 64], [0, 72]]


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.jsonl.zst", "a.jsonl.gz"])
def test_documents_are_tokenized_one_by_one_into_equal_shards_and_once(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(write(tmp_path / name), tmp_path / "cache")
    monkeypatch.setattr(cache_of_tokens, "_encoded", pytest.fail)
    corpus = prepare(tmp_path / name, tmp_path / "cache")
    assert all(isinstance(part, np.memmap) for part in corpus.train)
    assert tokens(corpus) == expected()
    assert corpus.bytes == sum(len(text.encode()) for text in DOCUMENTS)
    sizes = [len(corpus.train[0]) + len(corpus.held_out), *map(len, corpus.train[1:])]
    assert sizes == [SHARD] * (len(expected()) // SHARD) + [len(expected()) % SHARD]
    assert len(corpus.held_out) == SHARD // 10


def test_a_folder_and_a_glob_of_files_are_read_in_order_and_others_left_out(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write(folder / "b.parquet", DOCUMENTS[100:], "body")
    write(folder / "a.parquet", DOCUMENTS[:100], "body")
    (folder / "README.md").write_text("About these files.")
    said: list[str] = []
    assert tokens(prepare(folder, tmp_path, said.append, column="body")) == expected()
    assert len(said) == 1
    assert "README.md" in said[0]
    assert tokens(prepare(folder / "*.parquet", tmp_path, column="body")) == expected()


def test_blank_documents_and_half_characters_do_no_harm(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", ["one", "", " \n", "two <|endoftext|>", "\ud800 three"])
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write('\n{"text": null}\n')
    wanted = expected(["one", "two <|endoftext|>", "? three"])
    assert tokens(prepare(tmp_path / "a.jsonl", tmp_path)) == wanted


def test_fewer_tokens_are_the_first_ones_and_more_are_prepared_when_asked_for(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "a.parquet")
    some = prepare(path, tmp_path, tokens=2500)
    assert sorted(p.stat().st_size for p in tmp_path.rglob("*.uint16")) == [1000, 2000, 2000]
    more, whole, again = (prepare(path, tmp_path, tokens=count) for count in (3100, None, 2500))
    for corpus, count in ((some, 2500), (more, 3100), (whole, None), (again, 2500)):
        assert tokens(corpus) == expected()[:count]
    assert again.sha256 == some.sha256 != more.sha256 != whole.sha256
    assert some.held_out.tolist() == whole.held_out.tolist()
    assert some.bytes == pytest.approx(again.bytes, rel=0.5)
    assert some.bytes < whole.bytes
    assert prepare(path, tmp_path / "other").index_sha256 == whole.index_sha256


@pytest.mark.parametrize(
    ("name", "victim"),
    [("a.parquet", "*2.uint16"), ("a.jsonl.zst", "*2.uint16"), ("a.txt", "*.uint16"),
     ("a.jsonl", "index.json"), ("a.txt", "index.json")],
)  # fmt: skip
def test_what_is_damaged_in_the_cache_is_named_and_made_again(
    tmp_path: Path, name: str, victim: str
) -> None:
    path = write(tmp_path / name)
    first = prepare(path, tmp_path)
    wanted = tokens(first)
    (file,) = (tmp_path / "tokens").rglob(victim)
    content = file.read_bytes()
    for damaged in (content[:-2], content[:10] + bytes([content[10] ^ 1]) + content[11:], None):
        file.unlink() if damaged is None else file.write_bytes(damaged)
        said: list[str] = []
        assert tokens(prepare(path, tmp_path, said.append)) == wanted
        assert len(said) == 1
        assert str(file) in said[0]
        assert prepare(path, tmp_path, pytest.fail).index_sha256 == first.index_sha256


def _prepare_slowly(path: Path, cache: Path) -> None:
    """In another process, whose reading stops for a moment after each shard."""
    write_index = cache_of_tokens.write_atomically

    def slowly(target: Path, content: bytes) -> None:
        write_index(target, content)
        time.sleep(0.2)

    cache_of_tokens.write_atomically = slowly
    prepare(path, cache)


def spawned(path: Path, cache: Path) -> BaseProcess:
    """A fork, which has this test's size of shards."""
    process = multiprocessing.get_context("fork").Process(
        target=_prepare_slowly, args=(path, cache), daemon=True
    )
    process.start()
    return process


@pytest.mark.parametrize("name", ["a.parquet", "a.zst"])
def test_preparation_that_is_killed_goes_on_where_it_was(tmp_path: Path, name: str) -> None:
    path, cache = write(tmp_path / name), tmp_path / "cache"
    process = spawned(path, cache)
    while len(made := sorted(cache.rglob("*.uint16"))) < 3:
        time.sleep(0.02)
        assert process.is_alive()
    process.kill()
    process.join()
    kept = {file: file.stat().st_mtime_ns for file in made[:2]}
    assert tokens(prepare(path, cache)) == expected()
    assert kept == {file: file.stat().st_mtime_ns for file in kept}
    assert not list(cache.rglob("*.part"))


def test_several_processes_prepare_once(tmp_path: Path) -> None:
    path, cache = write(tmp_path / "a.parquet"), tmp_path / "cache"
    processes = [spawned(path, cache) for _ in range(2)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    (index,) = cache.rglob("index.json")
    before = index.stat().st_mtime_ns
    assert tokens(prepare(path, cache, pytest.fail)) == expected()
    assert index.stat().st_mtime_ns == before


@pytest.mark.parametrize(("name", "tolerance"), [("a.parquet", 0.3), ("in", 0)])
def test_progress_is_in_bytes_of_text_and_estimates_the_whole(
    tmp_path: Path, name: str, tolerance: float
) -> None:
    if name == "in":
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "a.txt").write_text("word " * 500_000)
        (tmp_path / "in" / "b.txt").write_text("wörter " * 10)
    else:
        write(tmp_path / name)
    calls: list[tuple[int, int | None]] = []
    source = find_source(conf(tmp_path / name), tmp_path)
    corpus = load(source, tmp_path, 0.1, print, lambda *call: calls.append(call))
    assert calls[-1] == (corpus.bytes, corpus.bytes)
    assert len(calls) > 2
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert all(total == pytest.approx(corpus.bytes, rel=tolerance) for _, total in calls)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.txt", b"", "a.txt: .*no text"),
        ("a.txt", b" \n", "a.txt: .*no text"),
        ("a.txt", b"x" * (1 << 17) + b"\xff\xfe", r"a.txt: .*byte 131072\b"),
        ("a.jsonl", b'{"text": "one"}\n{"text": "tw', r"a.jsonl: line 2 is damaged"),
        ("a.jsonl", b'{"text": "one"}\n[]\n', r"line 2 is damaged"),
        ("a.jsonl", b'{"Text": 1, "id": 2}\n', "'text'; the columns are Text, id.* mean Text?"),
        ("a.jsonl", b'{"text": 5}\n', "line 1: the column 'text' holds int, not text"),
        ("a.jsonl", b'{"text": ""}\n', "no text: all its documents are empty"),
        ("a.jsonl", b"", "no text"),
        ("a.jsonl.gz", b"no gzip", r"a.jsonl.gz: line 1 is damaged"),
        ("a.jsonl.zst", b"no zst", r"a.jsonl.zst: line 1 is damaged"),
        ("a.parquet", b"PAR1 no parquet PAR1", r"a.parquet: it cannot be read after row 0"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_a_sentence(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=reason):
        prepare(tmp_path / name, tmp_path)


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl.zst", "a.jsonl.gz"])
def test_a_truncated_file_and_a_column_that_it_lacks_are_refused_by_name(
    tmp_path: Path, name: str
) -> None:
    path = write(tmp_path / name, column="body")
    with pytest.raises(UsageError, match="no column 'text'; the columns are id, body"):
        prepare(path, tmp_path)
    with pytest.raises(UsageError, match="the column 'id' holds int"):
        prepare(path, tmp_path, column="id")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UsageError, match=rf"{name}: (it cannot be read|line \d+ is damaged)"):
        prepare(path, tmp_path, column="body")


@pytest.mark.parametrize("name", ["a.parquet", "a.zst"])
def test_a_missing_package_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = write(tmp_path / name)
    monkeypatch.setattr("runner.data.documents.find_spec", lambda package: None)
    with pytest.raises(UsageError, match=r"not installed: pip install 'gpt2-ladder\[big\]'"):
        prepare(path, tmp_path)


@pytest.mark.slow
def test_a_run_on_parquet_records_its_data_and_one_on_a_wrong_column_leaves_nothing(
    command_line: CommandLine, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.parquet")
    arguments = "+stage=step07", f"data.path={path}", "train.steps=2", "train.compile=false"
    wrong = command_line(*arguments, "data.column=body")
    assert (wrong.returncode, len(wrong.stderr.splitlines())) == (2, 1), wrong.stderr
    assert f"{path}: there is no column 'body'; the columns are id, text" in wrong.stderr
    done = command_line(*arguments)
    assert done.returncode == 0, done.stderr
    (record,) = (tmp_path / "outputs").glob("*/*/*/run.json")
    data = json.loads(record.read_text())["data"]
    assert (data["tokens"], data["bytes"]) == (len(expected()), sum(map(len, DOCUMENTS)))
    assert len(data["index_sha256"]) == 64
    again = command_line(*arguments)
    assert "already finished" in again.stdout


@pytest.mark.slow
def test_a_full_disk_is_said_in_a_sentence_and_preparation_goes_on_with_room(
    tmp_path: Path,
) -> None:
    path, disk = write(tmp_path / "a.parquet"), tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk])
    if mounted.returncode:
        pytest.skip("only root can make a small disk")
    try:
        ballast = disk / "ballast"
        ballast.write_bytes(b"x" * 40_000)
        with pytest.raises(OSError, match="No space left"):
            prepare(path, disk / "cache")
        ballast.unlink()
        assert tokens(prepare(path, disk / "cache")) == expected()
        assert not list(disk.rglob("*.part"))
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
