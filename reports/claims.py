"""The guide's claims, each with its conditions and ours, and whether it held here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reports.compare import Group


@dataclass(frozen=True)
class Claim:
    """A claim and what was measured for it.

    `verdict` is held, held in part, smaller here, did not hold or not measured; `command` makes
    the run that is missing, and is empty where none is.
    """

    claim: str
    theirs: str
    ours: str
    measured: str
    verdict: str
    command: str = ""


def claims(groups: Sequence[Group]) -> list[Claim]:
    """The guide's claims in its order."""
    return []
