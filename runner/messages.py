"""Errors as a person reads them: one sentence on standard error."""

import errno
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from conf.errors import UsageError
from runner.interruption import Interrupted, heed


@contextmanager
def told_in_a_sentence() -> Iterator[None]:
    """Runs a Hydra command whose user's mistakes end in one sentence and status 2.

    A signal that asks it to end gives 128 and the signal's number: 130 for Ctrl-C. With
    HYDRA_FULL_ERROR set by hand mistakes end in their traceback.
    """
    keep_traceback = "HYDRA_FULL_ERROR" in os.environ
    os.environ["HYDRA_FULL_ERROR"] = "1"  # without it Hydra prints errors itself and exits
    logging.disable(logging.WARNING)
    heed()
    try:
        yield
    except Interrupted as interrupted:
        sys.exit(128 + interrupted.signum)
    except (UsageError, HydraException, OmegaConfBaseException, OSError) as error:
        if keep_traceback:
            raise
        fail(sentence(error))
    except Exception as error:
        if keep_traceback or not _is_from_composing(error):
            raise
        fail(f"{' '.join(sys.argv[1:])}: Hydra cannot use this ({sentence(error)})")


def _is_from_composing(error: Exception) -> bool:
    """Whether Hydra, or what reads its overrides, stumbled over something it does not check."""
    (*_, (frame, _)) = traceback.walk_tb(error.__traceback__)
    package = str(frame.f_globals.get("__name__")).split(".")[0]
    return package in ("hydra", "omegaconf", "antlr4", "yaml")


def sentence(error: Exception) -> str:
    """An error of Hydra, OmegaConf or the system in one line, without their inner details."""
    if isinstance(error, OSError) and error.filename:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "free some room" if full else "check the path and its permissions"
        return f"{error.filename}: {error.strerror}; {advice}, or give another folder."
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override!r} cannot be read as an override; write key=value, and a value with "
            "special characters in quotes: key='\"value\"'."
        )
    told = str(error)
    if isinstance(error.__cause__, OmegaConfBaseException):
        told += f": {error.__cause__}"
    inner = ("full_key:", "reference_type=", "object_type=", "Config search path:", "provider=")
    lines = [line.strip() for line in told.splitlines()]
    kept = " ".join(line for line in lines if line and not line.startswith(inner))
    return kept if kept.endswith(".") else f"{kept}."


def tell(message: str) -> None:
    """Says what is wrong on standard error."""
    Console(stderr=True).print(message, style="red", highlight=False, markup=False, soft_wrap=True)


def fail(message: str) -> NoReturn:
    """Says what is wrong on standard error and exits with 2."""
    tell(message)
    sys.exit(2)
