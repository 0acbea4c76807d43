"""Errors as a person reads them: one sentence on standard error."""

import sys
from typing import NoReturn

from rich.console import Console


def sentence(error: Exception) -> str:
    """An error of Hydra, OmegaConf or the system in one line, without their inner details."""
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}; check the path and its permissions."
    lines = [line.strip() for line in str(error).splitlines()]
    inner = ("full_key:", "reference_type=", "object_type=")
    kept = [line for line in lines if line and not line.startswith(inner)]
    return " ".join(kept) + ("" if kept and kept[-1].endswith(".") else ".")


def fail(message: str) -> NoReturn:
    """Says what is wrong on standard error and exits with 2."""
    Console(stderr=True).print(message, style="red", highlight=False, markup=False, soft_wrap=True)
    sys.exit(2)
