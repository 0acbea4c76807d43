"""What a command prints: lines on standard output, and errors as one sentence."""

import errno
import io
import json
import os
import re
import sys
from contextlib import suppress
from dataclasses import is_dataclass
from enum import EnumMeta
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

from hydra.errors import MissingConfigException
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    OmegaConfBaseException,
    ValidationError,
)
from rich.console import Console
from typing_extensions import Buffer

from conf.errors import did_you_mean
from conf.keys import keys
from runner import world

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


class Unfailing(io.FileIO):
    """A file for output: what cannot be written is lost without an error."""

    def write(self, text: Buffer, /) -> int:
        with suppress(OSError):
            return super().write(text) or 0  # None if it is full and does not block
        return memoryview(text).nbytes


def open_streams() -> None:
    """Make this process's standard streams accept every write and every character."""
    while (null := os.open(os.devnull, os.O_RDWR)) <= 2:  # in place of a closed one
        os.set_inheritable(null, True)
    os.close(null)
    for number, name in ((1, "stdout"), (2, "stderr")):
        if (stream := getattr(sys, name)) is getattr(sys, f"__{name}__"):
            setattr(sys, name, _unfailing(number, getattr(stream, "encoding", "utf-8")))


def _unfailing(number: int, encoding: str) -> io.TextIOWrapper:
    file = io.BufferedWriter(Unfailing(number, "w", closefd=False))
    return io.TextIOWrapper(file, encoding, "backslashreplace", line_buffering=True)


def divert_errors(file: Path) -> None:
    """Have what is started from here on print its errors into a file, unlike this process."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as opened:
        sys.stderr = _unfailing(os.dup(2), sys.stderr.encoding)  # which others do not inherit
        os.dup2(opened.fileno(), 2)


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print a line exactly as it is: no markup, no highlighting, no wrapping."""
    console.print(text, style=style, highlight=False, markup=False, emoji=False, soft_wrap=True)


def warn(console: Console, text: str) -> None:
    """Print a warning."""
    say(console, text, "yellow")


def error(message: str) -> None:
    """Print an error on standard error.

    Several processes meet the same mistake; only the first one that meets it prints it.
    """
    if world.is_first_to_say(message):
        say(Console(stderr=True), message, "red")


def fail(message: str) -> NoReturn:
    """Print an error on standard error and exit with status 2."""
    error(message)
    sys.exit(2)


def duration(seconds: float) -> str:
    """A duration as text, in the unit that suits it."""
    minutes = seconds / 60
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def no_such_key(name: str) -> str:
    """The message for a key that the configuration does not have."""
    known = {key.name: key.name for key in keys()}
    if name in known and name.startswith("model."):
        return f"This model has no setting {name}; another kind of model has it."
    if "." not in name:
        known = {key.rpartition(".")[2]: key for key in known} | known
    return f"There is no setting {name}.{did_you_mean(name, known)} --cfg job shows them all."


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
        return no_such_key(max(key[1], str(cause.full_key), key=len))  # train={stepz:3}
    if isinstance(cause, ValidationError) and (wrong := _wrong_value(cause)):
        # Only where a file holds the value, Hydra repeats the cause, after the file's name.
        in_file = not is_its_own and str(cause) in text
        return f"{text.partition(':')[0]}: {wrong}" if in_file else wrong
    if isinstance(mistake, MissingConfigException) and mistake.options is not None:
        group, _, name = str(mistake.missing_cfg_file).rpartition("/")
        options = ", ".join(mistake.options)
        near = did_you_mean(name, mistake.options)
        return f"There is no {group} {name!r}.{near} There are {options}."
    if isinstance(mistake.__cause__, OmegaConfBaseException):
        text += f": {mistake.__cause__}"
    inner = ("full_key:", "reference_type=", "object_type=", "Config search path:", "provider=")
    lines = [line.strip() for line in text.splitlines()]
    kept = " ".join(line for line in lines if line and not line.startswith(inner))
    return kept if kept.endswith((".", "?")) else f"{kept}."
