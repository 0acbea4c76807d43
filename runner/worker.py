"""A worker: a process in which a launcher has runs of a sweep trained, one after the other.

A signal ends the run that it trains, and not the worker, so that the launcher sees no failure and
the sweep has its report.
"""

import contextlib
import itertools
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from runner.interruption import REQUEST, Interrupted, handled_by, interrupt, obey_the_sweep_only

# The signals that asked this worker to end; after one it trains nothing more.
_asked: list[int] = []
# What says which of the workers of a sweep this is, for as long as it lives.
_places: list[FileLock] = []


def begin(gpus: str, cache_dir: str) -> None:
    """Make this process a worker of `hydra/launcher=cores`, which calls this in each of them.

    `gpus` are this machine's, as CUDA_VISIBLE_DEVICES lists them; the worker takes one of them.
    """
    obey_the_sweep_only()
    signal.signal(REQUEST, lambda signum, frame: _asked.append(signum))
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    place = _take_place(Path(cache_dir).expanduser() / "workers")
    if gpus:
        names = gpus.split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = names[place % len(names)]


def shares_the_machine() -> bool:
    """Whether other runs of the sweep train on this machine at the same time."""
    return bool(_places)


def is_ending() -> bool:
    """Whether this worker trains nothing more."""
    return bool(_asked)


def in_worker(work: Callable[[], float]) -> float:
    """What `work` returns, or NaN where this worker is or was asked to end."""
    # Ctrl-C reaches all that runs here, and submitit then ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with handled_by(interrupt):
            if _asked:
                raise Interrupted(_asked[0])
            return work()
    except Interrupted as interrupted:
        _asked.append(interrupted.signum)
    if _asked[-1] == signal.SIGUSR2:  # submitit's, which now puts the job into the queue again
        signal.raise_signal(signal.SIGUSR2)
    return math.nan


def _end_with(command: int) -> None:
    """End this process when the command has been killed; the stage that it trains notices that."""
    while os.getppid() == command:
        time.sleep(1)
    os._exit(1)


def _take_place(folder: Path) -> int:
    """The lowest number that no other living worker of this sweep has."""
    folder.mkdir(parents=True, exist_ok=True)
    for place in itertools.count():
        lock = FileLock(folder / f"{os.getppid()}-{place}.lock")
        with contextlib.suppress(Timeout):
            lock.acquire(blocking=False)
            _places.append(lock)
            break
    return place
