"""Files that are written whole or not at all, and whose damage is detected."""

import contextlib
import glob
import hashlib
import json
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# A file changed so recently might change again within the resolution of its times.
CLOCK_GRAIN_NS = 2_000_000_000


class DamagedFile(Exception):
    """A file differs from what was written into it; the message says how."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write to, which replaces `path` when the block ends without an error.

    A reader finds the old file or the new one, never half of it. The temporary file of a killed
    writer is removed by the next one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.~*~*.part"):
        *_, host, pid = left.stem.split("~")
        if pid.isdigit() and process_is_gone(host, int(pid)):
            left.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.~{platform.node()}~{os.getpid()}.part")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: bytes) -> None:
    """Write by rename. Raises OSError and then leaves the old file."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def process_is_gone(host: str, pid: int) -> bool:
    """Whether a process is known to have ended; one on another host may still run."""
    try:
        os.kill(pid, 0)
    except (OSError, OverflowError) as error:
        return isinstance(error, ProcessLookupError) and host == platform.node()
    return False


def seal(fields: dict[str, Any]) -> bytes:
    """JSON with its own checksum; NaN and infinities, which JSON lacks, become null."""
    plain = json.loads(json.dumps(fields, default=str), parse_constant=lambda _: None)
    checksum = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
    return json.dumps({**plain, "checksum": checksum}, indent=1).encode()


def unseal(content: bytes) -> dict[str, Any]:
    """The fields that were given to `seal`. Raises DamagedFile."""
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        raise DamagedFile("it is not whole JSON in UTF-8") from None
    if not isinstance(fields, dict) or "checksum" not in fields:
        raise DamagedFile("it has no checksum")
    del fields["checksum"]
    if seal(fields) != content:
        raise DamagedFile("its checksum does not match")
    return fields


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def known_sha256(path: Path, cache_dir: Path) -> str:
    """The SHA-256 of a file, computed again only if its size, times or inode have changed.

    Raises OSError.
    """
    found = path.stat()
    if not path.is_file():  # reading another kind of file may never end
        raise OSError(None, "it is not a regular file", str(path))
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()
    memory = cache_dir / "hashes" / f"{name[:32]}.json"
    stat = [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
    with contextlib.suppress(OSError, DamagedFile):
        known = unseal(memory.read_bytes())
        if known["stat"] == stat:
            return str(known["sha256"])
    sha256 = file_sha256(path)
    if time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) > CLOCK_GRAIN_NS:
        # Half a file would be noticed. To replace each of thousands would take quadratic time.
        with contextlib.suppress(OSError):
            memory.parent.mkdir(parents=True, exist_ok=True)
            memory.write_bytes(seal({"stat": stat, "sha256": sha256}))
    return sha256


def files_sha256(files: list[Path], cache_dir: Path) -> str:
    """What identifies a text: the hash of its file, or one hash of its files' hashes."""
    hashes = [known_sha256(file, cache_dir) for file in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()
