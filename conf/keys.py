"""The keys of the configuration: the type and the role of each, read from its schema."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, get_args, get_type_hints

from conf.schema import Config, ExporterConfig, Role, SamplerConfig
from gpt2.config import CustomConfig, GPTConfig, ModelConfig


@dataclass(frozen=True)
class Key:
    """A key of a configuration, dotted, with its type and its role."""

    name: str
    type: Any
    role: Role


def keys(kind: type = Config, prefix: str = "", role: Role | None = None) -> Iterator[Key]:
    """Every key of a configuration and of its sections; `role` holds for all of them."""
    types, hints = get_type_hints(kind), get_type_hints(kind, include_extras=True)
    for entry in fields(kind):
        notes = getattr(hints[entry.name], "__metadata__", ())
        own = next((note for note in notes if isinstance(note, Role)), None)
        if entry.name == "name":  # the name of the section's choice
            own = Role.name
        section, name = types[entry.name], f"{prefix}{entry.name}"
        yield Key(name, section, role or own or Role.losses)
        parts = (section, *get_args(section))  # a section that may be null is part of a union
        for below in (GPTConfig, CustomConfig) if section is ModelConfig else parts:
            if isinstance(below, type) and is_dataclass(below):
                yield from keys(below, f"{name}.", role or own)


@functools.cache
def role_of(name: str) -> Role:
    """The role of a dotted key. A key outside the schema, such as an argument, has its parent's."""
    known = by_name()
    while name not in known and "." in name:
        name = name.rpartition(".")[0]
    return known[name].role if name in known else Role.losses


@functools.cache
def text_keys() -> set[str]:
    """The keys of every command that hold a text, or a choice that may be none, such as a stage."""
    every = [key for kind in (Config, SamplerConfig, ExporterConfig) for key in keys(kind)]
    choices = {key.name for key in every if any(map(is_dataclass, get_args(key.type)))}
    return choices | {key.name for key in every if key.type in (str, str | None)}


@functools.cache
def by_name() -> dict[str, Key]:
    """Every key of a run's configuration by its name."""
    return {key.name: key for key in keys()}
