"""The YAML files of the configuration, as this project and Hydra read them."""

import codecs
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra._internal.core_plugins import file_config_source
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from conf.errors import UsageError


class FileConfigSource(file_config_source.FileConfigSource):  # type: ignore[misc]  # no types
    """Hydra's reader of files, in whose place it stands; Hydra wants it to have the same name."""

    def load_config(self, config_path: str) -> ConfigResult:
        with _errors_of(Path(self.path, f"{config_path.removesuffix('.yaml')}.yaml")):
            return super().load_config(config_path)

    def is_config(self, config_path: str) -> bool:
        found: bool = super().is_config(config_path)
        file = Path(self.path, f"{config_path}.yaml")
        if not found and os.path.lexists(file):  # a folder, or a link to nowhere
            read_yaml(file)
        if not found and file.with_suffix(".yml").is_file():
            raise UsageError(misnamed(file.with_suffix(".yml")))
        return found


def read_yaml(file: Path) -> DictConfig | ListConfig:
    """A file of the configuration. Raises UsageError where it cannot be read as one."""
    with _errors_of(file):
        return OmegaConf.load(file)


def misnamed(file: Path) -> str:
    """What to say of a file that ends in .yml."""
    return f"{file}: only files that end in .yaml are read; call it {file.stem}.yaml."


@contextmanager
def _errors_of(file: Path) -> Iterator[None]:
    """Raise a UsageError that names the file for whatever is wrong with it."""
    try:
        with file.open("rb") as opened:
            if opened.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8:
                raise UsageError(f"{file} begins with a byte order mark; save it as UTF-8 without.")
        yield
    except UnicodeDecodeError:
        raise UsageError(f"{file} is no text in UTF-8; save it in this encoding.") from None
    except RecursionError:
        raise UsageError(f"{file} is nested too deeply; write it with fewer levels.") from None
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"{file} cannot be read: {reason}; replace or remove it.") from None
    except (YAMLError, OmegaConfBaseException, ValueError) as error:
        raise UsageError(f"{file} is no valid YAML: {' '.join(str(error).split())}.") from None
