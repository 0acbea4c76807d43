"""Signals that ask a run to end: the current step ends first, a second signal ends it at once."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# A closed terminal, Ctrl-C, what a scheduler sends, and what a sweep sends to its stage.
ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

Handler = Callable[[int, FrameType | None], Any] | int | None


class Interrupted(KeyboardInterrupt):
    """A signal asked the command to end; its exit status is 128 + `signum`.

    `at_once` says that a second signal came, so that nothing more is to be written.
    """

    def __init__(self, signum: int, at_once: bool = False) -> None:
        super().__init__(f"Ended by {signal.Signals(signum).name}.")
        self.signum = signum
        self.at_once = at_once


def install_handlers(handler: Handler = None) -> dict[signal.Signals, Handler]:
    """Have a signal that asks to end raise Interrupted, or call `handler`.

    Returns the handlers that were there before. A signal that is ignored, as under nohup, stays
    ignored.
    """
    before: dict[signal.Signals, Handler] = {s: signal.getsignal(s) for s in ENDING}
    for signum, current in before.items():
        if current is not signal.SIG_IGN:
            signal.signal(signum, handler or _interrupt)
    return before


@contextmanager
def handled_by(handler: Handler) -> Iterator[None]:
    """While this context is open, signals that ask to end call `handler`."""
    before = install_handlers(handler)
    try:
        yield
    finally:
        for signum, previous in before.items():
            signal.signal(signum, previous)


@contextmanager
def after_step() -> Iterator[Callable[[], Interrupted | None]]:
    """While this context is open, the first signal is kept for the loop to ask for.

    Gives a function that returns what to raise now that a step has ended, or None.
    """
    received: list[int] = []

    def keep(signum: int, frame: FrameType | None) -> None:
        if received:
            os._exit(128 + signum)
        received.append(signum)
        os.write(2, b"\nThis step ends first; the same again ends the run at once.\n")

    def interruption() -> Interrupted | None:
        sweep = multiprocessing.parent_process()
        if not received and sweep is not None and not sweep.is_alive():
            received.append(signal.SIGHUP)
        return Interrupted(received[0]) if received else None

    with handled_by(keep):
        yield interruption
    if received:
        raise Interrupted(received[0])  # it came after the last step had asked


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise Interrupted(signum)
