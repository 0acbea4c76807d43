"""The cache of a big text's tokens: shards of uint16, with an index of their hashes.

Documents are tokenized in order, each followed by <|endoftext|>, and cut into shards of equal size.
The index is written again after each shard, and says from where to go on: so preparation resumes
after any end, and any one shard can be made again.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from conf.errors import UsageError
from gpt2.tokenizer import END_OF_TEXT, encode
from runner.data.corpus import Corpus, Tokens, in_threads
from runner.data.documents import Batch, Documents
from runner.files import DamagedFile, known_sha256, replacing, seal, unseal, write_atomically

SHARD_TOKENS = 100_000_000
INDEX = "index.json"


@dataclass(frozen=True)
class Place:
    """Between two tokens: a position among the documents, and tokens to skip from there."""

    position: Any = None
    skip: int = 0


@dataclass(frozen=True)
class Shard:
    """A file of tokens; `bytes` of text are those of the batches that begin in it."""

    start: Place
    tokens: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Index:
    """The shards made so far, and the place after them; None where the documents end there."""

    shards: list[Shard]
    end: Place | None = Place()

    @property
    def tokens(self) -> int:
        return sum(shard.tokens for shard in self.shards)


@dataclass(frozen=True)
class Piece:
    """The tokens of a batch of documents, or the rest of them."""

    start: Place
    tokens: Tokens
    bytes: int
    done: float | None


def load_shards(
    documents: Documents,
    sha256: str,
    most: int | None,
    cache_dir: Path,
    held_out_fraction: float,
    warn: Callable[[str], None],
    progress: Callable[[int, int | None], None],
) -> Corpus:
    """Tokenize documents into shards, or map those that are in the cache.

    Only the first `most` tokens, if that is not None; more are prepared when they are asked for.
    One process prepares, others wait for it. `progress` is called with the bytes of text tokenized
    and an estimate of all, if there is one; `warn` with a sentence for each shard that is damaged
    and made again. Raises UsageError for what is wrong with the documents.
    """
    folder = cache_dir / "shards" / documents.sha256(cache_dir)
    folder.mkdir(parents=True, exist_ok=True)
    wanted = math.inf if most is None else most
    with FileLock(folder.with_suffix(".lock")):
        index = _read_index(folder, warn)
        _repair(index, documents, folder, wanted, cache_dir, warn)
        if index.tokens < wanted and index.end is not None:
            index = _extend(index, documents, folder, wanted, progress)
        parts: list[Tokens] = []
        bytes_, left = 0.0, wanted
        for number, shard in enumerate(index.shards):
            if left > 0:
                used = int(min(shard.tokens, left))
                parts.append(np.memmap(_path(folder, number), dtype=np.uint16, mode="r")[:used])
                bytes_ += shard.bytes * used / shard.tokens
                left -= used
    if not parts:
        raise UsageError("The data has no text: all its documents are empty; give other ones.")
    hashes = json.dumps([shard.sha256 for shard in index.shards[: len(parts)]])
    index_sha256 = hashlib.sha256(hashes.encode()).hexdigest()
    return Corpus.of(sha256, round(bytes_), parts, held_out_fraction, index_sha256)


def _read_index(folder: Path, warn: Callable[[str], None]) -> Index:
    path = folder / INDEX
    try:
        fields = unseal(path.read_bytes())
    except FileNotFoundError:
        return Index([])
    except DamagedFile as damage:
        warn(f"{path}: {damage}; the documents are tokenized again.")
        return Index([])
    shards = [Shard(**{**each, "start": Place(**each["start"])}) for each in fields["shards"]]
    return Index(shards, fields["end"] and Place(**fields["end"]))


def _repair(
    index: Index,
    documents: Documents,
    folder: Path,
    wanted: float,
    cache_dir: Path,
    warn: Callable[[str], None],
) -> None:
    """Make the shards again that are not what the index says, of the first `wanted` tokens."""
    before = 0
    for number, shard in enumerate(index.shards):
        path = _path(folder, number)
        if before < wanted and not (
            path.exists() and known_sha256(path, cache_dir) == shard.sha256
        ):
            warn(f"{path} is damaged or missing, and made again.")
            pieces = _pieces(documents, shard.start)
            made, _ = _write(path, next(pieces), pieces, shard.tokens, lambda piece, tokens: None)
            if made != shard:
                raise UsageError(
                    f"{path}: made again, it is not what it was; remove the folder {folder}."
                )
        before += shard.tokens


def _extend(
    index: Index,
    documents: Documents,
    folder: Path,
    wanted: float,
    progress: Callable[[int, int | None], None],
) -> Index:
    """Make shards until there are `wanted` tokens or the documents end."""
    shards, end = index.shards, index.end
    if shards and shards[-1].tokens < SHARD_TOKENS:  # cut short where fewer tokens were wanted
        shards, end = shards[:-1], shards[-1].start
    index = Index(shards, end)
    text = sum(shard.bytes for shard in shards)

    def show(piece: Piece, tokens: int) -> None:
        nonlocal text
        text += piece.bytes
        done = max(piece.done or 0, (index.tokens + tokens) / wanted)
        progress(text, round(text / done) if done else None)

    assert end is not None
    pieces = _pieces(documents, end)
    piece = next(pieces, None)
    while piece is not None and index.tokens < wanted:
        path = _path(folder, len(index.shards))
        most = int(min(SHARD_TOKENS, wanted - index.tokens))
        shard, piece = _write(path, piece, pieces, most, show)
        index = Index([*index.shards, shard], piece.start if piece else None)
        write_atomically(folder / INDEX, seal(asdict(index)))
    return index


def _write(
    path: Path,
    piece: Piece | None,
    pieces: Iterator[Piece],
    most: int,
    show: Callable[[Piece, int], None],
) -> tuple[Shard, Piece | None]:
    """Write a shard of `most` tokens, or fewer at the end; returns it and what comes next."""
    assert piece is not None
    start, tokens, text, digest = piece.start, 0, 0, hashlib.sha256()
    with replacing(path) as temporary, temporary.open("wb") as file:
        while piece is not None and tokens < most:
            now, rest = np.split(piece.tokens, [most - tokens])
            content = now.tobytes()
            file.write(content)
            digest.update(content)
            tokens += len(now)
            text += piece.bytes
            show(piece, tokens)
            if len(rest):
                place = replace(piece.start, skip=piece.start.skip + len(now))
                piece = replace(piece, start=place, tokens=rest, bytes=0)
            else:
                piece = next(pieces, None)
    return Shard(start, tokens, text, digest.hexdigest()), piece


def _pieces(documents: Documents, start: Place) -> Iterator[Piece]:
    """The tokens of the documents from a place on."""
    skip = start.skip
    for piece in in_threads(_encode, documents.read(start.position)):
        if skip < len(piece.tokens):
            place = replace(piece.start, skip=skip)
            yield Piece(place, piece.tokens[skip:], 0 if skip else piece.bytes, piece.done)
        skip = max(0, skip - len(piece.tokens))


def _encode(batch: Batch) -> Piece:
    end = np.array([END_OF_TEXT], dtype=np.uint16)
    tokens = [part for text in batch.texts for part in (encode(text), end)]
    size = sum(len(text.encode("utf-8", "replace")) for text in batch.texts)
    return Piece(Place(batch.position), np.concatenate([end[:0], *tokens]), size, batch.done)


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:05}.uint16"
