"""How a file of the configuration is read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from conf.errors import UsageError


def read_yaml(file: Path, read: Callable[[], Any] | None = None) -> Any:
    """A configuration file, read by `read` or OmegaConf. Raises UsageError if that fails."""
    try:
        if file.suffix == ".yml":
            raise ValueError(f"its name must end in .yaml; rename it {file.stem}.yaml")
        if file.read_bytes().startswith(b"\xef\xbb\xbf"):
            raise ValueError("it begins with a byte order mark; save it without one")
        return read() if read else OmegaConf.load(file)
    except Exception as error:  # YAML, OmegaConf and Hydra have their own errors
        reason = " ".join(str(error).split())
        raise UsageError(f"{file} cannot be read as YAML in UTF-8: {reason}.") from None
