"""The rows and columns of a run's tables: steps.csv, held_out.csv and asked.csv."""

import contextlib
import csv
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

STEPS = "steps.csv"
HELD_OUT = "held_out.csv"
ASKED = "asked.csv"
CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
# The first steps of each start are slow: caches are cold, and memory is touched for the first time.
COLD_STEPS = 3


def described(doc: str, column: str | None = None, **default: Any) -> Any:
    """A field of a record: what it holds, and its column's name if it is not the field's."""
    return field(metadata={"doc": doc, "column": column}, **default)


optional = partial(described, default=None)  # null if there is nothing to say


@dataclass(frozen=True)
class Step:
    """One optimizer step."""

    step: int = described("optimizer step, from 0")
    loss: float = described("training loss, mean over the step's micro batches, nats/token")
    grad_norm: float = described("global L2 norm of the gradient before clipping")
    lr: float = described("learning rate")
    step_ms: float = described("wall milliseconds of the step")
    tokens: int = described("tokens trained on in the step")

    @property
    def is_finite(self) -> bool:
        """Whether training can go on from the step's loss and norm."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.step_ms * 1e3

    def line(self) -> str:
        """The step's line of the log, in the guide's form."""
        return (
            f"step {self.step}, loss: {self.loss}, norm: {self.grad_norm:.4f}, "
            f"dt: {self.step_ms:.2f}ms\n"
        )


@dataclass(frozen=True)
class Window:
    """The loss on one window of held-out text."""

    step: int = described("optimizer steps taken before it was measured")
    first_token: int = described("position of the window's first token in the held-out text")
    tokens: int = described("tokens predicted in the window")
    loss: float = described("mean loss of these tokens, nats/token")


@dataclass(frozen=True)
class Asked:
    """One command's request for the run.

    Hashes are the first 16 hexadecimal digits of SHA-256. Two runs are compared if the `reference`
    of one is the `settings` of the other.
    """

    stage: str = described("the requested stage, even if the run is recorded as another one")
    without: str = described("the steps taken back from it, joined by commas, or empty")
    plus: str = described("the steps added to it, joined by commas, or empty")
    typed: str = described("typed settings that decide losses, without a recipe's: JSON by key")
    plan: str = described("name of the plan that requested it, or empty")
    settings: str = described("hash of the settings that decide losses")
    base: str = described("hash of these settings without the stage; all stages share it")
    reference: str = described("`settings` of what it is compared with, or empty")
    reference_command: str = described("command that trains what it is compared with, or empty")


def columns(kind: type) -> dict[str, str]:
    """What each column holds: of a table, Step, Window or Asked, or of a run and its parts."""
    found: dict[str, str] = {}
    for entry in fields(kind):
        if "doc" in entry.metadata:
            found[entry.metadata["column"] or entry.name] = entry.metadata["doc"]
        elif isinstance(entry.type, type) and is_dataclass(entry.type):
            found |= columns(entry.type)
    return found


def warm_steps(steps: int, resumed_at: Iterable[int] = ()) -> list[bool]:
    """Which steps count for speed: not the first ones of each start, unless there are no others."""
    cold = {start + i for start in (0, *resumed_at) for i in range(COLD_STEPS)}
    warm = [step not in cold for step in range(steps)]
    return warm if any(warm) else [True] * steps


def read_asked(folder: Path) -> list[Asked]:
    """The distinct lines of asked.csv in a run's folder, in order; [] if it cannot be read.

    A line that is not whole, or has other columns, is left out.
    """
    header = list(columns(Asked))
    asked: dict[Asked, None] = {}
    with contextlib.suppress(OSError, csv.Error):  # csv.Error if the last line is cut short
        text = printable((folder / ASKED).read_bytes().decode(errors="replace"))
        lines = (f"{line}\n" for line in text.split("\n")[:-1])
        for row in csv.reader(lines, strict=True):
            if len(row) == len(header) and row != header:
                asked[Asked(*row)] = None
    return list(asked)


def printable(value: Any) -> Any:
    """JSON without control characters, which no page and no terminal should get."""
    match value:
        case str():
            return CONTROL_CHARACTERS.sub("\N{REPLACEMENT CHARACTER}", value)
        case list():
            return [printable(entry) for entry in value]
        case dict():
            return {printable(key): printable(entry) for key, entry in value.items()}
    return value
