"""Documents of a dataset of the Hugging Face hub, streamed by its `datasets` library."""

import contextlib
import hashlib
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from conf.errors import UsageError
from conf.schema import DataConf
from runner.data.documents import BATCH_ROWS, Batch, require, text_of
from runner.files import DamagedFile, seal, unseal, write_atomically

# For so long after a stream is closed, pyarrow's threads may still hold its file; a process that
# ends meanwhile is aborted (https://github.com/apache/arrow/issues/34314).
SETTLE_S = 0.5


@dataclass(frozen=True)
class HubDataset:
    """A dataset at one revision, and what is read of it."""

    dataset: str
    subset: str | None
    split: str
    column: str
    revision: str

    def sha256(self, cache_dir: Path) -> str:
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()

    def read(self, position: Any) -> Iterator[Batch]:
        with _hub_errors(self.dataset):
            from datasets import load_dataset

            stream = load_dataset(
                self.dataset, self.subset, split=self.split, revision=self.revision, streaming=True
            )
            if position is not None:
                stream.load_state_dict(position)
            where = f"data.dataset={self.dataset}"
            rows = iter(stream)
            texts = (text_of(where, self.column, row) for row in rows)
            try:
                while batch := list(itertools.islice(texts, BATCH_ROWS)):
                    yield Batch(position, list(filter(None, batch)))
                    position = json.loads(json.dumps(stream.state_dict()))
            except BaseException:
                rows.close()
                time.sleep(SETTLE_S)
                raise


def find_dataset(dataset: str, data: DataConf, cache_dir: Path) -> HubDataset:
    """A dataset at its newest revision, which is looked up once and then kept in the cache.

    Raises UsageError if the hub does not have it or cannot be reached.
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
    return HubDataset(dataset, data.subset, data.split, data.column, revision)


@contextlib.contextmanager
def _hub_errors(dataset: str) -> Iterator[None]:
    """What the hub's libraries raise, as UsageError."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200].rstrip('.')}"
        raise UsageError(
            f"data.dataset={dataset}: the Hugging Face hub cannot be reached, or has no such "
            f"dataset ({reason}); check data.subset and data.split, log in with `hf auth login` if "
            "it is private, and type the same command again; it goes on from here."
        ) from error
