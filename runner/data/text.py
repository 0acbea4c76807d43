"""Text to train on: the user's files, a verified download, or the documentation inside Python.

Every source gives files of UTF-8 text; a known text is used only if its hash is right.
"""

import ast
import glob
import hashlib
import http.client
import os
import platform
import sysconfig
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from conf.errors import UsageError
from runner.data.documents import format_of
from runner.files import known_sha256, write_atomically

# A download fails when no data arrives for this long, or when its mean rate after that is lower.
DOWNLOAD_TIMEOUT_S = 20
DOWNLOAD_SLOWEST_BYTES_PER_S = 10_000

# Folders of the standard library without documentation of it, and the nodes with docstrings.
SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idlelib", "__pycache__"}
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class NoNetwork(Exception):
    """A download failed; the message says why."""


def user_files(path: str, say: Callable[[str], None] = lambda text: None) -> list[Path]:
    """The files that a path names: itself, a folder's files by name, or a glob's matches.

    A path that exists is not a glob. Each file is used once, even if several links lead to it; of
    several files, hidden ones are left out. Documents are used rather than texts, unless they are
    smaller and all .json. `say` gets what else is left out. Raises UsageError and OSError.
    """
    files: dict[tuple[int, ...], Path] = {}
    for file in filter(os.path.isfile, sorted(_matches(path))):
        files.setdefault(file.stat()[1:3], file)  # its inode and its device
    if not files:
        raise UsageError(f"data.path={path}: no file to read; give a file, a folder or a glob.")
    texts, documents, refused = list[Path](), list[Path](), dict[Path, UsageError]()
    for file in files.values():
        try:
            (texts if format_of(file) == "text" else documents).append(file)
        except UsageError as error:
            refused[file] = error
    if len(refused) == len(files):
        raise next(iter(refused.values()))
    used, others, why = documents, texts, "because they are not documents"
    smaller = sum(map(os.path.getsize, documents)) <= sum(map(os.path.getsize, texts))
    if smaller and all(file.suffix.lower() == ".json" for file in documents):
        why = f"because they are not UTF-8 text{', or are smaller documents' * bool(documents)}"
        used, others = texts, documents
    if left := [file.name for file in [*others, *refused]]:
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        say(f"data.path={path}: left out, {why}: {', '.join(left[:3])}{more}.")
    return used


def _matches(path: str) -> list[Path]:
    """What a path or a glob names, or everything in a folder that is not hidden."""
    at = Path(path if os.path.lexists(path) else os.path.expanduser(path))
    parts: list[str] = []
    while not os.path.lexists(at):
        at, parts = at.parent, [at.name, *parts]
    parts, matches = parts or ["**"] * at.is_dir(), [at]
    for part in [*parts, "*"] if parts[-1:] == ["**"] else parts:
        inside = (top / name for top in matches for name in glob.iglob(part, root_dir=top))
        matches = list(_folders(matches) if part == "**" else inside)
    return matches


def _folders(tops: list[Path]) -> Iterator[Path]:
    """Folders and the visible folders in them, each once, even if several links lead to it."""
    seen = set()
    for top in sorted(tops):
        for folder, inner, _ in os.walk(top, followlinks=True):
            inner[:] = sorted(name for name in inner if not name.startswith("."))
            if (identity := os.stat(folder)[1:3]) in seen:
                inner.clear()
            else:
                seen.add(identity)
                yield Path(folder)


def download(url: str, sha256: str | None, cache_dir: Path) -> Path:
    """The file at `url` from the cache or the network, never without the right hash.

    Raises NoNetwork if it cannot be fetched, UsageError if its content has another hash.
    """
    target = cache_dir / "text" / f"{sha256}.txt"
    if target.is_file() and known_sha256(target, cache_dir) == sha256:
        return target
    if sha256 is None or not url.startswith("https://"):
        raise UsageError(
            f"data.url={url}: only https is supported, and only with the hash of the file; give "
            "data.sha256=HASH, or a local file with data.path=FILE."
        )
    content, end = bytearray(), time.monotonic() + DOWNLOAD_TIMEOUT_S
    try:
        with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT_S) as response:
            if not response.url.startswith("https://"):
                raise OSError(f"it redirects to {response.url}, which is not https")
            # read1 returns what has arrived, so that a slow server cannot delay the check.
            while chunk := response.read1(1 << 16):
                content += chunk
                if time.monotonic() > end + len(content) / DOWNLOAD_SLOWEST_BYTES_PER_S:
                    raise OSError("the download is too slow")
            if response.length:
                raise OSError("the download is incomplete")
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NoNetwork(f"{url} could not be fetched ({error})") from error
    advice = "try again, or give your own file with data=text data.path=FILE"
    check_sha256(url, hashlib.sha256(content).hexdigest(), sha256, advice)
    write_atomically(target, bytes(content))
    return target


def check_sha256(source: str, actual: str, expected: str, advice: str) -> None:
    """Raises UsageError if the hash is not the expected one."""
    if actual != expected:
        raise UsageError(
            f"{source}: its sha256 is {actual[:12]}..., not {expected[:12]}...; {advice}."
        )


def python_documentation(cache_dir: Path) -> Path:
    """pydoc's topics and the docstrings of the standard library, as one text in the cache.

    The same Python version gives the same text, whose name has its hash. Source is parsed, never
    imported.
    """
    folder, beginning = cache_dir / "text", f"pydoc-{platform.python_version()}-"
    for made in folder.glob(f"{beginning}*.txt"):
        if made.stem == beginning + known_sha256(made, cache_dir):
            return made
    content = "\n\n".join(_documentation()).encode("utf-8", "replace")
    target = folder / f"{beginning}{hashlib.sha256(content).hexdigest()}.txt"
    write_atomically(target, content)
    return target


def _documentation() -> Iterator[str]:
    stdlib = Path(sysconfig.get_path("stdlib"))
    for source in sorted(stdlib.rglob("*.py")):
        if SKIPPED & set(source.relative_to(stdlib).parts):
            continue
        try:
            nodes = list(ast.walk(ast.parse(source.read_bytes())))
        except (SyntaxError, ValueError):
            continue
        if source.parts[-2:] == ("pydoc_data", "topics.py"):
            constants = (node.value for node in nodes if isinstance(node, ast.Constant))
            yield from (text for text in constants if isinstance(text, str) and len(text) > 100)
        else:
            docstrings = (ast.get_docstring(n) for n in nodes if isinstance(n, DOCUMENTED))
            yield from filter(None, docstrings)
