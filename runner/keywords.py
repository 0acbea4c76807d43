"""Settings as keywords of a call from Python, turned into the overrides of a command."""

import contextlib
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, get_origin

from hydra.errors import HydraException

from conf.errors import UsageError
from conf.keys import keys
from runner.overrides import NAMES_RUNS, parse


def in_words(
    settings: Mapping[str, Any], sweeping: bool = False, section: str = ""
) -> Iterator[str]:
    """An override for each setting; sections are mappings, and `model` may be what returns one.

    If `sweeping`, several values of a setting that holds one are several runs.
    """
    for name, value in settings.items():
        key = f"{section}{name}"
        if key == "model" and not isinstance(value, str | Mapping):
            value = {"target": value}
        if key == "model" and isinstance(value, Mapping) and "target" in value:
            yield "model=custom"
        if isinstance(value, Mapping):
            yield from in_words(value, sweeping, f"{key}.")
            continue
        if key == "model.target" and not isinstance(value, str):
            value = _target(value)
        sign = "+" if key in NAMES_RUNS else ""
        several = sweeping and isinstance(value, Iterable) and not isinstance(value, str)
        if several and not _holds_several(key):
            yield f"{sign}{key}={','.join(_written(key, each) for each in value)}"
        else:
            yield f"{sign}{key}={_written(key, value)}"


def _holds_several(key: str) -> bool:
    """Whether one value of a setting is a list; of an argument of a custom model, it may be."""
    types = {known.name: known.type for known in keys()}
    return get_origin(types.get(key, list[Any])) in (list, tuple)


def _written(key: str, value: Any) -> str:
    """A value in Hydra's grammar, in quotes only where it would be read as something else."""
    with contextlib.suppress(HydraException):
        if isinstance(value, str) and parse([f"{key}={value}"])[key] == value:
            return value
    value = list(value) if isinstance(value, Iterable) and not isinstance(value, str) else value
    return json.dumps(value, ensure_ascii=False, default=str)


def _target(model: Callable[..., Any]) -> str:
    """The name, module:name, by which Python finds a class or a function. Raises UsageError."""
    if not (inspect.isclass(model) or inspect.isfunction(model)):
        raise UsageError(
            f"model={type(model).__name__}: give a class or a function that returns a model, and "
            "not a model; its arguments are in model={'target': ..., 'arguments': {...}}."
        )
    module, name = model.__module__, model.__qualname__
    if getattr(sys.modules.get(module), name, None) is not model:
        raise UsageError(
            f"model={name}: it is not found by this name in {module}; define it at the top level "
            "of a script, a notebook or a module."
        )
    return f"{module}:{name}"
