"""The errors that are shown to the user as one sentence, without a traceback."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches


class UsageError(Exception):
    """An error that the user can correct; its message says what is wrong, where, and what to do."""


class Reported(UsageError):
    """One that has been printed, or that another process prints."""


class LostProcess(UsageError):
    """Of several processes that train a run, another one failed, ended or hangs."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The nearest of the known words as a question after a sentence; empty where none is near.

    Of a mapping it is what the nearest key stands for.
    """
    for near in get_close_matches(word, list(known), n=1):
        return f" Did you mean {known[near] if isinstance(known, Mapping) else near}?"
    return ""
