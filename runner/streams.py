"""The two streams that a process prints to: nothing that happens to them changes a run."""

import io
import os
import select
import sys

from typing_extensions import Buffer


class Unfailing(io.FileIO):
    """A file to write to: what can reach nobody, or no disk, is lost without an error."""

    def write(self, text: Buffer, /) -> int:
        try:
            while (written := super().write(text)) is None:  # it is full, and does not block
                select.select([], [self], [])
            return written
        except OSError:
            return memoryview(text).nbytes


def open_streams() -> None:
    """Let no write to this process's streams fail, and no character be refused.

    Called where a command, a stage's process or a launcher's worker begins. A stream that a caller
    has replaced is left alone.
    """
    # In place of a closed one, lest a file that is opened later be written to as a stream.
    while (null := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(null, True)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__"):
            raw = Unfailing(stream.fileno() if stream else null, "w", closefd=False)
            encoding = getattr(stream, "encoding", "utf-8")
            text = io.TextIOWrapper(
                io.BufferedWriter(raw), encoding, "backslashreplace", line_buffering=True
            )
            setattr(sys, name, text)
