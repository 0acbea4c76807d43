"""Errors as a person reads them: one sentence on standard error."""

import sys
from typing import NoReturn

from omegaconf.errors import OmegaConfBaseException
from rich.console import Console


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
