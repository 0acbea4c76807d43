"""Text to train on: the user's own, a verified download, or what ships inside Python.

Every source gives files of UTF-8 text; nothing is used before its hash is right.
"""

import ast
import glob
import hashlib
import http.client
import platform
import sysconfig
import time
import urllib.error
import urllib.request
from pathlib import Path

from conf.errors import UsageError
from runner.files import file_sha256, is_intact, known_sha256, note_sha256, write_atomically

# A download is given up when it stalls this long, or after it comes slower than this from then on.
DOWNLOAD_TIMEOUT_S = 20
DOWNLOAD_SLOWEST_BYTES_PER_S = 10_000
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
    if target.is_file() and known_sha256(target, cache_dir) == sha256:
        return target
    if not url.startswith("https://"):
        raise UsageError(
            f"data.url={url}: only https is fetched; name a file you have with data.path=FILE."
        )
    try:
        content = _fetch(url)
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


def _fetch(url: str) -> bytes:
    """The whole body. Raises OSError where it is cut off, too slow or too large."""
    started = time.monotonic()
    content = bytearray()
    with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT_S) as response:
        if not response.url.startswith("https://"):
            raise OSError(f"it leads to {response.url}, which is not https")
        # read1 gives what has come, so that a trickle cannot hold the clock up.
        while chunk := response.read1(1 << 16):
            content += chunk
            patience = DOWNLOAD_TIMEOUT_S + len(content) / DOWNLOAD_SLOWEST_BYTES_PER_S
            if time.monotonic() - started > patience:
                raise OSError("it came too slowly")
            if len(content) > DOWNLOAD_LIMIT_BYTES:
                raise OSError("it is larger than 1 GiB")
        if len(content) < int(response.headers.get("Content-Length") or 0):
            raise OSError("it was cut off")
    return bytes(content)


def python_documentation(cache_dir: Path) -> Path:
    """pydoc's topics and the docstrings of the standard library, as one text in the cache.

    The same Python version gives the same text. Source is parsed, never imported.
    """
    target = cache_dir / "text" / f"pydoc-{platform.python_version()}.txt"
    if not is_intact(target, cache_dir):
        write_atomically(target, "\n\n".join(_documentation()).encode())
        note_sha256(target)
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


def text_sha256(files: list[Path], cache_dir: Path) -> str:
    """What identifies a text: its file's hash, or the hash of the hashes of several."""
    hashes = [known_sha256(file, cache_dir) for file in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


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
