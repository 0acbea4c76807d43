"""A process of its own for each stage of a sweep: a stage that crashes does not end the sweep.

CUDA cannot be used in a process forked after its parent has used it. So a stage is not forked from
the sweep's process, which may have, but from a server that only imports. Libraries that read the
environment when they are imported have that of a sweep's first stage.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

from conf.device import visible_gpus
from conf.errors import UsageError
from runner import world
from runner.interruption import (
    ENDING,
    REQUEST,
    Interrupted,
    handled_by,
    install_handlers,
    obey_the_sweep_only,
)
from runner.messages import open_streams, sentence

# What the server imports, once for all stages.
PRELOADED = ["runner.__main__", "runner.training.loop"]
# Only where there is no GPU, since importing it may ask CUDA, which then works in no stage.
COMPILER = "torch._inductor.compile_fx"


def in_own_process(work: Callable[..., None], *arguments: Any) -> int:
    """Call `work` in a new process; returns its exit status, negative for a signal that ended it.

    The first signal that asks this process to end is passed on, the second kills the new process.
    Raises Interrupted when it has ended, and UsageError with what it says is wrong.
    """
    method = "forkserver" if sys.platform == "linux" else "spawn"
    if multiprocessing.get_start_method() not in multiprocessing.get_all_start_methods():
        # A launcher's worker, as joblib's, has a method that the new process would not know.
        multiprocessing.set_start_method(method, force=True)
    preloaded = PRELOADED if visible_gpus() else [*PRELOADED, COMPILER]
    # It would import another runner, and the compiler reads files in UTF-8 by the locale.
    if Path("runner.py").exists() or sys.getfilesystemencoding() != "utf-8":
        preloaded = []
    multiprocessing.set_forkserver_preload(preloaded)
    context: Any = multiprocessing.get_context(method)
    reason, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(dict(os.environ), sender, work, *arguments))
    received: list[int] = []
    passed_on: list[int] = []

    def pass_on() -> None:
        while len(passed_on) < len(received):
            passed_on.append(signal.SIGKILL if passed_on else REQUEST)
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(process.pid, passed_on[-1])

    def relay(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        if process.pid is not None:
            pass_on()

    # The server, which is started here too, inherits that signals are blocked, and so is not ended
    # by one. multiprocessing's tracker is started first, because its start unblocks signals. One
    # that arrives before the process has started is passed on afterwards.
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    with handled_by(relay):
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        pass_on()
        process.join()
    if received:
        raise Interrupted(received[0], at_once=len(received) > 1)
    if reason.poll():
        raise UsageError(reason.recv())
    return int(process.exitcode)


def _child(
    environment: dict[str, str], reason: Connection, work: Callable[..., None], *arguments: Any
) -> None:
    # The server has the environment of the first stage, and this stage the sweep's of now.
    os.environ.clear()
    os.environ.update(environment)
    open_streams()
    obey_the_sweep_only()
    install_handlers()
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)  # one that waited ends it here
        work(*arguments)
    except Interrupted as interrupted:
        sys.exit(128 + interrupted.signum)
    except (UsageError, OSError) as mistake:
        if world.is_first():
            reason.send(sentence(mistake))
        sys.exit(2)  # as for every mistake in a command
