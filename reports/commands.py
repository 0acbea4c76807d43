"""Commands of runs, as their records hold them: read for what they train, and changed."""

import shlex
from collections.abc import Sequence


def trained_by(command: str) -> tuple[str, str, str]:
    """The stage that a command trains, what it takes back and what it adds, joined by commas."""
    words = dict(word.lstrip("+").partition("=")[::2] for word in shlex.split(command)[3:])
    stage, without, plus = (words.get(key, "") for key in ("stage", "without", "plus"))
    return stage, without.strip("[]"), plus.strip("[]")


def over_seeds(command: str, seeds: Sequence[int], words: Sequence[str] = ()) -> str:
    """A run's command for some seeds, with words that replace its own of the same key."""
    words = [*words, f"seed={','.join(map(str, seeds))}"]
    replaced = {"repeat", *(word.partition("=")[0] for word in words)}
    kept = [word for word in shlex.split(command)[3:] if word.partition("=")[0] not in replaced]
    sweeps = "-m " if any("," in word for word in words) else ""
    return f"python -m runner {sweeps}{shlex.join([*kept, *words])}"
