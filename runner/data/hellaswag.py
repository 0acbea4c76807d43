"""HellaSwag's items (Zellers et al., 2019): a text, and four endings; one of them is right."""

import codecs
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Len, Lt, MinLen

from conf.errors import UsageError
from conf.schema import validator
from runner.files import known_sha256


@dataclass(frozen=True)
class Item:
    """A line of hellaswag_val.jsonl, without the fields that are not needed here."""

    ctx: Annotated[str, MinLen(1)]
    endings: Annotated[list[str], Len(4, 4)]
    label: Annotated[int, Ge(0), Lt(4)]


def read_items(path: str, most: int | None) -> list[Item]:
    """The first `most` items of a file, or all. Raises UsageError and OSError."""
    from pydantic import ValidationError

    items: dict[int, Item] = {}
    number = 0
    try:
        with Path(os.path.expanduser(path)).open("rb") as file:
            for number, line in enumerate(file, 1):
                if len(items) == most:
                    break
                if (line := line.removeprefix(codecs.BOM_UTF8)).strip():
                    items[number] = validator(Item).validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        reason = ": ".join([".".join(map(str, first["loc"])), first["msg"]])
        raise _refused(path, f"line {number} is not an item ({reason})") from None
    if not items:
        raise _refused(path, "it has no item")
    return list(items.values())


def items_sha256(path: str, cache_dir: Path) -> str:
    """The hash of a file of items. Raises UsageError if it cannot be read."""
    try:
        return known_sha256(Path(os.path.expanduser(path)), cache_dir)
    except OSError as error:
        raise _refused(path, str(error.strerror)) from None


def _refused(path: str, reason: str) -> UsageError:
    return UsageError(
        f"evaluation.hellaswag={path}: {reason}; give a file like hellaswag_val.jsonl, a line of "
        "JSON an item, with ctx, four endings and the label of the right one."
    )
