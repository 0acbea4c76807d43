"""Documents for big texts: rows of parquet and JSON lines files, or of a Hugging Face dataset.

They are read in batches, always in the same order. A batch knows its position, from which reading
goes on in another process.
"""

import contextlib
import hashlib
import io
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, cast

from conf.errors import UsageError, did_you_mean
from runner.data.text import text_sha256
from runner.files import DamagedFile, seal, unseal, write_atomically

# A batch ends after so many rows or so many characters.
BATCH_ROWS = 64
BATCH_CHARACTERS = 1 << 20
READ_BYTES = 1 << 20


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
        content = [text_sha256(self.paths, cache_dir), self.column]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def read(self, position: Any) -> Iterator[Batch]:
        """The documents from a batch's position on, or all. Raises UsageError and OSError."""
        first, row = position or (0, 0)
        sizes = [path.stat().st_size for path in self.paths]
        for place, path in enumerate(self.paths[first:], first):
            read = _read_parquet if path.suffix == ".parquet" else _read_json_lines
            for at, texts, part in read(path, self.column, row if place == first else 0):
                done = (sum(sizes[:place]) + part * sizes[place]) / sum(sizes)
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
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path, buffer_size=READ_BYTES) as file:
            _check_column(str(path), column, file.schema_arrow.names)
            after = 0
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if after + rows <= start:
                    after += rows
                    continue
                for batch in file.iter_batches(BATCH_ROWS, [group], [column]):
                    first, after = after, after + batch.num_rows
                    if after > start:
                        found = batch.slice(max(0, start - first)).to_pylist()
                        texts = [t for row in found if (t := _text(str(path), column, row))]
                        yield max(first, start), texts, after / file.metadata.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        reason = next(iter(str(error).splitlines()), "").rstrip(".")
        raise UsageError(
            f"{path}: it cannot be read as parquet ({reason}); fetch it again, or leave it out."
        ) from error


def _read_json_lines(path: Path, column: str, start: int) -> Iterator[tuple[int, list[str], float]]:
    """The same of a file with a JSON object a line, compressed or not."""
    if path.suffix != ".jsonl":
        require("pyarrow", str(path))
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
        except OSError as error:
            raise UsageError(
                f"{path}: it cannot be read after line {number + 1} ({error}); fetch it again, or "
                "leave it out."
            ) from error
    if texts:
        yield first, texts, 1.0


def _decompressed(path: Path, file: BinaryIO) -> BinaryIO:
    if path.suffix == ".jsonl":
        return file
    import pyarrow

    stream = pyarrow.CompressedInputStream(file, "gzip" if path.suffix == ".gz" else "zstd")
    return cast(BinaryIO, io.BufferedReader(stream, READ_BYTES))


def _line_text(path: Path, number: int, column: str, line: bytes) -> str | None:
    """A line's text, if it has one."""
    if not line.strip():
        return None
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise UsageError(
            f"{path}: line {number + 1} is damaged, it is no JSON object; correct it, or leave the "
            "file out."
        )
    where = f"{path}: line {number + 1}"
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
