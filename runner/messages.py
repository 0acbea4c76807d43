"""What a command prints: lines on standard output, and errors on standard error."""

import io
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from typing_extensions import Buffer

from runner import world


class Unfailing(io.FileIO):
    """A file for output: what cannot be written is lost without an error."""

    def write(self, text: Buffer, /) -> int:
        with suppress(OSError):
            return super().write(text) or 0  # None if it is full and does not block
        return memoryview(text).nbytes


def open_streams() -> None:
    """Make this process's standard streams accept every write and every character."""
    while (null := os.open(os.devnull, os.O_RDWR)) <= 2:  # in place of a closed one
        os.set_inheritable(null, True)
    os.close(null)
    for number, name in ((1, "stdout"), (2, "stderr")):
        if (stream := getattr(sys, name)) is getattr(sys, f"__{name}__"):
            setattr(sys, name, _unfailing(number, getattr(stream, "encoding", "utf-8")))


def _unfailing(number: int, encoding: str) -> io.TextIOWrapper:
    file = io.BufferedWriter(Unfailing(number, "w", closefd=False))
    return io.TextIOWrapper(file, encoding, "backslashreplace", line_buffering=True)


def divert_errors(file: Path) -> None:
    """Have what is started from here on print its errors into a file, unlike this process."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as opened:
        sys.stderr = _unfailing(os.dup(2), sys.stderr.encoding)  # which others do not inherit
        os.dup2(opened.fileno(), 2)


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print a line exactly as it is: no markup, no highlighting, no wrapping."""
    console.print(text, style=style, highlight=False, markup=False, emoji=False, soft_wrap=True)


def warn(console: Console, text: str) -> None:
    """Print a warning."""
    say(console, text, "yellow")


def error(message: str) -> None:
    """Print an error on standard error.

    Several processes meet the same mistake; only the first one that meets it prints it.
    """
    if world.is_first_to_say(message):
        say(Console(stderr=True), message, "red")


def fail(message: str) -> NoReturn:
    """Print an error on standard error and exit with status 2."""
    error(message)
    sys.exit(2)


def duration(seconds: float) -> str:
    """A duration as text, in the unit that suits it."""
    minutes = seconds / 60
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
