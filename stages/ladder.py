"""The ladder, read from the overlays in conf/stage and in the user's folders."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
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
    beyond: bool  # it, or a stage that it is built on, is beyond the guide: after the ladder's last
    changes: dict[str, Any]  # dotted configuration key -> the value that the overlay sets
    choices: list[str]  # what else its defaults list chooses, such as another model


def read_ladder(config_dirs: Iterable[Path] = (), problems: list[str] | None = None) -> list[Stage]:
    """Every stage, sorted by number and then by name.

    `config_dirs` are searched before the project's folder, like Hydra's --config-dir. An invalid
    overlay is left out, and its error is added to `problems`. Without such a list, raises
    UsageError.
    """
    found: dict[str, Stage] = {}
    pattern = "*.yaml" if problems is None else "*.y*ml"
    for name, file in group_files("stage", config_dirs, pattern).items():
        try:
            found[name] = _read(file)
        except UsageError as mistake:
            if problems is None:
                raise
            problems.append(str(mistake))
    parents = {stage.name: stage.parent for stage in found.values()}
    stages = []
    for stage in found.values():
        chain = [found[name] for name in lineage(stage.name, parents) if name in found]
        above = [each.about.beyond for each in reversed(chain)]  # the lowest stage first
        deep = len(above) - above.index(True) if any(above) else 0
        number = deep or (1 if stage.about.aim is Aim.flow else 1 + len(chain))
        stages.append(replace(stage, number=number, beyond=deep > 0))
    last = max((stage.number for stage in stages if not stage.beyond), default=0)
    stages = [replace(s, number=s.number + last * s.beyond) for s in stages]
    return sorted(stages, key=lambda stage: (stage.number, stage.name))


def lineage(stage: str, parents: Mapping[str, str | None]) -> list[str]:
    """The names of a stage, its parent, and so on downwards; it ends if they repeat."""
    found: list[str] = []
    name: str | None = stage
    while name and name not in found:
        found.append(name)
        name = parents.get(name)
    return found


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


def group_files(
    group: str, config_dirs: Iterable[Path] = (), pattern: str = "*.yaml"
) -> dict[str, Path]:
    """The file of every choice of a configuration group by name; `config_dirs` come first.

    Raises UsageError for a missing folder.
    """
    files: dict[str, Path] = {}
    for folder in (*config_dirs, CONF):
        if not folder.is_dir():
            raise UsageError(f"{folder}: there is no such folder of stages and plans.")
        for file in sorted((folder / group).glob(pattern)):
            files.setdefault(file.stem, file)
    return files


def _read(file: Path) -> Stage:
    """A stage without its place. Raises UsageError if the file is not an overlay."""
    overlay = read_yaml(file)
    if not file.read_text(encoding="utf-8").lstrip().startswith("# @package _global_"):
        raise UsageError(f"{file}: its first line must be '# @package _global_'.")
    if not isinstance(overlay, DictConfig):
        raise UsageError(f"{file} sets nothing; write keys with their values.")
    plain: Any = OmegaConf.to_container(overlay, enum_to_str=True)
    defaults = plain.pop("defaults", [])
    if not isinstance(defaults, list):
        raise UsageError(f"{file}: write a list of defaults, such as [step07, _self_].")
    chosen = [entry for entry in defaults if entry != "_self_"]
    parent = next((entry for entry in chosen if isinstance(entry, str)), None)
    flat = flatten(plain)
    changes = {key: value for key, value in flat.items() if role_of(key) is not Role.asked}
    others = [str(entry) for entry in chosen if entry != parent]
    return Stage(file.stem, _about(file, overlay), parent, 0, False, changes, others)


def _about(file: Path, overlay: DictConfig) -> StageConf:
    """An overlay's description of its stage; missing fields are not inherited from its parent."""
    if file.stem == "report":
        raise UsageError(f"{file}: report is the report's folder; give the stage another name.")
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
        raise UsageError(f"{file}: stage.name is {about.name}; remove it, or use the file's name.")
    return about
