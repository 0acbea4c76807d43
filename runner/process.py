"""A process of its own for each stage of a sweep: a stage that crashes does not end the sweep."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from conf.errors import UsageError
from runner.interruption import ENDING, Interrupted, handled_by, install_handlers
from runner.messages import error, sentence

# Exit status of a process that could not start its work, and has printed the reason.
NOT_STARTED = 2


def in_own_process(work: Callable[..., None], *arguments: Any) -> int:
    """Call `work` in a new process; returns its exit status, negative for a signal that ended it.

    The first signal that asks this process to end is passed on, the second kills the new process.
    Raises Interrupted when it has ended.
    """
    method = "spawn"
    if sys.platform == "linux":
        # A stage forked after these imports does not repeat them.
        import torch._inductor.compile_fx  # noqa: F401

        import runner.training.loop  # noqa: F401

        method = "fork"
    context: Any = multiprocessing.get_context(method)
    process = context.Process(target=_child, args=(work, *arguments))
    received: list[int] = []

    def relay(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        if len(received) == 1:
            os.kill(process.pid, signal.SIGUSR1)
        else:
            process.kill()

    # A signal that arrives before the process has started waits until it can be passed on.
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    with handled_by(relay):
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        process.join()
    if received:
        raise Interrupted(received[0], at_once=len(received) > 1)
    return int(process.exitcode)


def _child(work: Callable[..., None], *arguments: Any) -> None:
    # A terminal signals every process of the sweep; this one only obeys the sweep.
    for signum in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    install_handlers()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    try:
        work(*arguments)
    except Interrupted as interrupted:
        sys.exit(128 + interrupted.signum)
    except (UsageError, OSError) as mistake:
        error(sentence(mistake))
        sys.exit(NOT_STARTED)
