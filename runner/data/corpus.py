"""The cache of a text's tokens: made once, memory-mapped, shared by every run.

It holds shards of equal size and an index of them. The index is written again after each shard, so
preparation can resume at any point and make any shard again. A plain text is one shard.
"""

import itertools
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from conf.errors import UsageError
from gpt2.tokenizer import END_OF_TEXT, encode
from runner.data.documents import Batch, TextFiles
from runner.data.source import Source
from runner.files import DamagedFile, known_sha256, replacing, seal, unseal, write_atomically

Tokens = npt.NDArray[np.uint16]

SHARD_TOKENS = 100_000_000
# Enough tokens to know how often each one occurs.
COUNTED_TOKENS = 10_000_000


@dataclass(frozen=True)
class Corpus:
    """A tokenized text: the parts to train on, one per shard, and the first's held-out part."""

    sha256: str
    bytes: int
    index_sha256: str  # of its shards' hashes
    train: list[Tokens]
    held_out: Tokens

    @property
    def train_tokens(self) -> int:
        return sum(map(len, self.train))

    def unigram_entropy(self) -> float:
        """The entropy of a single token in nats: the loss of a model that knows only counts."""
        counts = np.bincount(self.train[0][:COUNTED_TOKENS])
        shares = counts[counts > 0] / counts.sum()
        return float(-(shares * np.log(shares)).sum())


def load(
    source: Source,
    cache_dir: Path,
    held_out_fraction: float,
    warn: Callable[[str], None],
    progress: Callable[[int, int | None], None],
) -> Corpus:
    """The tokens of a source, made or mapped from the cache.

    One process makes them, others wait for it. `progress` is called with the bytes of text
    tokenized and an estimate of all, if there is one; `warn` with a sentence on each damaged file
    of the cache that is made again. Raises UsageError for mistakes in the text.
    """
    cache = _Cache(source, cache_dir, warn, progress)
    shards = cache.shards()
    parts: list[Tokens] = []
    size = 0.0
    for number, shard in enumerate(shards):
        tokens = np.memmap(cache.path(number), dtype=np.uint16, mode="r")
        parts.append(tokens[: cache.most - number * cache.size])
        size += shard.bytes * len(parts[-1]) / shard.tokens
    if not parts:
        raise UsageError("The data has no text: all its documents are empty; give other documents.")
    index_sha256 = sha256(json.dumps([shard.sha256 for shard in shards]).encode()).hexdigest()
    split = len(parts[0]) - int(len(parts[0]) * held_out_fraction)
    train, held_out = [parts[0][:split], *parts[1:]], parts[0][split:]
    return Corpus(source.sha256, round(size), index_sha256, train, held_out)


@dataclass(frozen=True)
class _Shard:
    """A file of tokens; `bytes` is the size of the batches of text that begin in it.

    `after` is where it ends: a batch's position, and how many of its tokens are used. It is None at
    the end of the text.
    """

    tokens: int
    bytes: int
    sha256: str
    after: list[Any] | None


class _Piece(NamedTuple):
    """Tokens of one batch in one shard, and the part of the text that is tokenized after them."""

    shard: int
    tokens: Tokens
    bytes: int
    after: list[Any]
    done: float


