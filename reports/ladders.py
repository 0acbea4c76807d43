"""Comparisons as ladders: those of one experiment under equal conditions and settings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from conf.schema import Aim
from reports.compare import Comparison, Key
from reports.read import Row


@dataclass(frozen=True)
class Group:
    """Comparisons with one key; `stages` are those of the stages as they are, if there are any.

    `replaced`: a stage as it was before its overlay was edited.
    """

    comparisons: list[Comparison]
    stages: list[Comparison]
    replaced: bool = False

    @property
    def key(self) -> Key:
        """That of its comparisons."""
        return self.stages[0].key

    @property
    def experiment(self) -> str:
        return self.key[0]

    @property
    def runs(self) -> list[Row]:
        """The runs of the stages, one a seed."""
        return list({run.run: run for stage in self.stages for run in stage.arm.runs}.values())

    @cached_property
    def names(self) -> set[str]:
        """The names of the stages' runs, repeats included."""
        return {name for stage in self.stages for name in stage.arm.names}

    @cached_property
    def ladder(self) -> list[Comparison]:
        """The stages that can be compared: all but the short flow check."""
        return [stage for stage in self.stages if stage.aim is not Aim.flow]

    @property
    def baseline(self) -> Comparison | None:
        """The baseline, where it has finished."""
        found = (s for s in self.stages if s.aim is Aim.baseline and s.is_plain and s.arm.finished)
        return next(found, None)

    @property
    def tops(self) -> list[Comparison]:
        """The finished stages on which no finished one stands: the ends of the ladder's branches.

        In the order of the ladder.
        """
        done = [stage for stage in self.ladder if stage.arm.finished]
        below = {name for stage in done for name in stage.chain[1:]}
        return [stage for stage in done if stage.stage not in below]

    @property
    def seeds(self) -> list[int]:
        return sorted({run.seed for run in self.runs})


def find_groups(found: Sequence[Comparison]) -> list[Group]:
    """The groups, the main one first.

    That is the one with the most finished stages, then the most stages, then one without typed
    settings, then the most seeds, then the newest.
    """
    by_key: dict[object, list[Comparison]] = defaultdict(list)
    for each in found:
        by_key[each.key].append(each)
    groups = []
    for members in by_key.values():
        # What a plan compares with a reference of its own is no stage of the ladder.
        plain = [each for each in members if each.is_on_parent]
        newest = {m.stage: m for m in sorted(plain, key=lambda m: m.arm.newest.started)}
        ladder = [m for m in plain if newest[m.stage] is m]  # an overlay may have been edited
        groups.append(Group(members, ladder or members))
        groups += [Group([m], [m], replaced=True) for m in plain if newest[m.stage] is not m]
    return sorted(groups, key=_rank, reverse=True)


def _rank(group: Group) -> tuple[Any, ...]:
    stages = group.stages
    plain = all(stage.is_plain for stage in stages), not group.replaced
    size = sum(bool(stage.arm.finished) for stage in stages), len(stages)
    untyped = not any(stage.typed for stage in stages)
    return *plain, *size, untyped, len(group.seeds), max(run.started for run in group.runs)
