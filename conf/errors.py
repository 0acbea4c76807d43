"""The errors that are shown to the user as one sentence, without a traceback."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches


class UsageError(Exception):
    """An error that the user can correct; its message says what is wrong, where, and what to do."""


class Reported(UsageError):
    """A UsageError that is already printed, or that another process prints."""


class LostProcess(UsageError):
    """Several processes train a run, and another one of them failed, ended or hangs."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question that suggests the nearest known word; empty if no word is near.

    For a mapping it suggests the value of the nearest key.
    """
    for near in get_close_matches(word, list(known), n=1, cutoff=0.75):
        return f" Did you mean {known[near] if isinstance(known, Mapping) else near}?"
    return ""
