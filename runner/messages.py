"""Errors as a person reads them: one sentence on standard error."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from gpt2.errors import UsageError


@contextmanager
def told_in_a_sentence() -> Iterator[None]:
    """Runs a Hydra command whose user's mistakes end in one sentence and status 2, Ctrl-C in 130.

    With HYDRA_FULL_ERROR set by hand they end in their traceback.
    """
    keep_traceback = "HYDRA_FULL_ERROR" in os.environ
    os.environ["HYDRA_FULL_ERROR"] = "1"  # without it Hydra prints errors itself and exits
    logging.disable(logging.WARNING)
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    except (UsageError, HydraException, OmegaConfBaseException, OSError) as error:
        if keep_traceback:
            raise
        fail(sentence(error))


def sentence(error: Exception) -> str:
    """An error of Hydra, OmegaConf or the system in one line, without their inner details."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}; check the path and its permissions."
    told = str(error)
    if isinstance(error.__cause__, OmegaConfBaseException):
        told += f": {error.__cause__}"
    inner = ("full_key:", "reference_type=", "object_type=", "Config search path:", "provider=")
    lines = [line.strip() for line in told.splitlines()]
    kept = " ".join(line for line in lines if line and not line.startswith(inner))
    return kept if kept.endswith(".") else f"{kept}."


def fail(message: str) -> NoReturn:
    """Says what is wrong on standard error and exits with 2."""
    Console(stderr=True).print(message, style="red", highlight=False, markup=False, soft_wrap=True)
    sys.exit(2)
