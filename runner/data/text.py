"""Text to train on: the user's own, a verified download, or the documentation inside Python.

Every source gives files of UTF-8 text; a known text is used only if its hash is right.
"""

import ast
import codecs
import glob
import hashlib
import http.client
import platform
import sysconfig
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from conf.errors import UsageError
from runner.files import file_sha256, is_intact, known_sha256, note_sha256, write_atomically

# A download fails when no data arrives for this long, or when its mean rate after that is lower.
DOWNLOAD_TIMEOUT_S = 20
DOWNLOAD_SLOWEST_BYTES_PER_S = 10_000
DOWNLOAD_LIMIT_BYTES = 1 << 30

# How the names of files end that hold documents; others are plain text.
DOCUMENTS = (".parquet", ".jsonl", ".jsonl.gz", ".zst")
# What is read of a file to tell whether it is text.
SNIFFED_BYTES = 1 << 16

# Folders of the standard library without documentation of it, and the nodes with docstrings.
SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idlelib", "__pycache__"}
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class NoNetwork(Exception):
    """A download failed; the message says why."""


def find_text(
    name: str,
    path: str | None,
    url: str | None,
    sha256: str | None,
    cache_dir: Path,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[str, list[Path], str | None]:
    """The data's name, its files and, if other data replaces it, a sentence that says why.

    A path comes first, checked against `sha256` where there is one; then the verified download;
    without a network, Python's own documentation. `say` is called with what was left out of a
    folder. Raises UsageError.
    """
    if path is not None:
        files = user_files(path, say)
        if sha256 is not None:
            files = files[:1]
            advice = "use data=text to train on your own text"
            _check_sha256(f"data.path={path}", file_sha256(files[0]), sha256, advice)
        return name, files, None
    if url is None:
        return name, [python_documentation(cache_dir)], None
    if sha256 is None:
        raise UsageError(
            f"data.url={url}: a download must be verified; give its hash with data.sha256=HASH."
        )
    try:
        return name, [download(url, sha256, cache_dir)], None
    except NoNetwork as error:
        reason = f"{error}; training on Python's own documentation (data=pydoc) instead"
        return "pydoc", [python_documentation(cache_dir)], reason


def user_files(path: str, say: Callable[[str], None] = lambda text: None) -> list[Path]:
    """The files that a path names: itself, a folder's files by name, or a glob's matches.

    Of several, hidden files are left out, and what is no text; where some hold documents, all that
    hold none. `say` is called with those. Raises UsageError where there are none.
    """
    target = Path(path).expanduser()
    if target.is_file():
        return [target]
    pattern = str(target / "**") if target.is_dir() else str(target)
    candidates = map(Path, glob.iglob(pattern, recursive=True))
    found = sorted(f for f in candidates if f.is_file() and not f.name.startswith("."))
    if not found:
        raise UsageError(f"data.path={path}: no file found; give a file, a folder or a glob.")
    documents = [file for file in found if file.name.endswith(DOCUMENTS)]
    files = documents or [file for file in found if _is_text(file)]
    if not files:
        raise UsageError(f"data.path={path}: none of its {len(found)} files is UTF-8 text.")
    if others := [file.name for file in found if file not in files]:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        what = f"{' or '.join(DOCUMENTS)} file" if documents else "UTF-8 text"
        say(f"data.path={path}: left out, as no {what}: {', '.join(others[:3])}{more}.")
    return files


def _is_text(file: Path) -> bool:
    """Whether the beginning of a file is UTF-8 text."""
    with file.open("rb") as opened:
        beginning = opened.read(SNIFFED_BYTES)
    try:
        codecs.getincrementaldecoder("utf-8")().decode(beginning)
    except UnicodeDecodeError:
        return False
    return b"\0" not in beginning


def download(url: str, sha256: str, cache_dir: Path) -> Path:
    """The file at `url` from the cache or the network, never without the right hash.

    Raises NoNetwork if it cannot be fetched, UsageError if its content has another hash.
    """
    target = cache_dir / "text" / f"{sha256}.txt"
    if target.is_file() and known_sha256(target, cache_dir) == sha256:
        return target
    if not url.startswith("https://"):
        raise UsageError(
            f"data.url={url}: only https is supported; give a local file with data.path=FILE."
        )
    try:
        content = _fetch(url)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NoNetwork(f"{url} could not be fetched ({error})") from error
    advice = "try again, or give your own file with data=text data.path=FILE"
    _check_sha256(url, hashlib.sha256(content).hexdigest(), sha256, advice)
    write_atomically(target, content)
    return target


def _check_sha256(source: str, found: str, expected: str, advice: str) -> None:
    if found != expected:
        raise UsageError(
            f"{source}: its sha256 is {found[:12]}..., not {expected[:12]}...; {advice}."
        )


def _fetch(url: str) -> bytes:
    """The whole body. Raises OSError if it is incomplete, too slow or too large."""
    started = time.monotonic()
    content = bytearray()
    with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT_S) as response:
        if not response.url.startswith("https://"):
            raise OSError(f"it redirects to {response.url}, which is not https")
        # read1 returns what has arrived, so that a slow server cannot delay the check of the time.
        while chunk := response.read1(1 << 16):
            content += chunk
            allowed_s = DOWNLOAD_TIMEOUT_S + len(content) / DOWNLOAD_SLOWEST_BYTES_PER_S
            if time.monotonic() - started > allowed_s:
                raise OSError("the download is too slow")
            if len(content) > DOWNLOAD_LIMIT_BYTES:
                raise OSError("it is larger than 1 GiB")
        if len(content) < int(response.headers.get("Content-Length") or 0):
            raise OSError("the download is incomplete")
    return bytes(content)


def python_documentation(cache_dir: Path) -> Path:
    """pydoc's topics and the docstrings of the standard library, as one text in the cache.

    The same Python version gives the same text. Source is parsed, never imported.
    """
    target = cache_dir / "text" / f"pydoc-{platform.python_version()}.txt"
    if not is_intact(target, cache_dir):
        write_atomically(target, "\n\n".join(_documentation()).encode("utf-8", "replace"))
        note_sha256(target)
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


def text_sha256(files: list[Path], cache_dir: Path) -> str:
    """What identifies a text: its file's hash, or the hash of the hashes of several."""
    hashes = [known_sha256(file, cache_dir) for file in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()
