"""The processes of a sweep: one for each stage, whose crash does not end it; and joblib's workers.

CUDA cannot be used in a process forked after its parent has used it. The sweep's process may have
used it, so a stage is forked from a server that only imports. Libraries that read the environment
on import see that of the sweep's first stage.
"""

import contextlib
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from conf.device import visible_gpus
from conf.errors import UsageError
from runner import world
from runner.messages import open_streams
from runner.mistakes import sentence
from runner.signals import (
    ENDING,
    REQUEST,
    Interrupted,
    handled_by,
    install_handlers,
    obey_the_sweep_only,
    this_process,
)

# What the server imports, once for all stages.
PRELOADED = ["runner.__main__", "runner.training.loop"]
# Only without a GPU: importing it may use CUDA, which then works in no stage.
COMPILER = "torch._inductor.compile_fx"


def in_own_process(work: Callable[..., None], *arguments: Any) -> int:
    """Call `work` in a new process; returns its exit status, negative for a signal that ended it.

    The first signal that asks this process to end is passed on, the second kills the new process.
    Raises Interrupted when it has then ended, and UsageError with the mistake that it reports.
    """
    method = "forkserver" if sys.platform == "linux" else "spawn"
    if multiprocessing.get_start_method() not in multiprocessing.get_all_start_methods():
        # A launcher's worker, such as joblib's, has a method that the new process lacks.
        multiprocessing.set_start_method(method, force=True)
    preloaded = PRELOADED if visible_gpus() else [*PRELOADED, COMPILER]
    # The server would import runner.py, or the compiler would not read its files as UTF-8.
    if Path("runner.py").exists() or sys.getfilesystemencoding() != "utf-8":
        preloaded = []
    multiprocessing.set_forkserver_preload(preloaded)
    context: Any = multiprocessing.get_context(method)
    reason, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(dict(os.environ), sender, work, *arguments))
    early: list[int] = []
    with handled_by(lambda signum, frame: early.append(signum)):
        # The server is started here too. It inherits the blocked signals, so that no signal ends
        # it. multiprocessing's tracker is started first, because its start unblocks signals.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    try:
        for signum in early:
            this_process.end(signum)
        process.join()
    except Interrupted:
        process.kill()
        process.join()
        raise
    this_process.raise_if_asked()
    if reason.poll():
        raise UsageError(reason.recv())
    return int(process.exitcode)


def _child(
    environment: dict[str, str], reason: Connection, work: Callable[..., None], *arguments: Any
) -> None:
    # The server has the first stage's environment; this stage needs the sweep's current one.
    os.environ.clear()
    os.environ.update(environment)
    open_streams()
    obey_the_sweep_only()
    install_handlers(this_process.end)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)  # a signal that waited ends it here
        work(*arguments)
    except Interrupted as interrupted:
        sys.exit(128 + interrupted.signum)
    except (UsageError, OSError) as mistake:
        if world.is_first():
            reason.send(sentence(mistake))
        sys.exit(2)  # as for every mistake in a command


def begin_worker(gpus: str, cache_dir: str) -> None:
    """Make this process a worker of `hydra/launcher=cores`, which calls this in each of them.

    `gpus` are this machine's, as CUDA_VISIBLE_DEVICES lists them; the worker takes one of them.
    """
    obey_the_sweep_only()
    signal.signal(REQUEST, lambda signum, frame: this_process.asked.append(signum))
    end_with_parent()
    folder = Path(cache_dir).expanduser() / "workers"
    folder.mkdir(parents=True, exist_ok=True)
    for number in itertools.count():  # the lowest that no other worker of the sweep holds
        place = FileLock(folder / f"{os.getppid()}-{number}.lock")
        with contextlib.suppress(Timeout):
            place.acquire(blocking=False)
            break
    this_process.place = place
    if gpus:
        names = gpus.split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = names[number % len(names)]


def end_with_parent() -> None:
    """End this process when its parent has ended; the stage that it trains notices that."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
