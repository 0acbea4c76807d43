"""The ladder, read from the overlays in conf/stage and in folders of the user's own."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

CONF = Path(__file__).parent.parent / "conf"


@dataclass(frozen=True)
class Stage:
    """A rung: what it is called and what it changes of the rung it stands on.

    `changes` maps dotted configuration keys to the values that the overlay sets; `number` counts
    rungs from the bottom of the ladder.
    """

    name: str
    title: str
    aim: str
    guide: str
    parent: str | None
    number: int
    changes: dict[str, Any]


def read_ladder(config_dirs: Iterable[Path] = ()) -> list[Stage]:
    """Every stage in the order in which they build on each other, then by name.

    `config_dirs` are searched before the project's own, as Hydra's --config-dir is.
    """
    overlays: dict[str, DictConfig] = {}
    for folder in (*config_dirs, CONF):
        for file in sorted((folder / "stage").glob("*.yaml")):
            overlay = OmegaConf.load(file)
            if isinstance(overlay, DictConfig):
                overlays.setdefault(file.stem, overlay)
    parents = {name: _parent(overlay) for name, overlay in overlays.items()}
    stages = []
    for name, overlay in overlays.items():
        about = overlay.get("stage") or {}
        stages.append(
            Stage(
                name=name,
                title=about.get("title", name),
                aim=about.get("aim", ""),
                guide=about.get("guide", ""),
                parent=parents[name],
                number=_number(name, parents),
                changes=flatten(overlay, leave_out=("defaults", "stage")),
            )
        )
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


def _parent(overlay: DictConfig) -> str | None:
    named = [entry for entry in overlay.get("defaults", []) if entry != "_self_"]
    return str(named[0]) if named else None


def _number(name: str, parents: dict[str, str | None]) -> int:
    number, seen = 1, {name}
    while (parent := parents.get(name)) is not None and parent not in seen:
        seen.add(parent)
        name, number = parent, number + 1
    return number
