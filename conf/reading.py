"""What Hydra needs before it reads: types, resolvers, typed words, and its reader of files."""

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins import file_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from platformdirs import user_cache_dir

from conf.device import device_scale, runs_at_once, visible_gpus
from conf.files import read_yaml
from conf.keys import text_keys
from conf.schema import Config, ExporterConfig, SamplerConfig
from gpt2.config import CustomConfig, GPTConfig

# An override without lists, interpolations and functions except choice(). NUMBER finds in it quoted
# text, and what Hydra would read as a number or a truth value.
PLAIN = re.compile(r"\+{0,2}([\w.]+)=\s*(choice\()?[^][(){}$\\]*\)?\s*")
NUMBER = re.compile(
    r"""'[^']*'|"[^"]*"|(?<=[=,(])\s*([-+.\d][-+.\w]*|(?i:true|false|nan|inf))\s*(?=[,)]|$)"""
)


def as_typed(words: Sequence[str]) -> list[str]:
    """The words of a command, with quotes around texts that Hydra would read as numbers: 1.10."""
    return [
        NUMBER.sub(lambda found: f"'{found[1]}'" if found[1] else found[0], word)
        if (plain := PLAIN.fullmatch(word)) and plain[1] in text_keys()
        else word
        for word in words
    ]


class FileConfigSource(file_config_source.FileConfigSource):  # type: ignore[misc]  # no types
    """Hydra's reader of files, with errors that name the file; Hydra knows it by its name."""

    def load_config(self, config_path: str) -> Any:
        file = Path(self.path, f"{config_path.removesuffix('.yaml')}.yaml")
        return read_yaml(file, functools.partial(super().load_config, config_path))

    def is_config(self, config_path: str) -> bool:
        found: bool = super().is_config(config_path)
        for file in (Path(self.path, f"{config_path}.{ending}") for ending in ("yaml", "yml")):
            if not found and (file.exists() or file.is_symlink()):
                read_yaml(file)
        return found


def scale_model(scale: str | None) -> str:
    """The default model of a scale; `model=` on the command line has precedence."""
    return {"smoke": "nano", "mini": "mini"}.get(scale or "", "gpt2")


def times_accumulated(steps: int, *, _root_: DictConfig) -> int:
    """The steps that see as many tokens without accumulation as `steps` do with it."""
    train = _root_.train
    return steps * _root_.scale.accumulate_to_tokens // (train.micro_batch_size * train.context)


def register() -> None:
    """Register the types and the resolvers with Hydra; may be called again."""
    SourcesRegistry.instance().register(FileConfigSource)
    store = ConfigStore.instance()
    store.store(name="config_schema", node=Config)
    store.store(name="sampler_schema", node=SamplerConfig)
    store.store(name="exporter_schema", node=ExporterConfig)
    store.store(group="model/type", name="gpt2", node=GPTConfig)
    custom = OmegaConf.structured(CustomConfig)
    for name in ("arguments", "knobs"):  # any key may be given without a +
        custom[name] = {}
        OmegaConf.set_struct(custom[name], False)
    store.store(group="model/type", name="custom", node=custom)
    for resolver in (device_scale, runs_at_once, visible_gpus):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
    OmegaConf.register_new_resolver("scale_model", scale_model, replace=True)
    OmegaConf.register_new_resolver("times_accumulated", times_accumulated, replace=True)
    user_cache = functools.partial(user_cache_dir, "gpt2-ladder")
    OmegaConf.register_new_resolver("user_cache", user_cache, replace=True)
