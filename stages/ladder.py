"""The ladder, read from the overlays in conf/stage and in folders of the user's own."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.errors import UsageError
from conf.files import read_yaml
from conf.keys import role_of
from conf.schema import Aim, Role, StageConf

CONF = Path(__file__).parent.parent / "conf"


@dataclass(frozen=True)
class Stage:
    """A stage: what it is about, its parent, and what it changes."""

    name: str
    about: StageConf
    parent: str | None
    number: int  # its place on the ladder: 1 for a flow check, from 2 in the chain
    changes: dict[str, Any]  # dotted configuration key -> the value that the overlay sets
    choices: list[str]  # what else its defaults list chooses, such as another model


def read_ladder(config_dirs: Iterable[Path] = (), problems: list[str] | None = None) -> list[Stage]:
    """Every stage, sorted by number and then by name.

    `config_dirs` are searched before the project's own, as Hydra's --config-dir is. An overlay that
    is not valid is left out, and what is wrong joins the `problems`; without such a list, raises
    UsageError.
    """
    overlays: dict[str, DictConfig] = {}
    abouts: dict[str, StageConf] = {}
    pattern = "*.yaml" if problems is None else "*.y*ml"
    for name, file in group_files("stage", config_dirs, pattern).items():
        try:
            overlay = _load(file)
            abouts[name] = _about(file, overlay)
        except UsageError as mistake:
            if problems is None:
                raise
            problems.append(str(mistake))
            continue
        overlays[name] = overlay
    chosen = {
        name: [entry for entry in overlay.get("defaults", []) if entry != "_self_"]
        for name, overlay in overlays.items()
    }
    parents = {
        name: next((entry for entry in entries if isinstance(entry, str)), None)
        for name, entries in chosen.items()
    }
    stages = [
        Stage(
            name,
            about,
            parents[name],
            _number(name, about, parents),
            _settings(overlays[name]),
            [str(entry) for entry in chosen[name] if entry != parents[name]],
        )
        for name, about in abouts.items()
    ]
    return sorted(stages, key=lambda stage: (stage.number, stage.name))


def flatten(plain: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of nested mappings by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in plain.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dictionaries from dotted keys: the reverse of `flatten`."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, last = key.split(".")
        part = nested
        for section in sections:
            part = part.setdefault(section, {})
        part[last] = value
    return nested


def _settings(overlay: DictConfig) -> dict[str, Any]:
    """What an overlay sets, by dotted key, enums as names."""
    plain = OmegaConf.to_container(overlay, enum_to_str=True)
    assert isinstance(plain, dict)
    return {
        key: value
        for key, value in flatten(plain).items()
        if key != "defaults" and role_of(key) is not Role.asked
    }


def group_files(
    group: str, config_dirs: Iterable[Path] = (), pattern: str = "*.yaml"
) -> dict[str, Path]:
    """The file of every choice of a configuration group by name; `config_dirs` come first.

    Raises UsageError for a folder that is not there.
    """
    files: dict[str, Path] = {}
    for folder in (*config_dirs, CONF):
        if not folder.is_dir():
            raise UsageError(f"--config-dir={folder}: there is no such folder.")
        for file in sorted((folder / group).glob(pattern)):
            files.setdefault(file.stem, file)
    return files


def _load(file: Path) -> DictConfig:
    """An overlay. Raises UsageError where it is none."""
    overlay = read_yaml(file)
    if not file.read_text(encoding="utf-8").lstrip().startswith("# @package _global_"):
        raise UsageError(f"{file}: its first line must be '# @package _global_'.")
    if not isinstance(overlay, DictConfig):
        raise UsageError(f"{file} sets nothing; write keys with their values.")
    if not isinstance(overlay.get("defaults", ListConfig([])), ListConfig):
        raise UsageError(f"{file}: write a list of defaults, such as [step07, _self_].")
    return overlay


def _about(file: Path, overlay: DictConfig) -> StageConf:
    """An overlay's description of its stage; missing fields are not inherited from its parent."""
    if file.stem == "report":
        raise UsageError(f"{file}: report is the folder of the report; name the stage otherwise.")
    plain = StageConf(name=file.stem, title=file.stem, aim=Aim.loss, guide="", claims={})
    try:
        about = OmegaConf.to_object(OmegaConf.merge(plain, overlay.get("stage") or {}))
    except OmegaConfBaseException as error:
        raise UsageError(f"{file}: stage: {str(error).splitlines()[0]}.") from None
    assert isinstance(about, StageConf)
    if wrong := {key: gain for key, gain in about.claims.items() if not 0 < gain < math.inf}:
        raise UsageError(
            f"{file}: stage.claims={wrong}: a speed-up is a ratio above 0, such as 1.3."
        )
    if about.name != file.stem:
        raise UsageError(f"{file}: stage.name is {about.name}; leave it out, or name it so too.")
    return about


def _number(name: str, about: StageConf, parents: Mapping[str, str | None]) -> int:
    if about.aim is Aim.flow:
        return 1
    chain = [name]
    while (parent := parents.get(chain[-1])) is not None and parent not in chain:
        chain.append(parent)
    return 1 + len(chain)
