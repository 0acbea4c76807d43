"""Every mistake in a command as one sentence: what is wrong, where, and what to do."""

import errno
import json
import re
from collections.abc import Collection
from dataclasses import fields, is_dataclass
from enum import EnumMeta
from typing import Any, get_args, get_origin, get_type_hints

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    OmegaConfBaseException,
    ValidationError,
)

from conf.elsewhere import called_elsewhere
from conf.errors import did_you_mean
from conf.keys import by_name, text_keys
from gpt2.config import ModelConfig

# The settings of every kind of model.
COMMON = tuple(entry.name for entry in fields(ModelConfig))
# Hydra's words for an override that it cannot apply.
OVERRIDDEN = re.compile(r"Could not override '([^']+)'")
# Its words for a launcher that is not installed, and the extras that install it.
NO_LAUNCHER = re.compile(r"(?:Unknown plugin class|Could not load) .*(joblib|submitit)")
EXTRAS = {"joblib": "joblib", "submitit": "cluster"}
# What a person may type for a value of a type.
VALUES = {
    int: ["a whole number"],
    float: ["a number"],
    bool: ["true", "false"],
    str: ["a text"],
    list: ["a list"],
    dict: ["settings in braces, {NAME: VALUE}"],
    type(None): ["null"],
}


def no_such_key(name: str, model: Collection[Any] = COMMON) -> str:
    """The message for a key that the configuration does not have.

    It suggests another only if there is one: `model` are the keys of the configured model.
    """
    known = [key for key in by_name() if not key.startswith("model.") or key[6:] in model]
    for key in by_name():
        if key not in known and f"{name}.".startswith(f"{key}."):
            return f"This model has no setting {key}; another kind of model has it."
    parts = [(key, *key.rpartition(".")[::2]) for key in known]
    everywhere = {end: key for key, _, end in parts}
    beginning = name.partition(".")[0]
    name = beginning if beginning in everywhere and beginning not in known else name
    ours = called_elsewhere(name)
    if ours and re.split("[=,]", ours)[0] in known:
        return f"There is no setting {name}; use {ours}."
    name = name if beginning in known else beginning
    section, _, last = name.rpartition(".")
    beside = {end: key for key, its_section, end in parts if its_section == section}
    near = did_you_mean(last, beside)
    if not near and section == "model" and "arguments" in model:
        near = " What a custom model takes is in model.arguments."
    near = near or did_you_mean(last, everywhere)
    return f"There is no setting {name}.{near} conf/schema.py has them all."


def _no_such_hydra_key(error: OmegaConfBaseException) -> str:
    """The message for a key that a section of Hydra's own configuration does not have."""
    name, key = str(error.full_key), str(error.key)
    known = {str(other): f"{name.removesuffix(key)}{other}" for other in error.parent_node}
    near = did_you_mean(key, known)
    may_be_new = error.object_type is dict and not near
    advice = " A new one begins with +." if may_be_new else ""
    return f"There is no setting {name}.{near}{advice} --cfg hydra shows them all."


def _wrong_value(error: ValidationError) -> str | None:
    """The message for a value that is not of its key's type; None if the type is not known."""
    kind: Any = None
    if is_dataclass(error.object_type):
        kind = get_type_hints(error.object_type).get(error.key)
    elif isinstance(error.key, int):  # of a list
        kind = get_args(error.ref_type)[-1]
    value = error.value
    value = json.dumps(value) if value is None or isinstance(value, bool) else value
    given = f"{error.full_key}={value}"
    if get_origin(kind) is list and error.value is not None:
        return f"{given}: write a list: {error.full_key}=[{value}]."
    *others, last = _values(kind) or [""]
    allowed = f"{', '.join(others)} or {last}" if others else last
    return f"{given}: give {allowed}." if allowed else None


def _values(kind: Any) -> list[str]:
    """What may be typed for a type, in words; nothing if it is not known."""
    if isinstance(kind, EnumMeta):
        return list(kind.__members__)
    origin, parts = get_origin(kind) or kind, get_args(kind)
    if origin is tuple:
        return [f"a list of {len(parts)} values"]
    plain = VALUES.get(dict if is_dataclass(kind) else origin)
    return plain or [words for part in parts for words in _values(part)]  # of a union


def sentence(mistake: Exception) -> str:
    """An error of Hydra, OmegaConf or the system in one line, without their inner details."""
    if isinstance(mistake, OSError) and mistake.filename:
        full = mistake.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "free some space" if full else "check the path and its permissions"
        return f"{mistake.filename}: {mistake.strerror}; {advice}, or give another folder."
    if isinstance(mistake, OverrideParseException):
        word, (key, equals, value) = mistake.override, mistake.override.partition("=")
        if not equals:
            return f"{word}: write a setting and its value, such as +stage=step07 or seed=2."
        if key.lstrip("+") in text_keys() and not {*value} & {*"\"'"}:
            return f'{word}: this text needs quotes of its own: {key}="{value}".'
        return f"{word}: this cannot be read; write one setting and its value in Hydra's syntax."
    text = str(mistake)
    if missing := NO_LAUNCHER.search(text):
        return (
            "This launcher needs a package that is not installed: "
            f"pip install 'gpt2-ladder[{EXTRAS[missing[1]]}]'."
        )
    is_its_own = isinstance(mistake, OmegaConfBaseException)
    cause = mistake if is_its_own else mistake.__cause__ or mistake.__context__
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and (key := OVERRIDDEN.match(text)):
        if key[1].startswith("hydra"):
            return _no_such_hydra_key(cause)
        name = max(key[1], str(cause.full_key), key=len)  # train={stepz:3}
        place = cause.parent_node
        model = place if name.startswith("model.") else place.get("model", COMMON)
        return no_such_key(name, list(model))
    if isinstance(cause, ValidationError) and (wrong := _wrong_value(cause)):
        # Only where a file holds the value, Hydra repeats the cause, after the file's name.
        in_file = not is_its_own and str(cause) in text
        return f"{text.partition(':')[0]}: {wrong}" if in_file else wrong
    if isinstance(mistake, MissingConfigException) and mistake.options is not None:
        group, _, name = str(mistake.missing_cfg_file).rpartition("/")
        options = ", ".join(mistake.options)
        near = did_you_mean(name, mistake.options)
        if "*" in name:
            near = f" Several at once are glob({name})."
        return f"There is no {group} {name!r}.{near} There are {options}."
    if isinstance(mistake.__cause__, OmegaConfBaseException):
        text += f": {mistake.__cause__}"
    inner = ("full_key:", "reference_type=", "object_type=", "Config search path:", "provider=")
    lines = [line.strip() for line in text.splitlines()]
    kept = " ".join(line for line in lines if line and not line.startswith(inner))
    return kept if kept.endswith((".", "?")) else f"{kept}."
