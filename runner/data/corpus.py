"""The cache of a text's tokens: made once, memory-mapped, shared by every run."""

import codecs
import functools
import itertools
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from conf.errors import UsageError
from gpt2.tokenizer import END_OF_TEXT, encode
from runner.files import files_sha256, is_intact, note_sha256, replacing

Tokens = npt.NDArray[np.uint16]
Item = TypeVar("Item")
Result = TypeVar("Result")

# Text is tokenized in pieces of about this size, so short that `encode` takes no second look.
# Cut after a word: no GPT-2 token spans a non-space followed by a space.
PIECE_BYTES = 1 << 19
PIECE_TAIL = 1 << 16
WORD_END = re.compile(r"\S(?=[ \n])")
# Tokens that are enough to know how often each occurs.
COUNTED_TOKENS = 10_000_000


@dataclass(frozen=True)
class Corpus:
    """A tokenized text: the parts to train on, and what is held out.

    A big text has a part a shard, any other text one part. Held out is the last fraction of the
    first part: so it stays the same when more shards are added.
    """

    sha256: str
    bytes: int
    train: list[Tokens]
    held_out: Tokens
    index_sha256: str | None = None  # of its shards' hashes

    @classmethod
    def of(
        cls,
        sha256: str,
        size: int,
        parts: list[Tokens],
        held_out_fraction: float,
        index_sha256: str | None = None,
    ) -> "Corpus":
        """Split the tokens of a text."""
        first = parts[0]
        split = len(first) - int(len(first) * held_out_fraction)
        return cls(sha256, size, [first[:split], *parts[1:]], first[split:], index_sha256)

    @property
    def train_tokens(self) -> int:
        return sum(map(len, self.train))

    def unigram_entropy(self) -> float:
        """The entropy of a single token in nats: the loss of a model that knows only counts."""
        counts = np.bincount(self.train[0][:COUNTED_TOKENS])
        shares = counts[counts > 0] / counts.sum()
        return float(-(shares * np.log(shares)).sum())


def load_corpus(
    files: list[Path],
    cache_dir: Path,
    held_out_fraction: float,
    warn: Callable[[str], None],
    progress: Callable[[int, int], None],
) -> Corpus:
    """Tokenize a text, or map its tokens from the cache.

    Several files are joined by <|endoftext|>. The cache holds tokens as uint16 under the text's
    hash; one process tokenizes, others wait for it. `progress` is called with the bytes done and
    the bytes in all, `warn` with a sentence if a damaged cache is replaced. Raises UsageError for
    text that is empty or not UTF-8.
    """
    sha256 = files_sha256(files, cache_dir)
    size = sum(file.stat().st_size for file in files)
    cached = cache_dir / "tokens" / f"{sha256}.uint16"
    if not is_intact(cached, cache_dir):
        cached.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(cached.with_suffix(".lock")):
            if not is_intact(cached, cache_dir):
                if cached.exists():
                    warn(f"{cached} is damaged or incomplete; the text is tokenized again.")
                with replacing(cached) as temporary, temporary.open("wb") as file:
                    done = 0
                    for piece_bytes, tokens in in_threads(_encode, _pieces(files)):
                        file.write(tokens.tobytes())
                        done += piece_bytes
                        progress(done, size)
                note_sha256(cached)
    tokens = np.memmap(cached, dtype=np.uint16, mode="r")
    return Corpus.of(sha256, size, [tokens], held_out_fraction)


def in_threads(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`work` of each item, in order, on all cores: tiktoken releases Python's lock.

    Only a few items are in memory at once, however many there are.
    """
    threads = os.cpu_count() or 1
    coming = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        begun = deque(pool.submit(work, item) for item in itertools.islice(coming, threads + 1))
        while begun:
            yield begun.popleft().result()
            begun.extend(pool.submit(work, item) for item in itertools.islice(coming, 1))


def _encode(piece: str | None) -> tuple[int, Tokens]:
    """A piece's number of bytes and its tokens."""
    if piece is None:
        return 0, np.array([END_OF_TEXT], dtype=np.uint16)
    return len(piece.encode()), encode(piece)


def _pieces(files: list[Path]) -> Iterator[str | None]:
    """The files' text, cut only where a token always ends, with None between two files."""
    for i, path in enumerate(files):
        if i:
            yield None
        text, blank = "", True
        with path.open("rb") as file:
            chunks = iter(functools.partial(file.read, PIECE_BYTES), b"")
            try:
                for chunk in codecs.iterdecode(chunks, "utf-8-sig"):
                    text += chunk
                    blank = blank and not chunk.strip()
                    tail = max(0, len(text) - PIECE_TAIL)
                    if ends := [match.end() for match in WORD_END.finditer(text, tail)]:
                        yield text[: ends[-1]]
                        text = text[ends[-1] :]
            except UnicodeDecodeError as error:
                byte = file.tell() - len(error.object) + error.start
                raise UsageError(
                    f"{path}: not UTF-8 text (byte {byte}); convert it to UTF-8, or leave it out."
                ) from error
        if blank:
            raise UsageError(f"{path}: it has no text; give a file with some, or leave it out.")
        if text:
            yield text
