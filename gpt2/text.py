"""Text to train on: the user's own, a verified download, or what ships inside Python.

Every source gives files of UTF-8 text; nothing is used before its hash is right.
"""

import ast
import glob
import hashlib
import http.client
import os
import platform
import sysconfig
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from gpt2.errors import UsageError

DOWNLOAD_TIMEOUT_S = 20
DOWNLOAD_LIMIT_BYTES = 1 << 30


class NoNetwork(Exception):
    """A download could not be made; the message says why."""


def user_files(path: str) -> list[Path]:
    """The files that a path names: itself, a folder's files by name, or a glob's matches.

    Hidden files are left out. Raises UsageError where there are none.
    """
    target = Path(path).expanduser()
    if target.is_file():
        return [target]
    pattern = str(target / "**") if target.is_dir() else str(target)
    candidates = map(Path, glob.iglob(pattern, recursive=True))
    files = sorted(f for f in candidates if f.is_file() and not f.name.startswith("."))
    if not files:
        what = (
            "the folder holds no files"
            if target.is_dir()
            else "there is no such file, folder or glob"
        )
        raise UsageError(f"data.path={path}: {what}; name the text to train on.")
    return files


def verified_copy(path: str, sha256: str) -> Path:
    """A local copy of a known text. Raises UsageError if it is another one."""
    (file,) = user_files(path)[:1]
    found = file_sha256(file)
    if found != sha256:
        raise UsageError(
            f"data.path={path}: its sha256 is {found[:12]}..., not {sha256[:12]}...; "
            "give data=text to train on a text of your own."
        )
    return file


def download(url: str, sha256: str, cache_dir: Path) -> Path:
    """The file at `url` from the cache or the network, never without the right hash.

    Raises NoNetwork if it cannot be fetched, UsageError if what comes has another hash.
    """
    target = cache_dir / "text" / f"{sha256}.txt"
    if target.is_file() and file_sha256(target) == sha256:
        return target
    try:
        with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT_S) as response:
            content = response.read(DOWNLOAD_LIMIT_BYTES)
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        raise NoNetwork(f"{url} could not be fetched ({error})") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise UsageError(
            f"{url}: the download's sha256 is {found[:12]}..., not {sha256[:12]}...; it was "
            "thrown away. Try again, or give a file of your own with data=text data.path=FILE."
        )
    write_atomically(target, content)
    return target


def python_documentation(cache_dir: Path) -> Path:
    """pydoc's topics and the docstrings of the standard library, as one text in the cache.

    The same Python version gives the same text. Source is parsed, never imported.
    """
    target = cache_dir / "text" / f"pydoc-{platform.python_version()}.txt"
    if not target.is_file():
        write_atomically(target, "\n\n".join(_documentation()).encode())
    return target


def _documentation() -> list[str]:
    stdlib = Path(sysconfig.get_path("stdlib"))
    skipped = {"site-packages", "dist-packages", "test", "tests", "idlelib", "__pycache__"}
    texts = []
    for source in sorted(stdlib.rglob("*.py")):
        if skipped & set(source.relative_to(stdlib).parts):
            continue
        try:
            tree = ast.parse(source.read_bytes())
        except (SyntaxError, ValueError):
            continue
        if source.parts[-2:] == ("pydoc_data", "topics.py"):
            strings = (n.value for n in ast.walk(tree) if isinstance(n, ast.Constant))
            texts += [s for s in strings if isinstance(s, str) and len(s) > 100]
            continue
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        docstrings = (ast.get_docstring(n) for n in ast.walk(tree) if isinstance(n, documented))
        texts += [d for d in docstrings if d]
    return [t.encode("utf-8", "replace").decode() for t in texts]


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def text_sha256(files: list[Path]) -> str:
    """What identifies a text: its file's hash, or the hash of the hashes of several."""
    hashes = [file_sha256(file) for file in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write by rename, so that a reader finds the old file or the new one and never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def find_text(
    name: str, path: str | None, url: str | None, sha256: str | None, cache_dir: Path
) -> tuple[str, list[Path], str | None]:
    """The data's name, its files and, if other data had to stand in, a sentence that says so.

    A path comes first, checked against `sha256` where there is one; then the verified download;
    without a network, Python's own documentation. Raises UsageError.
    """
    if path is not None:
        return name, [verified_copy(path, sha256)] if sha256 else user_files(path), None
    if url is None:
        return name, [python_documentation(cache_dir)], None
    if sha256 is None:
        raise UsageError(
            f"data.url={url}: give its data.sha256 too; no download is used unverified."
        )
    try:
        return name, [download(url, sha256, cache_dir)], None
    except NoNetwork as error:
        reason = f"{error}; training on Python's own documentation (data=pydoc) instead"
        return "pydoc", [python_documentation(cache_dir)], reason
