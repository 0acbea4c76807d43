"""HellaSwag's items (Zellers et al., 2019): a text, and four endings of which one is right."""

import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Len, Lt, MinLen

from conf.errors import UsageError
from conf.schema import validator
from runner.files import known_sha256

FORMAT = "a line of JSON an item, with ctx, four endings and the label of the right one"


@dataclass(frozen=True)
class Item:
    """A line of hellaswag_val.jsonl, without the fields that are not needed here."""

    ctx: Annotated[str, MinLen(1)]
    endings: Annotated[list[str], Len(4, 4)]
    label: Annotated[int, Ge(0), Lt(4)]


def read_items(path: str, most: int | None) -> list[Item]:
    """The first `most` items of a file, or all. Raises UsageError for what is no such file."""
    from pydantic import ValidationError

    items: dict[int, Item] = {}
    try:
        with Path(os.path.expanduser(path)).open(encoding="utf-8-sig") as file:
            lines = (line for line in enumerate(file, 1) if line[1].strip())
            for number, line in itertools.islice(lines, most):
                items[number] = validator(Item).validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UsageError(
            f"evaluation.hellaswag={path}: line {number} is no item "
            f"({key and key + ': '}{first['msg']}); give a file like hellaswag_val.jsonl, {FORMAT}."
        ) from None
    except UnicodeDecodeError:
        raise UsageError(f"evaluation.hellaswag={path}: it is not text; give {FORMAT}.") from None
    except OSError as error:
        raise _unreadable(path, error) from None
    if not items:
        raise UsageError(f"evaluation.hellaswag={path}: it has no item; give {FORMAT}.")
    return list(items.values())


def items_sha256(path: str, cache_dir: Path) -> str:
    """The hash of a file of items. Raises UsageError where it cannot be read."""
    try:
        return known_sha256(Path(os.path.expanduser(path)), cache_dir)
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: str, error: OSError) -> UsageError:
    return UsageError(
        f"evaluation.hellaswag={path}: {error.strerror}; give the file hellaswag_val.jsonl."
    )
