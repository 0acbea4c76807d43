"""The cache of a text's tokens."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from platformdirs import user_cache_dir

from conf.errors import UsageError
from gpt2.tokenizer import END_OF_TEXT, tokenizer
from runner.data import corpus as tokens
from runner.data.corpus import load_corpus
from runner.data.text import user_files
from tests.conftest import load_quietly

SHAKESPEARE = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
SHAKESPEARE_FILE = Path(user_cache_dir("gpt2-ladder")) / "text" / f"{SHAKESPEARE}.txt"


@pytest.mark.skipif(not SHAKESPEARE_FILE.exists(), reason="Tiny Shakespeare is not in the cache")
def test_tiny_shakespeare_has_338025_tokens(tmp_path: Path) -> None:
    corpus = load_quietly([SHAKESPEARE_FILE], tmp_path, 0.1)
    assert corpus.sha256 == SHAKESPEARE
    assert (corpus.bytes, corpus.train_tokens + len(corpus.held_out)) == (1_115_394, 338_025)


def test_the_last_tenth_is_held_out_and_the_cache_gives_the_same(
    text_file: Path, tmp_path: Path
) -> None:
    first = load_quietly([text_file], tmp_path, 0.1)
    again = load_quietly([text_file], tmp_path, 0.1)
    whole = tokenizer().encode_ordinary(text_file.read_text(encoding="utf-8"))
    assert np.concatenate([*first.train, first.held_out]).tolist() == whole
    assert len(first.held_out) == int(len(whole) * 0.1)
    assert isinstance(again.train[0], np.memmap)
    assert again.train[0].tolist() == first.train[0].tolist()
    assert len(list((tmp_path / "tokens").glob("*.uint16"))) == 1


@settings(deadline=None)  # each case writes files
@given(st.text(st.sampled_from("ab'st1!  \n\n\t\u3000\x1c\x85é数"), min_size=1, max_size=200))
def test_a_text_in_pieces_has_the_tokens_of_the_whole(text: str) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "PIECE_BYTES", 7)
        folder = Path(name)
        (folder / "t.txt").write_bytes(f"x{text}".encode())
        corpus = load_quietly([folder / "t.txt"], folder, 0.0)
        assert corpus.train[0].tolist() == tokenizer().encode_ordinary(f"x{text}")


def test_progress_is_reported_in_bytes_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("word " * 500_000)
    (tmp_path / "b.txt").write_text("wörter " * 10)
    calls: list[tuple[int, int]] = []
    inputs = [tmp_path / "a.txt", tmp_path / "b.txt"]
    load_corpus(inputs, tmp_path, 0.1, print, lambda done, total: calls.append((done, total)))
    size = sum(file.stat().st_size for file in inputs)
    assert calls[-1] == (size, size)
    assert len(calls) > 2
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "note lost"])
def test_a_damaged_cache_is_named_and_replaced(
    tmp_path: Path, text_file: Path, damage: str
) -> None:
    first = load_quietly([text_file], tmp_path, 0.1).train[0].tolist()
    (cached,) = (tmp_path / "tokens").glob("*.uint16")
    content = bytearray(cached.read_bytes())
    if damage == "note lost":
        cached.with_name(f"{cached.name}.json").unlink()
    else:
        content[1000] ^= 1
        cached.write_bytes(content[:-2] if damage == "truncated" else content)
    warnings: list[str] = []
    again = load_corpus([text_file], tmp_path, 0.1, warnings.append, lambda done, total: None)
    assert again.train[0].tolist() == first
    assert len(warnings) == 1
    assert cached.name in warnings[0]


def test_several_files_are_joined_by_end_of_text(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, text in (("b.txt", "second"), ("a.txt", "first")):
        (tmp_path / "in" / name).write_text(text)
    corpus = load_quietly(user_files(str(tmp_path / "in")), tmp_path, 0.0)
    encode = tokenizer().encode_ordinary
    assert corpus.train[0].tolist() == [*encode("first"), END_OF_TEXT, *encode("second")]


def test_end_of_text_written_out_in_a_text_is_only_text(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("a <|endoftext|> b")
    corpus = load_quietly([tmp_path / "t.txt"], tmp_path, 0.0)
    assert END_OF_TEXT not in corpus.train[0].tolist()


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "no text"), (b" \n", "no text"), (b"abc\xff\xfe", "byte 3")]
)
def test_a_file_without_valid_text_is_refused_by_name(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    (tmp_path / "bad.txt").write_bytes(content)
    with pytest.raises(UsageError, match=f"bad.txt.*{reason}"):
        load_quietly([tmp_path / "bad.txt"], tmp_path, 0.1)
