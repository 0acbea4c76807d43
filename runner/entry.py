"""How a command begins and ends: what Hydra needs first, and every error as one sentence."""

import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from conf.errors import Reported, UsageError
from conf.reading import as_typed, register
from runner import world
from runner.messages import error, fail, open_streams
from runner.mistakes import EXTRAS, NO_LAUNCHER, sentence
from runner.signals import Interrupted, install_handlers, this_process

# What an error of these libraries means: a process ended before the run that it trained.
DIED = {
    "TerminatedWorkerError": "A worker was killed, and joblib ended the others",
    "UncompletedJobError": "A job ended before its run; what it printed is in .submitit",
    "FailedJobError": "A job ended before its run; what it printed is in .submitit",
}


@contextmanager
def errors_in_a_sentence() -> Iterator[None]:
    """Run a Hydra command so that a user's error ends in one sentence and status 2.

    A signal that ends the command gives 128 + its number: 130 for Ctrl-C. If the user has set
    HYDRA_FULL_ERROR, errors end in their traceback.
    """
    open_streams()
    register()
    sys.argv[1:] = as_typed(sys.argv[1:])
    keep_traceback = "HYDRA_FULL_ERROR" in os.environ
    os.environ["HYDRA_FULL_ERROR"] = "1"  # without it Hydra prints errors itself and exits
    logging.disable(logging.WARNING)
    this_process.begin_command()
    try:
        yield
    except Interrupted as interrupted:
        _end_interrupted(interrupted)
    except Exception as mistake:
        # OmegaConf raises its own errors when a signal interrupts it.
        cause: BaseException | None = mistake
        while cause is not None and not isinstance(cause, Interrupted):
            cause = cause.__context__
        if cause is not None:
            _end_interrupted(cause)
        if (died := DIED.get(type(mistake).__name__)) and not keep_traceback:
            error(f"{died}; the same command trains what is missing.")
            sys.exit(1)
        expected = isinstance(
            mistake, (UsageError, HydraException, OmegaConfBaseException, OSError)
        )
        beginning = "" if expected else _beginning(mistake)
        if keep_traceback or beginning is None:
            raise
        if isinstance(mistake, Reported):
            sys.exit(2 if world.is_first() else 0)  # the first of several may still train others
        fail(beginning + sentence(mistake))


def _end_interrupted(interrupted: Interrupted) -> NoReturn:
    status = 128 + interrupted.signum
    if interrupted.at_once:
        sys.stdout.flush()
        os._exit(status)
    # A sweep's report is still written at exit; another signal ends this too.
    install_handlers(lambda signum, frame: os._exit(status))
    sys.exit(status)


def _beginning(mistake: Exception) -> str | None:
    """The beginning of the sentence on a library's error; None if the command did not cause it."""
    if NO_LAUNCHER.search(str(mistake)):
        return ""
    if isinstance(mistake, RecursionError):
        return "A file of the configuration names itself in its defaults, or nests too deeply: "
    (*_, (frame, _)) = traceback.walk_tb(mistake.__traceback__)
    package = str(frame.f_globals.get("__name__")).split(".")[0]
    if package in EXTRAS:
        return "The launcher cannot start: "
    if package in ("hydra", "omegaconf", "antlr4", "yaml"):
        return f"{' '.join(sys.argv[1:])}: Hydra cannot compose this: "
    return None
