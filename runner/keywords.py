"""Settings as keywords of a call from Python, turned into the overrides of a command."""

import contextlib
import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from typing import Any, get_origin

from hydra.errors import HydraException

from conf.errors import UsageError
from conf.keys import by_name, text_keys
from runner.overrides import NAMES_RUNS, parse


def in_words(
    settings: Mapping[str, Any], sweeping: bool = False, section: str = ""
) -> Iterator[str]:
    """An override for each setting; sections are mappings, and `model` may be what returns one.

    If `sweeping`, several values of a setting that holds one are several runs. Raises UsageError.
    """
    for name, value in settings.items():
        key = f"{section}{name}"
        if key == "model" and callable(value):
            value = {"target": value}
        if key == "model" and isinstance(value, Mapping) and "target" in value:
            yield "model=custom"
        if isinstance(value, Mapping):
            yield from in_words(value, sweeping, f"{key}.")
            continue
        if key == "model.target" and not isinstance(value, str):
            value = _target(value)
        # An argument of a custom model has no type, and may be a list.
        kind = by_name()[key].type if key in by_name() else list[Any]
        holds_several = get_origin(kind) in (list, tuple)
        runs = list(value) if sweeping and _is_list(value) and not holds_several else [value]
        if not runs:
            raise UsageError(f"{key}: there is no value, and so no run; give at least one.")
        sign = "+" if key in NAMES_RUNS else ""
        yield f"{sign}{key}={','.join(_written(key, each) for each in runs)}"


def _is_list(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | Mapping)


def _written(key: str, value: Any) -> str:
    """A value in Hydra's grammar, in quotes only where it would be read as something else."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{k}: {_written(key, v)}' for k, v in value.items())}}}"
    if _is_list(value):
        return f"[{', '.join(_written(key, each) for each in value)}]"
    if hasattr(value, "item"):  # a number of NumPy or torch
        value = value.item()
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int | float):
        return repr(value)
    if callable(value):
        raise UsageError(f"{key}: a class or a function is given alone, as model=Net.")
    if not (key in by_name() or isinstance(value, str | Enum | os.PathLike)):
        raise UsageError(
            f"{key}: a {type(value).__name__} cannot be recorded; give the numbers, texts and "
            "lists that it is made of, and make it in the model."
        )
    text = value.name if isinstance(value, Enum) else str(value)
    if key in NAMES_RUNS or key in by_name().keys() - text_keys():
        return text  # a choice, or several values in words: "1,2,3"
    with contextlib.suppress(HydraException):
        if parse([f"{key}={text}"])[key] == text:
            return text
    # Of backslashes, only those before a quote are doubled.
    quoted = re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + (found[2] and '\\"'), text)
    return f'"{quoted}"'


def _target(model: Callable[..., Any]) -> str:
    """The name, module:name, by which Python finds a class or a function. Raises UsageError."""
    if not (inspect.isclass(model) or inspect.isfunction(model)):
        raise UsageError(
            f"model={type(model).__name__}: give a class or a function that returns a model, and "
            "not a model; its arguments are in model={'target': ..., 'arguments': {...}}."
        )
    module, name = model.__module__, model.__qualname__
    found = getattr(sys.modules.get(module), name, None)
    if found is None or (module == "__main__" and found is not model):
        raise UsageError(
            f"model={name}: it is not found by this name in {module}; define it at the top level "
            "of a script, a notebook or a module."
        )
    return f"{module}:{name}"
