"""What a command prints: lines on standard output, and errors as one sentence."""

import errno
import io
import os
import re
import signal
import sys
import time
from contextlib import suppress
from typing import NoReturn

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)
from rich.console import Console
from typing_extensions import Buffer

from conf.errors import did_you_mean
from conf.schema import keys_with_types
from runner import world
from runner.interruption import install_handlers

# Hydra's words for a key of a file that no type has, and for an override that it cannot apply.
IN_A_FILE = re.compile(r"In '([^']+)':.*\sKey '(\w+)' not in", re.DOTALL)
CHOSEN_TWICE = re.compile(r"Multiple values for (\S+)\. .*'override \S+: (.+)'")
OVERRIDDEN = re.compile(r"Could not override '([^']+)'")
MERGED = re.compile(r"Error merging override ([^=]+)=(.*)")
# Its words where a launcher is not installed, and the extras that install it.
NO_LAUNCHER = re.compile(r"(?:Unknown plugin class|Could not load) .*(joblib|submitit)")
EXTRAS = {"joblib": "joblib", "submitit": "cluster"}
# How long a process leaves it to the first to say what is wrong.
PATIENCE_SECONDS = 30


class Unfailing(io.FileIO):
    """A file to write to: what can reach nobody, or no disk, is lost without an error."""

    def write(self, text: Buffer, /) -> int:
        with suppress(OSError):
            return super().write(text) or 0  # None where it is full and does not block
        return memoryview(text).nbytes


def open_streams() -> None:
    """Let no write to this process's own streams fail, and no character be refused."""
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
    console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def warn(console: Console, text: str) -> None:
    """Print a warning."""
    say(console, text, "yellow")


def error(message: str) -> None:
    """Print an error on standard error.

    Of several processes the first speaks; torchrun then ends the others, which wait for that.
    """
    if not world.is_first():
        install_handlers(signal.SIG_DFL)
        time.sleep(PATIENCE_SECONDS)
    say(Console(stderr=True), message, "red")


def fail(message: str) -> NoReturn:
    """Print an error on standard error and exit with status 2."""
    error(message)
    sys.exit(2)


def duration(seconds: float) -> str:
    """A duration in words, in the unit that suits it."""
    minutes = seconds / 60
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def no_such_key(key: str) -> str:
    """What to say of a key that the configuration does not have."""
    known = [name for name, _ in keys_with_types()]
    if key in known and key.startswith("model."):
        return f"This model has no setting {key}, which another kind of model has."
    if "." not in key:
        known += [name.rpartition(".")[2] for name in known]
    return f"There is no setting {key}.{did_you_mean(key, known)} --cfg job shows them all."


def sentence(mistake: Exception) -> str:
    """An error of Hydra, OmegaConf or the system in one line, without their inner details."""
    if isinstance(mistake, OSError) and mistake.filename:
        full = mistake.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "free some space" if full else "check the path and its permissions"
        return f"{mistake.filename}: {mistake.strerror}; {advice}, or give another folder."
    if isinstance(mistake, OverrideParseException):
        return (
            f"{mistake.override!r} cannot be read as an override; write key=value, and a value "
            "with special characters in quotes: key='\"value\"'."
        )
    text = str(mistake)
    if missing := NO_LAUNCHER.search(text):
        return (
            "This launcher needs a package that is not installed: "
            f"pip install 'gpt2-ladder[{EXTRAS[missing[1]]}]'."
        )
    if isinstance(mistake, MissingMandatoryValue):
        return f"{mistake.full_key} has no value here; add {mistake.full_key}=VALUE."
    unknown = isinstance(mistake.__cause__, ConfigKeyError | ConfigAttributeError)
    if unknown and (key := OVERRIDDEN.match(text)) and not key[1].startswith("hydra"):
        return no_such_key(key[1])
    if "Cannot merge DictConfig" in str(mistake.__cause__) and (merged := MERGED.match(text)):
        return (
            f"{merged[1]}={merged[2]}: write names with their values, {merged[1]}={{name: value}}."
        )
    if "is not a ListConfig" in str(mistake.__cause__) and (merged := MERGED.match(text)):
        return f"{merged[1]}={merged[2]}: write a list, {merged[1]}=[{merged[2]}]."
    if isinstance(mistake, MissingConfigException) and mistake.options is not None:
        group, _, name = str(mistake.missing_cfg_file).rpartition("/")
        options = ", ".join(mistake.options)
        near = did_you_mean(name, mistake.options)
        return f"There is no {group} {name!r}.{near} There are {options}."
    if chosen := CHOSEN_TWICE.match(text):
        return f"{chosen[1]} has a value already; write {chosen[1]}={chosen[2]}, without the +."
    if key := IN_A_FILE.match(text):
        return f"{key[1]}.yaml: {no_such_key(key[2])}"
    if isinstance(mistake.__cause__, OmegaConfBaseException):
        text += f": {mistake.__cause__}"
    inner = ("full_key:", "reference_type=", "object_type=", "Config search path:", "provider=")
    lines = [line.strip() for line in text.splitlines()]
    kept = " ".join(line for line in lines if line and not line.startswith(inner))
    return kept if kept.endswith((".", "?")) else f"{kept}."
