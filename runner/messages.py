"""What a command prints: lines on standard output, and errors as one sentence."""

import errno
import io
import os
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from hydra.errors import MissingConfigException
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    OmegaConfBaseException,
)
from rich.console import Console
from typing_extensions import Buffer

from conf.errors import did_you_mean
from conf.keys import keys
from runner import world

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
    unknown = isinstance(mistake.__cause__, ConfigKeyError | ConfigAttributeError)
    if unknown and (key := OVERRIDDEN.match(text)) and not key[1].startswith("hydra"):
        return no_such_key(key[1])
    if isinstance(mistake, MissingConfigException) and mistake.options is not None:
        group, _, name = str(mistake.missing_cfg_file).rpartition("/")
        options = ", ".join(mistake.options)
        near = did_you_mean(name, mistake.options)
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
