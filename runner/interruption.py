"""Signals that ask a run to end: the step under way ends first, a second signal ends it at once."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

# A closed terminal, Ctrl-C, what a scheduler sends, and what a sweep tells its stage.
ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

Handler = Callable[[int, FrameType | None], Any] | int | None


class Interrupted(KeyboardInterrupt):
    """A signal asked the command to end; the exit status of it is 128 + `signum`."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"Ended by {signal.Signals(signum).name}.")
        self.signum = signum


def heed(handler: Handler = None) -> dict[signal.Signals, Handler]:
    """Have a signal that asks to end raise Interrupted, or call `handler`; returns what was.

    A signal that is ignored, as under nohup, stays ignored.
    """
    before: dict[signal.Signals, Handler] = {s: signal.getsignal(s) for s in ENDING}
    for signum, current in before.items():
        if current is not signal.SIG_IGN:
            signal.signal(signum, handler or _interrupt)
    return before


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise Interrupted(signum)


class AfterStep:
    """While this context is open, the first signal is kept for the loop to ask about."""

    def __init__(self) -> None:
        self.signum: int | None = None

    def __enter__(self) -> "AfterStep":
        self._before = heed(self._keep)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        if self.signum is not None and error is None:
            raise Interrupted(self.signum)  # it came after the last step had asked

    def interruption(self) -> Interrupted | None:
        """What to raise now that a step has ended, if the run is to end with it."""
        sweep = multiprocessing.parent_process()
        if self.signum is None and sweep is not None and not sweep.is_alive():
            self.signum = signal.SIGHUP
        return None if self.signum is None else Interrupted(self.signum)

    def _keep(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            os._exit(128 + signum)
        self.signum = signum
        os.write(2, b"\nThis step ends first; the same again ends the run at once.\n")
