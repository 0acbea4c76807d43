"""What a command prints: lines on standard output, and errors as one sentence."""

import errno
import io
import os
import re
import sys
from collections.abc import Collection
from contextlib import suppress
from dataclasses import fields
from typing import Any, NoReturn

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    OmegaConfBaseException,
)
from rich.console import Console
from typing_extensions import Buffer

from conf.elsewhere import called_elsewhere
from conf.errors import did_you_mean
from conf.keys import keys
from gpt2.config import ModelConfig
from runner import world

# The settings of every kind of model.
COMMON = tuple(entry.name for entry in fields(ModelConfig))
# Hydra's words for an override that it cannot apply.
OVERRIDDEN = re.compile(r"Could not override '([^']+)'")
# Its words for one value in place of a list.
NO_LIST = re.compile(r"Error merging override (\S+?)=(\S+): .* not a ListConfig")
# Its words for a launcher that is not installed, and the extras that install it.
NO_LAUNCHER = re.compile(r"(?:Unknown plugin class|Could not load) .*(joblib|submitit)")
EXTRAS = {"joblib": "joblib", "submitit": "cluster"}


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
            file = io.BufferedWriter(Unfailing(number, "w", closefd=False))
            encoding = getattr(stream, "encoding", "utf-8")
            text = io.TextIOWrapper(file, encoding, "backslashreplace", line_buffering=True)
            setattr(sys, name, text)


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


def no_such_key(name: str, model: Collection[Any] = COMMON) -> str:
    """The message for a key that the configuration does not have.

    It suggests another only if there is one: `model` are the keys of the configured model.
    """
    every = [key.name for key in keys()]
    known = [key for key in every if not key.startswith("model.") or key[6:] in model]
    for key in every:
        if key not in known and f"{name}.".startswith(f"{key}."):
            return f"This model has no setting {key}; another kind of model has it."
    ours = called_elsewhere(name)
    if ours and ours.partition("=")[0] in known:
        return f"There is no setting {name}; use {ours}."
    if (beginning := name.partition(".")[0]) not in known:
        name = beginning
    section, _, last = name.rpartition(".")
    parts = [(key, *key.rpartition(".")[::2]) for key in known]
    beside = {end: key for key, its_section, end in parts if its_section == section}
    everywhere = {end: key for key, _, end in parts}
    near = did_you_mean(last, beside) or did_you_mean(last, everywhere)
    return f"There is no setting {name}.{near} conf/schema.py has them all."


def sentence(mistake: Exception) -> str:
    """An error of Hydra, OmegaConf or the system in one line, without their inner details."""
    if isinstance(mistake, OSError) and mistake.filename:
        full = mistake.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "free some space" if full else "check the path and its permissions"
        return f"{mistake.filename}: {mistake.strerror}; {advice}, or give another folder."
    if isinstance(mistake, OverrideParseException):
        key, equals, value = mistake.override.partition("=")
        if not equals:
            return f"{mistake.override}: write a setting and its value, such as seed=2."
        if not value.startswith(("[", "{")):
            return f"{mistake.override}: this value needs quotes: '{key}=\"{value}\"'."
    text = str(mistake)
    if missing := NO_LAUNCHER.search(text):
        return (
            "This launcher needs a package that is not installed: "
            f"pip install 'gpt2-ladder[{EXTRAS[missing[1]]}]'."
        )
    unknown = isinstance(mistake.__cause__, ConfigKeyError | ConfigAttributeError)
    if unknown and (key := OVERRIDDEN.match(text)) and not key[1].startswith("hydra"):
        place = getattr(mistake.__cause__, "parent_node", {})
        model = place if key[1].startswith("model.") else place.get("model", COMMON)
        return no_such_key(key[1], list(model))
    if isinstance(mistake, MissingConfigException) and mistake.options is not None:
        group, _, name = str(mistake.missing_cfg_file).rpartition("/")
        options = ", ".join(mistake.options)
        near = did_you_mean(name, mistake.options)
        if "*" in name:
            near = f" Several at once are glob({name})."
        return f"There is no {group} {name!r}.{near} There are {options}."
    if isinstance(mistake.__cause__, OmegaConfBaseException):
        text += f": {mistake.__cause__}"
    if wanted := NO_LIST.match(text):
        setting, value = wanted.groups()
        return f"{setting}={value}: write a list: {setting}=[{value}]."
    inner = ("full_key:", "reference_type=", "object_type=", "Config search path:", "provider=")
    lines = [line.strip() for line in text.splitlines()]
    kept = " ".join(line for line in lines if line and not line.startswith(inner))
    return kept if kept.endswith((".", "?")) else f"{kept}."
