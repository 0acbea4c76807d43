"""Commands of runs, as their records hold them: read for what they train, and changed."""

from __future__ import annotations

import shlex
from collections.abc import Sequence


def trained_by(command: str) -> tuple[str, list[str], list[str]]:
    """The stage that a command trains, what it takes back and what it adds; "" for no command."""
    words = dict(word.lstrip("+").partition("=")[::2] for word in shlex.split(command)[3:])
    without, plus = (
        text.split(",") if (text := words.get(word, "").strip("[]")) else []
        for word in ("without", "plus")
    )
    return words.get("stage", ""), without, plus


def over_seeds(command: str, seeds: Sequence[int], words: Sequence[str] = ()) -> str:
    """A run's command for some seeds, with words that replace its own of the same key."""
    words = [*words, *([f"seed={','.join(map(str, seeds))}"] if seeds else [])]
    replaced = {"seed", "repeat", *(word.partition("=")[0] for word in words)}
    kept = [word for word in shlex.split(command)[3:] if word.partition("=")[0] not in replaced]
    sweeps = "-m " if any("," in word for word in words) else ""
    return f"python -m runner {sweeps}{shlex.join([*kept, *words])}"
