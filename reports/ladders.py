"""Comparisons as ladders: those of one experiment under equal conditions and settings."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from conf.schema import Aim
from reports.comparison import Comparison, Key


class Group:
    """Comparisons with one key; `stages` are those of the stages as they are, if there are any.

    `runs` are the stages' runs, one a seed, and `names` those of the repeats too. `ladder` are the
    stages that can be compared, all but the short flow check, `baseline` the one that has finished,
    and `tops` the finished stages of the guide on which no such one stands: the ends of branches.
    """

    def __init__(self, comparisons: list[Comparison], stages: list[Comparison]) -> None:
        self.comparisons, self.stages, self.key = comparisons, stages, stages[0].key
        self.experiment = self.key[0]
        self.runs = list({run.run: run for stage in stages for run in stage.arm.runs}.values())
        self.names = {name for stage in stages for name in stage.arm.names}
        self.seeds = sorted({run.seed for run in self.runs})
        self.ladder = [stage for stage in stages if stage.aim is not Aim.flow]
        done = [stage for stage in self.ladder if stage.arm.finished]
        baselines = (stage for stage in done if stage.aim is Aim.baseline and stage.is_plain)
        self.baseline = next(baselines, None)
        guide = [stage for stage in done if not stage.beyond]
        below = {name for stage in guide for name in stage.chain[1:]}
        self.tops = [stage for stage in guide if stage.stage not in below]
        self.is_compared = any(s.versus.pairs or s.baseline.pairs for s in self.ladder)


def find_groups(found: Sequence[Comparison]) -> list[Group]:
    """The groups, the main one first: the one with the most finished stages.

    Then with the most stages, then without typed settings, then with the most seeds, then newest.
    """
    by_key: dict[Key, list[Comparison]] = defaultdict(list)
    for each in found:
        by_key[each.key].append(each)
    groups, replaced = [], []
    for members in by_key.values():
        # What a plan compares with a reference of its own is no stage of the ladder.
        plain = [each for each in members if each.is_on_parent]
        newest = {m.stage: m for m in sorted(plain, key=lambda m: m.arm.newest.started)}
        groups.append(Group(members, [m for m in plain if newest[m.stage] is m] or members))
        # A stage as it was before its overlay was edited.
        replaced += [Group([m], [m]) for m in plain if newest[m.stage] is not m]

    def rank(group: Group) -> tuple[Any, ...]:
        stages = group.stages
        plain = all(stage.is_plain for stage in stages), group not in replaced
        size = sum(bool(stage.arm.finished) for stage in stages), len(stages)
        untyped = not any(stage.typed for stage in stages)
        return *plain, *size, untyped, len(group.seeds), max(run.started for run in group.runs)

    return sorted(groups + replaced, key=rank, reverse=True)
