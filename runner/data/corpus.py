"""The cache of a text's tokens: made once, memory-mapped, shared by every run.

It holds shards of equal size and an index of them, which is written again after each: so
preparation resumes after any end, and any one shard can be made again. A plain text is one shard.
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
# Tokens that are enough to know how often each occurs.
COUNTED_TOKENS = 10_000_000


@dataclass(frozen=True)
class Corpus:
    """A tokenized text: the parts to train on, one a shard, and what is held out of the first."""

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
    tokenized and an estimate of all, if there is one; `warn` with a sentence for what is damaged in
    the cache and made again. Raises UsageError for what is wrong with the text.
    """
    folder = cache_dir / "tokens" / source.content.sha256(cache_dir)
    cache = _Cache(folder, source, cache_dir, warn, progress)
    left = source.tokens or sys.maxsize
    parts: list[Tokens] = []
    hashes, size = [], 0.0
    for number, shard in enumerate(cache.shards()):
        used = min(shard.tokens, left)
        parts.append(np.memmap(_path(folder, number), dtype=np.uint16, mode="r")[:used])
        hashes.append(shard.sha256)
        size += shard.bytes * used / shard.tokens
        left -= used
    if not parts:
        raise UsageError("The data has no text: all its documents are empty; give other ones.")
    index_sha256 = sha256(json.dumps(hashes).encode()).hexdigest()
    split = len(parts[0]) - int(len(parts[0]) * held_out_fraction)
    train, held_out = [parts[0][:split], *parts[1:]], parts[0][split:]
    return Corpus(source.sha256, round(size), index_sha256, train, held_out)


@dataclass(frozen=True)
class _Shard:
    """A file of tokens; `bytes` are those of the batches of text that begin in it.

    `after` is where it ends: a batch's position, and how many of its tokens are used.
    """

    tokens: int
    bytes: int
    sha256: str
    after: list[Any]


class _Piece(NamedTuple):
    """Tokens of one batch in one shard, and the part of the text that is tokenized after them."""

    shard: int
    tokens: Tokens
    bytes: int
    after: list[Any]
    done: float


@dataclass(frozen=True)
class _Cache:
    """The folder of a source's shards."""

    folder: Path
    source: Source
    cache_dir: Path
    warn: Callable[[str], None]
    progress: Callable[[int, int | None], None]

    def shards(self) -> list[_Shard]:
        """Those of the tokens that are wanted, after what is missing or damaged has been made."""
        most = self.source.tokens or sys.maxsize
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder.with_suffix(".lock")):
            shards, whole = self._read_index()
            for number, shard in enumerate(_first(shards, most)):
                if not self._is_intact(number, shard):
                    path, before = _path(self.folder, number), shards[:number]
                    self.warn(f"{path} is damaged or missing, and made again.")
                    if [shard] != list(self._make(before, _tokens(before) + shard.tokens)):
                        raise UsageError(f"{path}: it came out otherwise; remove {self.folder}.")
            if not whole and _tokens(shards) < most:
                if shards and shards[-1].tokens < self._shard_tokens:  # fewer were wanted
                    shards.pop()
                for shard in self._make(shards[:], most):
                    shards.append(shard)
                    self._write_index(shards, whole=False)
                self._write_index(shards, whole=_tokens(shards) < most)
        return _first(shards, most)

    @property
    def _shard_tokens(self) -> int:
        return sys.maxsize if isinstance(self.source.content, TextFiles) else SHARD_TOKENS

    def _read_index(self) -> tuple[list[_Shard], bool]:
        """The shards made so far, and whether they have the whole text."""
        path = self.folder / "index.json"
        try:
            fields = unseal(path.read_bytes())
        except (FileNotFoundError, DamagedFile):
            if any(self.folder.glob("*.uint16")):
                self.warn(f"{path} is damaged or missing; the text is tokenized again.")
            return [], False
        return [_Shard(**shard) for shard in fields["shards"]], fields["whole"]

    def _write_index(self, shards: list[_Shard], whole: bool) -> None:
        content = seal({"shards": list(map(asdict, shards)), "whole": whole})
        write_atomically(self.folder / "index.json", content)

    def _is_intact(self, number: int, shard: _Shard) -> bool:
        with suppress(FileNotFoundError):
            return known_sha256(_path(self.folder, number), self.cache_dir) == shard.sha256
        return False

    def _make(self, before: list[_Shard], most: int) -> Iterator[_Shard]:
        """Write the shards that follow some, up to `most` tokens in all."""
        text = sum(shard.bytes for shard in before)
        pieces = self._pieces(before, most)
        for number, of_shard in itertools.groupby(pieces, key=lambda piece: piece.shard):
            path, tokens, text_before, digest = _path(self.folder, number), 0, text, sha256()
            with replacing(path) as temporary, temporary.open("wb") as file:
                for piece in of_shard:
                    content = piece.tokens.tobytes()
                    file.write(content)
                    digest.update(content)
                    tokens += len(piece.tokens)
                    text += piece.bytes
                    self.progress(text, round(text / piece.done) if piece.done else None)
            yield _Shard(tokens, text - text_before, digest.hexdigest(), piece.after)

    def _pieces(self, before: list[_Shard], most: int) -> Iterator[_Piece]:
        position, skip = before[-1].after if before else (None, 0)
        made = _tokens(before)
        for batch, tokens, size in _encoded(self.source.content.read(position)):
            while skip < len(tokens) and made < most:
                shard, inside = divmod(made, self._shard_tokens)
                part = tokens[skip:][: min(self._shard_tokens - inside, most - made)]
                new = 0 if skip else size
                skip, made = skip + len(part), made + len(part)
                done = made / self.source.tokens if self.source.tokens else 0.0
                after = [batch.position, skip]
                yield _Piece(shard, part, new, after, max(batch.done, done))
            if made == most:
                return
            skip -= len(tokens)


def _first(shards: list[_Shard], most: int) -> list[_Shard]:
    """Those with the first `most` tokens."""
    return [shard for i, shard in enumerate(shards) if _tokens(shards[:i]) < most]


def _tokens(shards: list[_Shard]) -> int:
    return sum(shard.tokens for shard in shards)


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:05}.uint16"


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
