"""Everything that a report says, before it is written: groups, verdicts, claims and notices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from conf.schema import ReportConf
from reports import claims, sentences
from reports.answer import answer
from reports.claims import Evidence, Judgement
from reports.compare import Comparison, Group, compare, find_control
from reports.read import Records, read_records
from reports.rules import read_rules
from reports.speed import disturbances, find_shared
from reports.verdicts import Verdict, judge

# The change of the stage whose control is the one below it, trained for as many tokens.
ACCUMULATES = "train.total_batch_tokens"


@dataclass(frozen=True)
class Findings:
    """What was found in some records, by some rules; the first of `groups` is the main one.

    `shared` are the names of runs that shared their machine with another.
    """

    records: Records
    rules: ReportConf
    shared: set[str]
    groups: list[Group]

    @classmethod
    def of(cls, experiments: Sequence[str | Path], rules: ReportConf | None = None) -> Findings:
        """The findings in experiment folders, by the rules of conf/report where none are given."""
        records, rules = read_records(experiments), rules or read_rules()
        shared = find_shared(records.found)
        return cls(records, rules, shared, compare(records.found, shared, rules))

    @property
    def main(self) -> Group:
        return self.groups[0]

    @cached_property
    def verdicts(self) -> list[dict[str, Verdict]]:
        """The verdicts on each group's stages, by the stage's name."""
        return [judge(group, self.rules) for group in self.groups]

    @cached_property
    def answer(self) -> list[str]:
        return answer(self.main, self.verdicts[0], self.control, self.rules)

    @cached_property
    def claims(self) -> list[Judgement]:
        evidence = Evidence(self.groups, self.verdicts[0], self.control, self.shared, self.rules)
        return claims.judge(evidence)

    @cached_property
    def others(self) -> list[tuple[Group, str]]:
        """The groups shown apart, and in what each differs from the main one."""
        return [(group, sentences.apart(group, self.main)) for group in self.groups[1:]]

    @cached_property
    def control(self) -> Comparison | None:
        """Gradient accumulation against the stage below it, trained for as many tokens."""
        for stage in reversed(self.main.ladder):
            if ACCUMULATES in stage.newest.stage.changes:
                return find_control(stage, self.groups, self.shared, self.rules)
        return None

    @cached_property
    def disturbed(self) -> str:
        """Whether the machine was busy, throttled or shared in runs of the main group."""
        runs = [run for stage in self.main.stages for run in stage.rounds]
        names = {run.name for run in runs}
        busy = disturbances(runs, self.rules)
        return sentences.disturbed_note(busy, self.shared & names, len(runs))
