"""A process of its own for each stage of a sweep: a stage that crashes does not end the sweep.

CUDA cannot be used in a process forked after its parent has used it. So a stage is not forked from
the sweep's process, which may have, but from a server that only imports. Libraries that read the
environment when they are imported have that of a sweep's first stage.
"""

import codecs
import contextlib
import locale
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from importlib.machinery import PathFinder
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
from runner.messages import sentence
from runner.streams import open_streams

ROOT = str(Path(__file__).parent.parent)

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
    # The compiler reads files of its own in the locale's encoding, and they are UTF-8.
    is_utf8 = codecs.lookup(locale.getpreferredencoding(False)).name == "utf-8"
    preloaded = [*PRELOADED, COMPILER] if is_utf8 and not visible_gpus() else PRELOADED
    # The server looks in the current folder first, where a runner.py is not this project's.
    here = PathFinder.find_spec("runner", [str(Path.cwd())])
    shadowed = here is not None and not str(here.origin or ROOT).startswith(ROOT)
    multiprocessing.set_forkserver_preload([] if shadowed else preloaded)
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
        sys.path.insert(0, ROOT)  # lest it find a runner.py of the current folder first
        try:
            process.start()
        finally:
            sys.path.remove(ROOT)
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
    sys.path.remove(ROOT)
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
