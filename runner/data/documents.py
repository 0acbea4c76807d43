"""Documents for big texts: rows of parquet and JSON lines files, or of a Hugging Face dataset.

They are read in batches, always in the same order. A batch knows its position, from which reading
goes on in another process.
"""

import codecs
import contextlib
import gzip
import hashlib
import io
import itertools
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from conf.errors import UsageError, did_you_mean
from runner.files import DamagedFile, files_sha256, seal, unseal, write_atomically

# A batch ends after so many rows or so many characters.
BATCH_ROWS = 64
BATCH_CHARACTERS = 1 << 20
READ_BYTES = 1 << 20
# What is read of a file to tell whether it is text.
SNIFFED_BYTES = 1 << 16
# The names of JSON lines; else how a compressed file with them begins, and a .json. How zstd does.
LINES = re.compile(r"\.(jsonl|jsonlines|ndjson)(\.gz|\.zstd?)?$")
OBJECT = re.compile(rb"(\xef\xbb\xbf)?\s*\{")
OBJECTS = re.compile(OBJECT.pattern + rb".*\}[ \t\r]*\n\s*\{")
ZSTD = re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18")
# An integer may have more digits than Python reads; only its type is looked at.
ROW = json.JSONDecoder(parse_int=len)


def format_of(path: Path) -> str:
    """Whether a file is "text", JSON "lines" or "parquet". Raises UsageError and OSError."""
    name = path.name.lower()
    with path.open("rb") as file:
        beginning = file.read(SNIFFED_BYTES)
        if name.endswith(".parquet") or (beginning.startswith(b"PAR") and b"\0" in beginning):
            return "parquet"
        json_lines = ".json" in name and OBJECTS.match(beginning + file.read(READ_BYTES))
        if json_lines or LINES.search(name):
            return "lines"
        file.seek(0)
        if (stream := _decompressed(path, file)) is not file:
            with contextlib.suppress(OSError, EOFError, zlib.error):
                if OBJECT.match(stream.read(SNIFFED_BYTES)):
                    return "lines"
            raise UsageError(f"{path}: it is compressed, and no JSON lines; decompress it.")
    with contextlib.suppress(UnicodeDecodeError):
        codecs.getincrementaldecoder("utf-8")().decode(beginning)
        if b"\0" not in beginning:
            return "text"
    raise UsageError(f"{path}: it is no UTF-8 text, or has NUL bytes; convert it to UTF-8.")


@dataclass(frozen=True)
class Batch:
    """Some documents, where they begin, and the part of all files that is read after them."""

    position: Any  # as JSON holds it
    texts: list[str]
    done: float | None = None


@dataclass(frozen=True)
class DocumentFiles:
    """The rows of parquet and JSON lines files, in one column."""

    paths: list[Path]
    column: str

    def sha256(self, cache_dir: Path) -> str:
        """One hash of the files' content and of the column."""
        content = [files_sha256(self.paths, cache_dir), self.column]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def read(self, position: Any) -> Iterator[Batch]:
        """The documents from a batch's position on, or all. Raises UsageError and OSError."""
        first, row = position or (0, 0)
        *before, size = itertools.accumulate((p.stat().st_size for p in self.paths), initial=0)
        for place, path in enumerate(self.paths[first:], first):
            read = _read_parquet if format_of(path) == "parquet" else _read_json_lines
            for at, texts, part in read(path, self.column, row if place == first else 0):
                done = (before[place] + part * path.stat().st_size) / size
                yield Batch([place, at], texts, done)


@dataclass(frozen=True)
class HubDataset:
    """A dataset of the Hugging Face hub at one revision, streamed."""

    dataset: str
    subset: str | None
    split: str
    column: str
    revision: str

    def sha256(self, cache_dir: Path) -> str:
        """One hash of the name, the revision and what is read of it."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()

    def read(self, position: Any) -> Iterator[Batch]:
        """The documents from a batch's position on, or all. Raises UsageError."""
        with _hub_errors(self.dataset):
            import datasets

            stream = datasets.load_dataset(
                self.dataset,
                self.subset,
                split=self.split,
                revision=self.revision,
                streaming=True,
            )
            if position is not None:
                stream.load_state_dict(position)
            rows, where = iter(stream), f"data.dataset={self.dataset}"
            while batch := list(itertools.islice(rows, BATCH_ROWS)):
                _check_column(where, self.column, list(batch[0]))
                yield Batch(position, [t for row in batch if (t := _text(where, self.column, row))])
                position = json.loads(json.dumps(stream.state_dict()))


Documents = DocumentFiles | HubDataset


def find_dataset(
    dataset: str, subset: str | None, split: str, column: str, cache_dir: Path
) -> HubDataset:
    """A dataset at its newest revision, which is looked up once and then kept in the cache.

    Raises UsageError where the hub does not have it or cannot be reached.
    """
    name = hashlib.sha256(dataset.encode()).hexdigest()
    memory = cache_dir / "hashes" / f"{name[:32]}.json"
    require("datasets", f"data.dataset={dataset}")
    try:
        revision = str(unseal(memory.read_bytes())["revision"])
    except (OSError, DamagedFile, KeyError):
        with _hub_errors(dataset):
            from huggingface_hub import HfApi

            revision = str(HfApi().dataset_info(dataset).sha)
        write_atomically(memory, seal({"dataset": dataset, "revision": revision}))
    return HubDataset(dataset, subset, split, column, revision)


