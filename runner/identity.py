"""What identifies a run: hashes of everything its numbers depend on, and the code's commit."""

import hashlib
import importlib.metadata
import json
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from conf.keys import keys, role_of
from conf.schema import Config, Role
from gpt2.config import inert
from runner.overrides import override_key
from runner.source import read_source
from stages.ladder import flatten

ROOT = Path(__file__).parent.parent

# The code that changes a training step's numbers: the model, the data path and the loop. A changed
# word in another folder trains nothing again; in these, even a changed comment does.
NUMERIC_CODE = ("gpt2", "runner/data", "runner/training")


def as_plain(config: Config) -> dict[str, Any]:
    """A run's configuration as its record keeps it: JSON types, enums as their names."""
    plain = resolved(OmegaConf.structured(config))
    return {key: plain[key] for key in plain if role_of(key) is not Role.command}


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """A composed configuration as JSON types, enums as their names."""
    plain = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def measured(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a plain configuration that a run's numbers depend on, by dotted key."""
    return _with_roles(plain, Role.losses, Role.numbers, Role.round)


def conditions(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide losses. Composed without a stage, they hold for every stage."""
    return _with_roles(plain, Role.losses)


def _with_roles(plain: Mapping[str, Any], *roles: Role) -> dict[str, Any]:
    flat = flatten(plain)
    lacking = inert_keys(flat)
    return {k: v for k, v in flat.items() if role_of(k) in roles and k not in lacking}


def inert_keys(flat: Mapping[str, Any]) -> list[str]:
    """The settings that have no effect on a custom model, because it lacks their knobs."""
    if "model.target" not in flat:
        return []
    beginning = "model.knobs."
    knobs = [key.removeprefix(beginning) for key in flat if key.startswith(beginning)]
    return [f"model.{knob}" for knob in inert(knobs)]


def variant(overrides: Iterable[str]) -> list[str]:
    """The overrides that change what is measured, except those with their own field in the record.

    Such fields are the round, the device, and choices by name, such as a stage or a model.
    """
    shown = {Role.losses, Role.numbers, Role.asked}
    chosen = {key.name.rpartition(".")[0] for key in keys() if key.name.endswith(".name")}
    keyed = {override_key(override): override for override in overrides}
    changing = keyed.keys() - {"device", *chosen}
    return sorted(keyed[key] for key in changing if role_of(key) in shown)


def short_hash(settings: Any) -> str:
    """16 hexadecimal digits that tell settings apart; 1 and 1.0 are the same setting."""
    return _sha256(json.loads(json.dumps(settings), parse_float=_as_integer))[:16]


def _as_integer(text: str) -> float:
    """A number as an integer, if it is one."""
    return int(number) if (number := float(text)).is_integer() else number


def fingerprint(plain: dict[str, Any], data_sha256: str, hellaswag_sha256: str | None) -> str:
    """One hash of what a run's outcome depends on: configuration, files and code."""
    settings = measured(plain)
    return _sha256([settings, data_sha256, hellaswag_sha256, hash_with_source(settings)])


def label(config: Config, identity: str) -> str:
    """The name of a run's folder: its round, and the beginning of its fingerprint."""
    repeat = f"-repeat{config.repeat}" if config.repeat > 1 else ""
    return f"seed{config.seed}{repeat}-{identity[:8]}"


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@cache
def code_hash() -> str:
    """One hash of the code that decides a run's numbers, and of torch's version."""
    digest = hashlib.sha256(importlib.metadata.version("torch").encode())
    for room in NUMERIC_CODE:
        for source in sorted((ROOT / room).rglob("*.py")):
            digest.update(source.relative_to(ROOT).as_posix().encode() + source.read_bytes())
    return digest.hexdigest()


def hash_with_source(settings: Mapping[str, Any]) -> str:
    """`code_hash`; for a custom model, together with what the model is made of.

    That is its source, the files that its arguments name, and the versions of the packages that it
    imports. Raises UsageError if it has no source.
    """
    target = settings.get("model.target")
    if target is None:
        return code_hash()
    given = [v for k, v in settings.items() if k.startswith("model.arguments.")]
    named = [Path(value) for value in given if isinstance(value, str) and Path(value).is_file()]
    source = read_source(target)
    contents = [*(f.read_bytes() for f in [*source.files, *named]), *map(str.encode, source.texts)]
    hashes = [hashlib.sha256(content).hexdigest() for content in contents]
    return _sha256([code_hash(), source.versions, *hashes])


@cache
def commit() -> tuple[str | None, bool]:
    """The commit of this checkout and whether files differ from it; (None, False) outside git."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]
    try:
        described = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None, False
    head, dirty, _ = described.stdout.strip().partition("-dirty")
    return head, bool(dirty)
