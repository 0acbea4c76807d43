"""The ladder, read from the overlays in conf/stage and in folders of the user's own."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.errors import UsageError
from conf.schema import Aim, StageConf

CONF = Path(__file__).parent.parent / "conf"


@dataclass(frozen=True)
class Stage:
    """A rung: what it is about and what it changes of the rung it stands on.

    `changes` maps dotted configuration keys to the values that the overlay sets. `number` is the
    place on the ladder: a flow check has 1, and the chain of stages begins at 2.
    """

    name: str
    about: StageConf
    parent: str | None
    number: int
    changes: dict[str, Any]


def read_ladder(config_dirs: Iterable[Path] = ()) -> list[Stage]:
    """Every stage in the order in which they build on each other, then by name.

    `config_dirs` are searched before the project's own, as Hydra's --config-dir is. Raises
    UsageError for an overlay that describes its stage in a way that cannot be read.
    """
    overlays: dict[str, DictConfig] = {}
    abouts: dict[str, StageConf] = {}
    for folder in (*config_dirs, CONF):
        for file in sorted((folder / "stage").glob("*.yaml")):
            overlay = OmegaConf.load(file)
            if isinstance(overlay, DictConfig) and file.stem not in overlays:
                overlays[file.stem] = overlay
                abouts[file.stem] = _about(file, overlay)
    parents = {name: _parent(overlay) for name, overlay in overlays.items()}
    stages = [
        Stage(
            name=name,
            about=abouts[name],
            parent=parents[name],
            number=1 if abouts[name].aim is Aim.flow else 1 + _depth(name, parents),
            changes=flatten(overlay, leave_out=("defaults", "stage")),
        )
        for name, overlay in overlays.items()
    ]
    return sorted(stages, key=lambda stage: (stage.number, stage.name))


def changes_between(before: DictConfig, after: DictConfig) -> dict[str, tuple[Any, Any]]:
    """The dotted keys in which two composed configurations differ, with both values resolved."""
    old, new = flatten(before, ("stage",), resolve=True), flatten(after, ("stage",), resolve=True)
    return {key: (old.get(key), new[key]) for key in new if old.get(key) != new[key]}


def flatten(
    config: DictConfig, leave_out: tuple[str, ...] = (), resolve: bool = False
) -> dict[str, Any]:
    """A configuration's leaves by dotted key; enums as their names."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, node: Any) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                walk(f"{prefix}.{key}" if prefix else str(key), value)
        else:
            flat[prefix] = node

    container = OmegaConf.to_container(config, resolve=resolve, enum_to_str=True)
    assert isinstance(container, dict)
    walk("", {key: value for key, value in container.items() if key not in leave_out})
    return flat


def _about(file: Path, overlay: DictConfig) -> StageConf:
    """What an overlay says of its stage; what it leaves out is not inherited from its parent."""
    plain = StageConf(name=file.stem, title=file.stem, aim=Aim.loss, guide="", claims=[])
    try:
        about = OmegaConf.to_object(OmegaConf.merge(plain, overlay.get("stage") or {}))
    except OmegaConfBaseException as error:
        raise UsageError(f"{file}: stage: {str(error).splitlines()[0]}") from error
    assert isinstance(about, StageConf)
    return about


def _parent(overlay: DictConfig) -> str | None:
    named = [entry for entry in overlay.get("defaults", []) if entry != "_self_"]
    return str(named[0]) if named else None


def _depth(name: str, parents: dict[str, str | None]) -> int:
    depth, seen = 1, {name}
    while (parent := parents.get(name)) is not None and parent not in seen:
        seen.add(parent)
        name, depth = parent, depth + 1
    return depth
