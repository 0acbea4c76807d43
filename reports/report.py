"""Everything that a report says, before it is put into words: comparisons, verdicts, tables."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conf.errors import UsageError
from conf.schema import PlanConf, ReportConf
from reports.answer import find_answer
from reports.comparison import Comparison, compare
from reports.ladders import Group, find_groups
from reports.rates import find_rates
from reports.read import read_records
from reports.rules import read_rules
from reports.side_by_side import find_alternatives
from reports.speed import find_busy, find_shared
from reports.verdicts import FAMILY, Verdict, judge
from reports.worth import find_worth
from stages.ladder import group_files, read_ladder
from stages.plans import read_plan


@dataclass(frozen=True)
class PlanRuns:
    """The comparisons of a plan, or without a `name` of steps taken back or added without one.

    Their verdicts are one family of tests. `group` is the ladder of the first of them.
    """

    name: str
    about: PlanConf
    rows: list[Comparison]
    verdicts: list[Verdict]
    group: Group


class Report:
    """What some records say, by some rules.

    `groups` begin with the main ladder, whose `verdicts` are by name; `apart` are others that are
    shown nowhere else. `worth` is of the guide's steps, `beyond` of those beyond it. `shared` and
    `busy` name its runs that shared their machine, and around which that was slow.
    """

    def __init__(
        self,
        experiments: Sequence[str | Path],
        rules: ReportConf | None = None,
        config_dirs: Sequence[Path] = (),
    ) -> None:
        """The report on experiment folders, see `reports.write_report`. Raises UsageError."""
        self.records, self.rules = read_records(experiments), rules or read_rules()
        ladder = read_ladder(config_dirs, self.records.problems)
        shared = find_shared(self.records)
        found = self.comparisons = compare(self.records, ladder, self.rules, shared)
        if not found:
            first = self.records.problems[0]
            raise UsageError(f"No run can be compared. The first problem: {first}")
        main, *others = self.groups = find_groups(found)
        self.main = main
        self.verdicts: dict[str, Verdict] = {}
        for beyond in (False, True):  # two families: what is beyond changes no verdict on the guide
            stages = [stage for stage in main.stages if stage.beyond is beyond]
            verdicts = judge(stages, self.rules, FAMILY)
            self.verdicts |= {s.name: v for s, v in zip(stages, verdicts, strict=True)}
        self.plans = self._plans(config_dirs)
        in_plans = {row for plan in self.plans for row in plan.rows}
        free = [each for each in found if each.key != main.key and each not in in_plans]
        self.alternatives = find_alternatives([*main.stages, *free], main.names, self.rules)
        self.worth, self.beyond = (
            find_worth(main, [stage for stage in ladder if stage.beyond is beyond], self.rules)
            for beyond in (False, True)
        )
        self.rates = find_rates(main, found, ladder, self.rules)
        self.answer = find_answer(main, self.verdicts, self.alternatives, self.rules)
        self.apart = [group for group in others if self._is_apart(group, in_plans)]
        runs = {run.run: run for stage in main.stages for run in stage.arm.rounds}
        self.shared = sorted(shared & main.names)
        self.busy = find_busy(list(runs.values()), self.rules)

    @property
    def is_ladder(self) -> bool:
        """Whether it is about the stages of a ladder, and not about settings of one stage."""
        return bool(self.main.baseline or not self.answer.sweeps)

    def _plans(self, config_dirs: Sequence[Path]) -> list[PlanRuns]:
        """The runs of each plan, apart by experiment, conditions, model and scale."""
        members: dict[tuple[Any, ...], list[Comparison]] = defaultdict(list)
        for each in self.comparisons:
            run = each.arm.newest
            for name in sorted(each.plans) or ([""] if not each.is_plain else []):
                members[(name, *each.key[:2], run.model, run.scale)].append(each)
        by_key = {group.key: group for group in reversed(self.groups)}
        files = group_files("plan", config_dirs)
        abouts = {n: self._about(n, files.get(n)) for n in dict.fromkeys(key[0] for key in members)}
        plans = []
        for key in sorted(members, key=lambda key: (not key[0], key[0])):
            name, rows = key[0], members[key]
            in_main = all(row in self.main.stages for row in rows)
            if in_main and (self.main.baseline in rows or not rows[0].typed):
                continue  # they are the main ladder
            group, verdicts = by_key[rows[0].key], judge(rows, self.rules)
            plans.append(PlanRuns(name, abouts[name], rows, verdicts, group))
        return plans

    def _about(self, name: str, file: Path | None) -> PlanConf:
        """What a plan asks; its name alone where its file is gone, or cannot be read."""
        try:
            if file:
                return read_plan(file).about
        except UsageError as mistake:
            self.records.problems.append(f"The plan {name} has no title: {mistake}")
        return PlanConf(title=name)

    def _is_apart(self, group: Group, elsewhere: Collection[Comparison]) -> bool:
        """Whether a group has runs that are neither on the main ladder nor `elsewhere`."""
        new = [s for s in group.stages if s not in elsewhere and not s.arm.names <= self.main.names]
        beside = [row.found for each in self.alternatives for row in each.rows]
        return len(new) > 1 or any(stage not in beside for stage in new)
