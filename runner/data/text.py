"""Text to train on: the user's own, a verified download, or the documentation inside Python.

Every source gives files of UTF-8 text; a known text is used only if its hash is right.
"""

import ast
import hashlib
import http.client
import os
import platform
import sysconfig
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from conf.errors import UsageError
from runner.data.documents import format_of
from runner.files import known_sha256, write_atomically

# A download fails when no data arrives for this long.
DOWNLOAD_TIMEOUT_S = 20

# Folders of the standard library without documentation of it, and the nodes with docstrings.
SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idlelib", "__pycache__"}
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class NoNetwork(Exception):
    """A download failed; the message says why."""


def user_files(path: str, say: Callable[[str], None] = lambda text: None) -> list[Path]:
    """The files that a path names: itself, a folder's files by name, or a glob's matches.

    What exists is no glob. Each file is used once, whatever links lead to it; hidden ones and
    linked folders are left out. Of texts and documents those that are larger together are used.
    `say` is called with what else is left out. Raises UsageError and OSError.
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
    used, others = (texts, documents) if texts else (documents, texts)
    if sum(map(os.path.getsize, others)) > sum(map(os.path.getsize, used)):
        used, others = others, used
    if left := [file.name for file in [*others, *refused]]:
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        or_smaller = ", or as smaller documents" if documents else ""
        why = f"no UTF-8 text{or_smaller}" if used is texts else "no documents, or as smaller text"
        say(f"data.path={path}: left out, as {why}: {', '.join(left[:3])}{more}.")
    return used


def _matches(path: str) -> list[Path]:
    """What a path or a glob names, or all that is in a folder; nothing hidden below them."""
    at = Path(path if os.path.lexists(path) else os.path.expanduser(path))
    parts: list[str] = []
    while not os.path.lexists(at):
        # Before Python 3.13, pathlib refuses ** within a name.
        name = at.name if at.name == "**" else at.name.replace("**", "*")
        at, parts = at.parent, [name, *parts]
    if not parts and not at.is_dir():
        return [at]
    parts = parts or ["**"]
    found = at.glob(os.path.join(*parts, "*") if parts[-1] == "**" else os.path.join(*parts))
    return [f for f in found if not any(p.startswith(".") for p in f.relative_to(at).parts)]


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
    try:
        with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT_S) as response:
            content = response.read()
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NoNetwork(f"{url} could not be fetched ({error})") from error
    check_sha256(url, hashlib.sha256(content).hexdigest(), sha256)
    write_atomically(target, content)
    return target


def check_sha256(source: str, actual: str, expected: str) -> None:
    """Raises UsageError for another hash than the expected one."""
    if actual != expected:
        raise UsageError(
            f"{source}: its sha256 is {actual[:12]}..., not {expected[:12]}...; get it again, or "
            "give your own text with data=text data.path=FILE."
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
