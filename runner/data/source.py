"""What a run's data is: found before it starts, loaded when it does."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from conf.schema import DataConf
from runner.data.documents import DocumentFiles, Documents, find_dataset, format_of
from runner.data.text import find_text
from runner.files import files_sha256

if TYPE_CHECKING:
    from runner.data.corpus import Corpus


@dataclass(frozen=True)
class Source:
    """Plain text in files, or documents of which at most `tokens` tokens are used."""

    name: str
    sha256: str
    content: list[Path] | Documents
    tokens: int | None = None
    fallback: str | None = None  # why it replaces other data

    @property
    def revision(self) -> str | None:
        """The revision of a dataset of the hub."""
        return getattr(self.content, "revision", None)


def find_source(
    data: DataConf, cache_dir: Path, say: Callable[[str], None] = lambda text: None
) -> Source:
    """The data that a configuration names. Raises UsageError."""
    content: Documents
    if data.dataset is not None:
        name, fallback = data.dataset, None
        content = find_dataset(data.dataset, data.subset, data.split, data.column, cache_dir)
    else:
        name, files, fallback = find_text(
            data.name, data.path, data.url, data.sha256, cache_dir, say
        )
        if format_of(files[0]) == "text":
            return Source(name, files_sha256(files, cache_dir), files, fallback=fallback)
        content = DocumentFiles(files, data.column)
    identity = [content.sha256(cache_dir), data.tokens]
    sha256 = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    return Source(name, sha256, content, data.tokens, fallback)


def load(
    source: Source,
    cache_dir: Path,
    held_out_fraction: float,
    warn: Callable[[str], None],
    progress: Callable[[int, int | None], None],
) -> "Corpus":
    """The tokens of a source, made or from the cache. Raises UsageError."""
    # What tokenizes is imported where it is needed: it takes long.
    from runner.data.corpus import load_corpus
    from runner.data.shards import load_shards

    common = cache_dir, held_out_fraction, warn, progress
    if isinstance(source.content, list):
        return load_corpus(source.content, *common)
    return load_shards(source.content, source.sha256, source.tokens, *common)
