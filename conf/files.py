"""How a file of the configuration is read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from conf.errors import UsageError


def read_yaml(file: Path, read: Callable[[], Any] | None = None) -> Any:
    """A file of the configuration, as `read` does. Raises UsageError where it cannot be read."""
    try:
        if file.suffix == ".yml":
            raise ValueError(f"only files that end in .yaml are; call it {file.stem}.yaml")
        if file.read_bytes().startswith(b"\xef\xbb\xbf"):
            raise ValueError("it begins with a byte order mark; save it without")
        return read() if read else OmegaConf.load(file)
    except Exception as error:  # YAML, OmegaConf and Hydra have errors of their own
        reason = " ".join(str(error).split())
        raise UsageError(f"{file} cannot be read as YAML in UTF-8: {reason}.") from None
