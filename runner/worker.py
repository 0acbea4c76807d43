"""What this process is: a command's own, or a worker in which a launcher has runs trained.

A signal ends the run that a worker trains, and not the worker, so that the launcher sees no failure
and the sweep has its report.
"""

import atexit
import contextlib
import itertools
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from runner.interruption import (
    REQUEST,
    Interrupted,
    handled_by,
    install_handlers,
    interrupt,
    obey_the_sweep_only,
)


@dataclass
class ThisProcess:
    """The state of the runner in one process.

    `command` is its process id where it is a command; a fork of it is none. `asked` are the signals
    that asked a worker to end, after which it trains nothing more. `place` is held for as long as
    it lives, and says which of the workers of a sweep it is.
    """

    command: int = 0
    asked: list[int] = field(default_factory=list)
    place: FileLock | None = None

    @property
    def is_command(self) -> bool:
        return self.command == os.getpid()

    @property
    def shares_the_machine(self) -> bool:
        """Whether other runs of the sweep train on this machine at the same time."""
        return self.place is not None

    def begin_command(self) -> None:
        """Have ending signals end this process, which is a command, and no worker of a launcher."""
        self.command = os.getpid()
        install_handlers()
        # Python drops handlers on its way out, and a signal would then give another status.
        atexit.register(install_handlers, signal.SIG_IGN)

    def train(self, work: Callable[[], float]) -> float:
        """What `work` returns; in a worker NaN, where it is or was asked to end."""
        if self.is_command:
            return work()
        # Ctrl-C reaches all that runs here, and submitit then ends its workers itself.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with handled_by(interrupt):
                if self.asked:
                    raise Interrupted(self.asked[0])
                return work()
        except Interrupted as interrupted:
            self.asked.append(interrupted.signum)
        if self.asked[-1] == signal.SIGUSR2:  # submitit's: it now puts the job into the queue again
            signal.raise_signal(signal.SIGUSR2)
        return math.nan


this_process = ThisProcess()


def begin(gpus: str, cache_dir: str) -> None:
    """Make this process a worker of `hydra/launcher=cores`, which calls this in each of them.

    `gpus` are this machine's, as CUDA_VISIBLE_DEVICES lists them; the worker takes one of them.
    """
    obey_the_sweep_only()
    signal.signal(REQUEST, lambda signum, frame: this_process.asked.append(signum))
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    folder = Path(cache_dir).expanduser() / "workers"
    folder.mkdir(parents=True, exist_ok=True)
    for number in itertools.count():  # the lowest that no other living worker of the sweep has
        place = FileLock(folder / f"{os.getppid()}-{number}.lock")
        with contextlib.suppress(Timeout):
            place.acquire(blocking=False)
            break
    this_process.place = place
    if gpus:
        names = gpus.split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = names[number % len(names)]


def _end_with(command: int) -> None:
    """End this process when the command has been killed; the stage that it trains notices that."""
    while os.getppid() == command:
        time.sleep(1)
    os._exit(1)
