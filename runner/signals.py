"""Signals that ask a run to end: the first lets the current step finish, the second does not."""

import atexit
import math
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from filelock import FileLock

from runner import world

# A sweep sends this to ask its stages and its workers to end.
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


def obey_the_sweep_only() -> None:
    """Ignore what a terminal or a scheduler sends to every process: the sweep passes it on."""
    for signum in ENDING:
        if signum is not REQUEST:
            signal.signal(signum, signal.SIG_IGN)


def install_handlers(handler: Handler) -> dict[signal.Signals, Handler]:
    """Have every ending signal call `handler`; returns the earlier handlers.

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


@dataclass
class ThisProcess:
    """What the runner knows about this process: a command's, a stage's or a launcher's.

    `command` is its id if it is a command's; a fork has another id. `asked` are the signals that
    have asked it to end. `place` says which worker of `hydra/launcher=cores` it is.
    """

    command: int = 0
    asked: list[int] = field(default_factory=list)
    place: FileLock | None = None

    @property
    def is_command(self) -> bool:
        """Whether this is a command's own process, and not a launcher's worker."""
        return self.command == os.getpid()

    @property
    def shares_the_machine(self) -> bool:
        """Whether other runs of the sweep train on this machine at the same time."""
        return self.place is not None

    def begin_command(self) -> None:
        """Have ending signals end this process, the command's own."""
        self.command = os.getpid()
        install_handlers(self.end)
        # Python drops handlers when it exits; a signal would then change the exit status.
        atexit.register(install_handlers, signal.SIG_IGN)

    def end(self, signum: int, frame: FrameType | None = None) -> None:
        """The handler: raises Interrupted, or first asks the processes started here to end.

        The code that waits for them then calls `raise_if_asked`. A second signal raises at once.
        """
        self.asked.append(signum)
        children = multiprocessing.active_children()
        if len(self.asked) > 1 or not children:
            self.raise_if_asked()
        for child in children:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(child.pid or 0, REQUEST)

    def raise_if_asked(self) -> None:
        """Raise Interrupted if a signal has asked this process to end."""
        if self.asked:
            raise Interrupted(self.asked[0], at_once=len(self.asked) > 1)

    def train(self, work: Callable[[], float]) -> float:
        """What `work` returns; NaN in a launcher's worker that is asked to end.

        The worker goes on, so that the launcher sees no failure and the sweep has its report.
        """
        if self.is_command:
            return work()
        # Ctrl-C reaches all that runs here, and submitit then ends its workers itself.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with suppress(Interrupted), handled_by(self.end):
            self.raise_if_asked()
            return work()
        if self.asked[-1] == signal.SIGUSR2:  # submitit's: it now puts the job into the queue again
            signal.raise_signal(signal.SIGUSR2)
        return math.nan


this_process = ThisProcess()


def say_why_first() -> None:
    """Keep signals from ending the first of several processes before it prints why it fails."""
    if world.size() > 1 and world.is_first():  # torchrun sends one to all when one has failed
        install_handlers(signal.SIG_IGN)


@contextmanager
def after_step() -> Iterator[Callable[[], Interrupted | None]]:
    """Hold the first ending signal back; yields a function that returns it as an exception.

    The loop calls the function after each step. A second signal ends the process at once, and
    in a script or a notebook only the run.
    """
    received: list[int] = []
    process_goes_on = signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def hold(signum: int, frame: FrameType | None) -> None:
        if received:
            if process_goes_on:
                raise Interrupted(signum)
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
