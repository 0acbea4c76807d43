"""What a command says: lines for a person, and a mistake as one sentence on standard error."""

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
from runner.interruption import Interrupted, install_handlers


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print a line exactly as it is: no markup, no highlighting, no wrapping."""
    console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def warn(console: Console, text: str) -> None:
    """Print a line that asks for attention."""
    say(console, text, "yellow")


def error(message: str) -> None:
    """Print what is wrong on standard error."""
    say(Console(stderr=True), message, "red")


def fail(message: str) -> NoReturn:
    """Print what is wrong on standard error and exit with status 2."""
    error(message)
    sys.exit(2)


@contextmanager
def mistakes_in_a_sentence() -> Iterator[None]:
    """Run a Hydra command so that a user's mistake ends in one sentence and status 2.

    A signal that asks the command to end gives status 128 plus the signal's number: 130 for
    Ctrl-C. With HYDRA_FULL_ERROR set by hand, mistakes end in their traceback.
    """
    keep_traceback = "HYDRA_FULL_ERROR" in os.environ
    os.environ["HYDRA_FULL_ERROR"] = "1"  # without it Hydra prints errors itself and exits
    logging.disable(logging.WARNING)
    install_handlers()
    try:
        yield
    except Interrupted as interrupted:
        if interrupted.at_once:
            sys.stdout.flush()
            os._exit(128 + interrupted.signum)
        sys.exit(128 + interrupted.signum)
    except (UsageError, HydraException, OmegaConfBaseException, OSError) as mistake:
        if keep_traceback:
            raise
        fail(sentence(mistake))
    except Exception as mistake:
        if keep_traceback or not _is_from_composing(mistake):
            raise
        fail(f"{' '.join(sys.argv[1:])}: Hydra cannot use this ({sentence(mistake)})")


def _is_from_composing(mistake: Exception) -> bool:
    """Whether Hydra, or the parser of its overrides, failed on something it does not check."""
    (*_, (frame, _)) = traceback.walk_tb(mistake.__traceback__)
    package = str(frame.f_globals.get("__name__")).split(".")[0]
    return package in ("hydra", "omegaconf", "antlr4", "yaml")


def sentence(mistake: Exception) -> str:
    """An error of Hydra, OmegaConf or the system in one line, without their inner details."""
    if isinstance(mistake, OSError) and mistake.filename:
        full = mistake.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "free some space" if full else "check the path and its permissions"
        return f"{mistake.filename}: {mistake.strerror}; {advice}, or give another folder."
    if isinstance(mistake, OverrideParseException):
        return (
            f"{mistake.override!r} cannot be read as an override; write key=value, and a value "
            "with special characters in quotes: key='\"value\"'."
        )
    text = str(mistake)
    if isinstance(mistake.__cause__, OmegaConfBaseException):
        text += f": {mistake.__cause__}"
    inner = ("full_key:", "reference_type=", "object_type=", "Config search path:", "provider=")
    lines = [line.strip() for line in text.splitlines()]
    kept = " ".join(line for line in lines if line and not line.startswith(inner))
    return kept if kept.endswith(".") else f"{kept}."
