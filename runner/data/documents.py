"""What is tokenized: plain text, or documents in the rows of parquet and JSON lines files.

It is read in batches, always in the same order. A batch knows its position, and another process can
go on from there.
"""

import codecs
import functools
import gzip
import hashlib
import io
import itertools
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from conf.errors import UsageError, did_you_mean
from runner.files import files_sha256

# The most rows of a batch, and the characters after which it ends earlier.
BATCH_ROWS = 64
BATCH_CHARACTERS = 1 << 20
READ_BYTES = 1 << 20
# Plain text is read in pieces of about this size, so short that `encode` takes no second look.
# Cut after a word: no GPT-2 token spans a non-space followed by a space.
PIECE_BYTES = 1 << 19
PIECE_TAIL = 1 << 16
WORD_END = re.compile(r"\S(?=[ \n])")
# The bytes of a file that tell whether it is text.
SNIFFED_BYTES = 1 << 16
# The names of JSON lines files, and how a compressed one and a .json begin.
LINES = re.compile(r"\.(jsonl|jsonlines|ndjson)(\.gz|\.zstd?)?$")
OBJECT = re.compile(rb"(\xef\xbb\xbf)?\s*\{")
OBJECTS = re.compile(OBJECT.pattern + rb".*\}[ \t\r]*\n\s*\{")
ZSTD = re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18")
# An integer may have more digits than Python reads; only its type matters.
ROW = json.JSONDecoder(parse_int=len)


@dataclass(frozen=True)
class Batch:
    """Some texts, where they begin, and the fraction of the whole that is read after them.

    `ended` says whether each is followed by <|endoftext|>.
    """

    position: Any  # as JSON holds it
    texts: list[str]
    done: float = 0.0
    ended: bool = True


@dataclass(frozen=True)
class TextFiles:
    """Plain text in UTF-8, its files joined by <|endoftext|>."""

    paths: list[Path]

    def sha256(self, cache_dir: Path) -> str:
        return files_sha256(self.paths, cache_dir)

    def read(self, position: None) -> Iterator[Batch]:
        """All of the text, in pieces cut only where a token always ends. Raises UsageError."""
        before, size = 0, sum(path.stat().st_size for path in self.paths)
        for path in self.paths:
            text, blank = "", True
            with path.open("rb") as file:
                chunks = iter(functools.partial(file.read, PIECE_BYTES), b"")
                try:
                    for chunk in codecs.iterdecode(chunks, "utf-8-sig"):
                        text += chunk
                        blank = blank and not chunk.strip()
                        tail = max(0, len(text) - PIECE_TAIL)
                        if ends := [match.end() for match in WORD_END.finditer(text, tail)]:
                            piece, text = text[: ends[-1]], text[ends[-1] :]
                            done = before + file.tell() - len(text.encode())
                            yield Batch(None, [piece], done / size, ended=False)
                except UnicodeDecodeError as error:
                    byte = file.tell() - len(error.object) + error.start
                    raise UsageError(f"{path}: byte {byte} is not UTF-8; convert it.") from error
                before += file.tell()
            if blank:
                raise UsageError(f"{path}: it has no text; give a file with text, or leave it out.")
            yield Batch(None, [text], before / size, ended=path != self.paths[-1])


@dataclass(frozen=True)
class DocumentFiles:
    """The rows of parquet and JSON lines files, in one column."""

    paths: list[Path]
    column: str

    def sha256(self, cache_dir: Path) -> str:
        content = [files_sha256(self.paths, cache_dir), self.column]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def read(self, position: list[int] | None) -> Iterator[Batch]:
        """The documents from a batch's position on, or all. Raises UsageError and OSError."""
        first, row = position or (0, 0)
        *before, total = itertools.accumulate((p.stat().st_size for p in self.paths), initial=0)
        for place, path in enumerate(self.paths[first:], first):
            read = _read_parquet if format_of(path) == "parquet" else _read_json_lines
            rows = read(path, self.column, row)
            try:
                while batch := _some_of(rows):
                    done = (before[place] + batch[-1][1] * path.stat().st_size) / total
                    yield Batch([place, row], [text for text, _ in batch if text], done)
                    row += len(batch)
            except UsageError:
                raise
            except Exception as error:  # of gzip, zstd or parquet, or of strings not in UTF-8
                reason = " ".join(str(error).split()).rstrip(".")
                raise UsageError(
                    f"{path}: it cannot be read after row {row} ({reason}); get a whole copy, "
                    "decompress it (zstd -d --long=31, or gunzip), or leave it out."
                ) from error
            row = 0