class _Cache:
    """The folder of a source's shards."""

    def __init__(
        self,
        source: Source,
        cache_dir: Path,
        warn: Callable[[str], None],
        progress: Callable[[int, int | None], None],
    ) -> None:
        self.text, self.most = source.content, source.tokens or sys.maxsize
        self.size = sys.maxsize if isinstance(source.content, TextFiles) else SHARD_TOKENS
        self.folder = cache_dir / "tokens" / source.content.sha256(cache_dir)
        self.index = self.folder / "index.json"
        self.cache_dir, self.warn, self.progress = cache_dir, warn, progress

    def path(self, number: int) -> Path:
        return self.folder / f"{number:05}.uint16"

    def shards(self) -> list[_Shard]:
        """The shards of the wanted tokens; missing or damaged ones are made first."""
        wanted = -(-self.most // self.size)
        with suppress(OSError, DamagedFile):  # so a read-only cache can be used
            shards = self._read_index()[:wanted]
            if self._is_complete(shards) and all(map(self._is_intact, range(wanted), shards)):
                return shards
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder.with_suffix(".lock")):
            try:
                shards = self._read_index()
            except (FileNotFoundError, DamagedFile):
                shards = []
                if any(self.folder.glob("*.uint16")):
                    self.warn(f"{self.index} is damaged or missing; the text is tokenized again.")
            for number, shard in enumerate(shards[:wanted]):
                if self._is_intact(number, shard):
                    continue
                path = self.path(number)
                self.warn(f"{path} is damaged or missing; it is made again.")
                (again,) = self._make(shards[:number], number * self.size + shard.tokens)
                if again.sha256 != shard.sha256:
                    raise UsageError(f"{path} has other tokens now; remove {self.folder}.")
            if not self._is_complete(shards):
                if shards and shards[-1].tokens < self.size:  # it was cut short
                    shards.pop()
                for shard in self._make(shards[:], self.most):
                    shards.append(shard)
                    content = seal({"shards": list(map(asdict, shards))})
                    write_atomically(self.index, content)
        return shards[:wanted]

    def _read_index(self) -> list[_Shard]:
        """The shards made so far. Raises OSError and DamagedFile."""
        return [_Shard(**shard) for shard in unseal(self.index.read_bytes())["shards"]]

    def _is_intact(self, number: int, shard: _Shard) -> bool:
        path = self.path(number)
        return path.exists() and known_sha256(path, self.cache_dir) == shard.sha256

    def _is_complete(self, shards: list[_Shard]) -> bool:
        """Whether these are all wanted tokens, or all tokens of the text."""
        ended = bool(shards) and shards[-1].after is None
        return ended or sum(shard.tokens for shard in shards) >= self.most

    def _make(self, before: list[_Shard], most: int) -> Iterator[_Shard]:
        """Write the shards after those `before`, up to `most` tokens in total."""
        text = sum(shard.bytes for shard in before)
        pieces = self._pieces(before, most)
        for number, of_shard in itertools.groupby(pieces, key=lambda piece: piece.shard):
            tokens, text_before, digest = 0, text, sha256()
            with replacing(self.path(number)) as temporary, temporary.open("wb") as file:
                for piece in of_shard:
                    content = piece.tokens.tobytes()
                    file.write(content)
                    digest.update(content)
                    tokens += len(piece.tokens)
                    text += piece.bytes
                    self.progress(text, round(text / piece.done) if piece.done else None)
            full = tokens == min(self.size, most - number * self.size)
            after = piece.after if full else None
            yield _Shard(tokens, text - text_before, digest.hexdigest(), after)

    def _pieces(self, before: list[_Shard], most: int) -> Iterator[_Piece]:
        """The tokens after the shards `before`, up to `most` in total."""
        position, skip = (before[-1].after if before else None) or [None, 0]
        made = len(before) * self.size
        for batch, tokens, size in _encoded(self.text.read(position)):
            while skip < len(tokens) and made < most:
                shard, inside = divmod(made, self.size)
                part = tokens[skip:][: min(self.size - inside, most - made)]
                new = 0 if skip else size
                skip, made = skip + len(part), made + len(part)
                done = max(batch.done, made / self.most)
                yield _Piece(shard, part, new, [batch.position, skip], done)
            if made == most:
                return
            skip -= len(tokens)


def _encoded(batches: Iterator[Batch]) -> Iterator[tuple[Batch, Tokens, int]]:
    """Batches with their tokens and bytes, in order, on all cores: tiktoken releases the lock.

    Only a few are in memory at once, however many there are.
    """
    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        begun = deque(pool.submit(_encode, b) for b in itertools.islice(batches, threads + 1))
        while begun:
            yield begun.popleft().result()
            begun.extend(pool.submit(_encode, b) for b in itertools.islice(batches, 1))


def _encode(batch: Batch) -> tuple[Batch, Tokens, int]:
    end = np.array([END_OF_TEXT] * batch.ended, dtype=np.uint16)
    tokens = [part for text in batch.texts for part in (encode(text), end)]
    size = sum(len(text.encode("utf-8", "replace")) for text in batch.texts)
    return batch, np.concatenate([end[:0], *tokens]), size
