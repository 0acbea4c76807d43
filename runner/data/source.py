"""A run's data, found before the run starts."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from conf.schema import DataConf
from runner.data.documents import DocumentFiles, TextFiles, format_of
from runner.data.hub import HubDataset, find_dataset
from runner.data.text import NoNetwork, check_sha256, download, python_documentation, user_files
from runner.files import file_sha256


@dataclass(frozen=True)
class Source:
    """Plain text, or documents; at most `tokens` tokens of documents are used."""

    name: str
    sha256: str
    content: TextFiles | DocumentFiles | HubDataset
    tokens: int | None = None
    fallback: str | None = None  # why it replaces other data

    @property
    def revision(self) -> str | None:
        """The revision of a dataset of the hub."""
        return getattr(self.content, "revision", None)


def find_source(
    data: DataConf, cache_dir: Path, say: Callable[[str], None] = lambda text: None
) -> Source:
    """The data that a configuration names: a dataset, a path, or else a verified download.

    Without a network, Python's documentation replaces a download. `say` is called with the files of
    a folder that are left out. Raises UsageError.
    """
    name, files, fallback = data.name, list[Path](), None
    content: TextFiles | DocumentFiles | HubDataset
    if data.dataset is not None:
        name, content = data.dataset, find_dataset(data.dataset, data, cache_dir)
    else:
        if data.path is not None:
            files = user_files(data.path, say)
            if data.sha256 is not None:
                files, advice = files[:1], "use data=text to train on your own text"
                check_sha256(f"data.path={data.path}", file_sha256(files[0]), data.sha256, advice)
        elif data.url is not None:
            try:
                files = [download(data.url, data.sha256, cache_dir)]
            except NoNetwork as error:
                name = "pydoc"
                fallback = f"{error}; training on Python's own documentation (data=pydoc) instead"
        files = files or [python_documentation(cache_dir)]
        plain = format_of(files[0]) == "text"
        content = TextFiles(files) if plain else DocumentFiles(files, data.column)
    sha256 = content.sha256(cache_dir)
    if isinstance(content, TextFiles):
        return Source(name, sha256, content, fallback=fallback)
    identity = json.dumps([sha256, data.tokens]).encode()
    return Source(name, hashlib.sha256(identity).hexdigest(), content, data.tokens)
