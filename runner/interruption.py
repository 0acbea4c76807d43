"""Signals that ask a run to end: the first lets the current step finish, the second does not."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from runner import world

# By this a sweep asks its stages and its workers to end.
REQUEST = signal.SIGUSR1
# The others: a closed terminal, Ctrl-C, and a scheduler's requests.
ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, REQUEST)

Handler = Callable[[int, FrameType | None], Any] | int | None


class Interrupted(KeyboardInterrupt):
    """A signal ends the command with status 128 + `signum`.

    `at_once` means that a second signal came, so that nothing more may be written.
    """

    def __init__(self, signum: int, at_once: bool = False) -> None:
        super().__init__(f"Ended by {signal.Signals(signum).name}.")
        self.signum = signum
        self.at_once = at_once


def interrupt(signum: int, frame: FrameType | None) -> None:
    """The handler that raises Interrupted."""
    raise Interrupted(signum)


def obey_the_sweep_only() -> None:
    """Ignore what a terminal or a scheduler sends to every process: the sweep passes it on."""
    for signum in ENDING:
        if signum is not REQUEST:
            signal.signal(signum, signal.SIG_IGN)


def install_handlers(handler: Handler = interrupt) -> dict[signal.Signals, Handler]:
    """Have every ending signal raise Interrupted, or call `handler`; returns the handlers before.

    A signal that is ignored, as under nohup, stays ignored.
    """
    before: dict[signal.Signals, Handler] = {s: signal.getsignal(s) for s in ENDING}
    for signum, current in before.items():
        if current is not signal.SIG_IGN:
            signal.signal(signum, handler)
    return before


@contextmanager
def handled_by(handler: Handler) -> Iterator[None]:
    """Call `handler` for ending signals inside this context; those ignored in it stay ignored."""
    before = install_handlers(handler)
    try:
        yield
    finally:
        for signum, previous in before.items():
            if signal.getsignal(signum) is not signal.SIG_IGN:
                signal.signal(signum, previous)


def say_why_first() -> None:
    """Let no signal end the first of several processes before it has said why it fails."""
    if world.size() > 1 and world.is_first():  # torchrun sends one to all when one has failed
        install_handlers(signal.SIG_IGN)


@contextmanager
def after_step() -> Iterator[Callable[[], Interrupted | None]]:
    """Hold the first ending signal back; gives a function that returns it, as an exception.

    The loop calls the function after each step. A second signal ends the process at once.
    """
    received: list[int] = []

    def hold(signum: int, frame: FrameType | None) -> None:
        if received:
            os._exit(128 + signum)
        received.append(signum)
        if world.is_first():
            with suppress(OSError):  # its terminal is gone
                os.write(2, b"\nFinishing this step first; a second signal ends the run at once.\n")

    def interruption() -> Interrupted | None:
        sweep = multiprocessing.parent_process()
        if not received and sweep is not None and not sweep.is_alive():
            received.append(signal.SIGHUP)
        return Interrupted(received[0]) if received else None

    with handled_by(hold):
        try:
            yield interruption
        except (Exception, SystemExit):
            say_why_first()
            raise
    if received:
        raise Interrupted(received[0])  # it came after the last call of `interruption`