def require(package: str, what: str) -> None:
    """Raises UsageError where an optional package is missing that `what` needs."""
    if not find_spec(package):
        raise UsageError(
            f"{what} needs a package that is not installed: pip install 'gpt2-ladder[big]'."
        )


def _read_parquet(path: Path, column: str, start: int) -> Iterator[tuple[int, list[str], float]]:
    """From row `start` on: the first row of each batch, its texts, and the part read after it.

    Only the column is read, a few pages at a time.
    """
    require("pyarrow", str(path))
    from pyarrow import parquet

    after = 0
    try:
        with parquet.ParquetFile(path, buffer_size=READ_BYTES) as file:
            _check_column(str(path), column, file.schema_arrow.names)
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if after + rows <= start:
                    after += rows
                    continue
                for batch in file.iter_batches(BATCH_ROWS, [group], [column]):
                    first, after = after, after + batch.num_rows
                    if after > start:
                        begin = max(first, start)
                        rows = enumerate(batch.slice(begin - first).to_pylist(), begin + 1)
                        found = (_text(f"{path}: row {i}", column, row) for i, row in rows)
                        yield begin, list(filter(None, found)), after / file.metadata.num_rows
    except UsageError:
        raise
    except Exception as error:  # Python's too, for strings that are not UTF-8
        reason = next(iter(str(error).splitlines()), "").rstrip(".")
        raise UsageError(
            f"{path}: it cannot be read as parquet near row {after} ({reason}); fetch it again."
        ) from error


def _read_json_lines(path: Path, column: str, start: int) -> Iterator[tuple[int, list[str], float]]:
    """The same of a file with a JSON object a line, compressed or not."""
    size = path.stat().st_size
    first, texts, characters = start, [], 0
    number = start
    with path.open("rb") as file:
        try:
            lines = itertools.islice(_decompressed(path, file), start, None)
            for number, line in enumerate(lines, start):
                if text := _line_text(path, number, column, line):
                    texts.append(text)
                    characters += len(text)
                if len(texts) == BATCH_ROWS or characters >= BATCH_CHARACTERS:
                    yield first, texts, file.tell() / size
                    first, texts, characters = number + 1, [], 0
        except (OSError, EOFError, zlib.error) as error:
            raise UsageError(
                f"{path}: it cannot be read after line {number + 1} ({error}); get a whole "
                "copy, decompress it (zstd -d --long=31, or gunzip), or leave it out."
            ) from error
    if texts:
        yield first, texts, 1.0


def _decompressed(path: Path, file: io.BufferedReader) -> Any:
    """A file at its beginning, or what gzip or zstd compressed in it: by its bytes or its name."""
    beginning = file.peek()
    # Programs that fetch a file may decompress it and keep its name.
    name = "" if OBJECT.match(beginning) else path.name.lower()
    if beginning.startswith(b"\x1f\x8b") or name.endswith(".jsonl.gz"):
        return gzip.GzipFile(fileobj=file)
    if ZSTD.match(beginning) or name.endswith(".jsonl.zst"):
        require("pyarrow", str(path))
        import pyarrow

        return io.BufferedReader(pyarrow.CompressedInputStream(file, "zstd"), READ_BYTES)
    return file


def _line_text(path: Path, number: int, column: str, line: bytes) -> str | None:
    """A line's text, if it has one."""
    if not (line := line.removeprefix(codecs.BOM_UTF8).strip()):
        return None
    where, row = f"{path}: line {number + 1}", None
    with contextlib.suppress(ValueError, RecursionError):
        row = ROW.decode(line.decode("utf-8", "surrogatepass"))
    if not isinstance(row, dict):
        raise UsageError(
            f"{where} is damaged, too deep, or no JSON object in UTF-8; correct or convert it."
        )
    _check_column(where, column, list(row))
    return _text(where, column, row)


def _text(where: str, column: str, row: dict[str, Any]) -> str | None:
    """A row's text; None where it is null or blank."""
    text = row[column]
    if text is not None and not isinstance(text, str):
        raise UsageError(
            f"{where}: the column {column!r} holds {type(text).__name__} and no text; give another "
            "one with data.column=NAME."
        )
    return text if text and not text.isspace() else None


def _check_column(where: str, column: str, names: Sequence[str]) -> None:
    if column not in names:
        raise UsageError(
            f"{where}: there is no column {column!r}; the columns are {', '.join(names) or 'none'}."
            f" Give one with data.column=NAME.{did_you_mean(column, names)}"
        )


@contextlib.contextmanager
def _hub_errors(dataset: str) -> Iterator[None]:
    """What the hub's libraries raise, as UsageError."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(_hub_sentence(dataset, error)) from error


def _hub_sentence(dataset: str, error: Exception) -> str:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if kinds & {"RepositoryNotFoundError", "DatasetNotFoundError", "HFValidationError"}:
        return (
            f"data.dataset={dataset}: the Hugging Face hub has no such dataset, or it is private "
            "or gated; check the name, or log in with `hf auth login`."
        )
    reason = " ".join(str(error).split())[:200].rstrip(".")
    reason = f"{type(error).__name__}: {reason}"
    if kinds & {"ConnectionError", "TimeoutError", "HTTPError", "TransportError"}:
        return (
            f"data.dataset={dataset}: the Hugging Face hub cannot be reached ({reason}); type the "
            "same command again, which goes on from here, or use data=text data.path=FILE."
        )
    return (
        f"data.dataset={dataset}: it cannot be read ({reason}); check data.subset and data.split."
    )