def _some_of(rows: Iterator[tuple[str | None, float]]) -> list[tuple[str | None, float]]:
    """The rows of one batch; [] at their end."""
    batch, characters = [], 0
    for text, done in itertools.islice(rows, BATCH_ROWS):
        batch.append((text, done))
        characters += len(text or "")
        if characters >= BATCH_CHARACTERS:
            break
    return batch


def format_of(path: Path) -> str:
    """Whether a file is "text", JSON "lines" or "parquet". Raises UsageError and OSError."""
    name = path.name.lower()
    with path.open("rb") as file:
        if name.endswith(".parquet") or file.peek().startswith(b"PAR1"):
            return "parquet"
        if LINES.search(name):
            return "lines"
        if (stream := _decompressed(path, file)) is not file:
            with suppress(OSError, EOFError, zlib.error):
                if OBJECT.match(stream.read(SNIFFED_BYTES)):
                    return "lines"
            raise UsageError(f"{path}: it is compressed and not JSON lines; decompress it.")
        beginning = file.read(SNIFFED_BYTES)
        if ".json" in name and OBJECTS.match(beginning + file.read(READ_BYTES)):
            return "lines"
    with suppress(UnicodeDecodeError):
        codecs.getincrementaldecoder("utf-8")().decode(beginning)
        if b"\0" not in beginning:
            return "text"
    raise UsageError(f"{path}: it is not UTF-8 text, or has NUL bytes; convert it to UTF-8.")


def _decompressed(path: Path, file: io.BufferedReader) -> Any:
    """A file at its beginning, or what gzip or zstd compressed in it, whatever its name says."""
    if file.peek().startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file)
    if ZSTD.match(file.peek()):
        require("pyarrow", str(path))
        import pyarrow

        return io.BufferedReader(pyarrow.CompressedInputStream(file, "zstd"), READ_BYTES)
    return file


def _read_json_lines(path: Path, column: str, start: int) -> Iterator[tuple[str | None, float]]:
    """From line `start` on, the text of each, if any, and the fraction of the file read so far."""
    size = path.stat().st_size
    with path.open("rb") as file:
        lines = itertools.islice(_decompressed(path, file), start, None)
        for number, line in enumerate(lines, start + 1):
            text, row = None, None
            if line := line.removeprefix(codecs.BOM_UTF8).strip():
                with suppress(ValueError, RecursionError):
                    row = ROW.decode(line.decode("utf-8", "surrogatepass"))
                if not isinstance(row, dict):
                    raise UsageError(
                        f"{path}: line {number} is damaged, too deep or not a JSON object in UTF-8"
                        "; correct or convert it."
                    )
                text = text_of(f"{path}: line {number}", column, row)
            yield text, file.tell() / size


def _read_parquet(path: Path, column: str, start: int) -> Iterator[tuple[str | None, float]]:
    """The same for a parquet file's rows; only the column is read, a few pages at a time."""
    require("pyarrow", str(path))
    from pyarrow import parquet

    with parquet.ParquetFile(path, buffer_size=READ_BYTES) as file:
        columns = [column] if column in file.schema_arrow.names else None
        batches = file.iter_batches(BATCH_ROWS, columns=columns)
        rows = itertools.chain.from_iterable(batch.to_pylist() for batch in batches)
        for number, row in enumerate(itertools.islice(rows, start, None), start + 1):
            yield text_of(str(path), column, row), number / file.metadata.num_rows


def text_of(where: str, column: str, row: dict[str, Any]) -> str | None:
    """A row's text; None if it is null or blank. Raises UsageError."""
    if column not in row:
        raise UsageError(
            f"{where}: there is no column {column!r}; the columns are {', '.join(row) or 'none'}. "
            f"Give one with data.column=NAME.{did_you_mean(column, list(row))}"
        )
    text = row[column]
    if text is not None and not isinstance(text, str):
        raise UsageError(
            f"{where}: the column {column!r} holds {type(text).__name__}, not text; give another "
            "column with data.column=NAME."
        )
    return text if text and not text.isspace() else None


def require(package: str, what: str) -> None:
    """Raises UsageError if an optional package that `what` needs is missing."""
    if not find_spec(package):
        raise UsageError(
            f"{what} needs a package that is not installed: pip install 'gpt2-ladder[big]'."
        )
