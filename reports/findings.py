"""Everything that a report says, before it is written: groups, verdicts, claims and notices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from conf.errors import UsageError
from conf.schema import ReportConf
from reports import claims, sentences
from reports.alternatives import Alternatives, find_alternatives
from reports.answer import answer
from reports.cells import Bank
from reports.claims import Evidence, Judgement
from reports.compare import Comparison, Group, compare, find_control
from reports.plans import Table, find_table, usable_plans
from reports.rates import StageRates, find_rates
from reports.read import ReadRun, Records, read_records
from reports.rules import read_rules
from reports.speed import disturbances, find_shared
from reports.verdicts import Verdict, judge
from reports.worth import Worth, find_worth
from runner.record import Conditions
from stages.ladder import read_ladder

# The change of the stage whose control is the one below it, trained for as many tokens.
ACCUMULATES = "train.total_batch_tokens"


@dataclass(frozen=True)
class Findings:
    """What was found in some records, by some rules; the first of `groups` is the main one.

    `shared` are the names of runs that shared their machine with another. `tables` are of the
    plans, `in_plans` are the names of the runs in them, and `bank` finds those under the main
    group's conditions. `worth` is None, and `rates` empty, where the runs do not tell.
    """

    records: Records
    rules: ReportConf
    shared: set[str]
    groups: list[Group]
    bank: Bank | None
    tables: list[Table]
    worth: Worth | None
    rates: list[StageRates]
    in_plans: set[str]

    @classmethod
    def of(
        cls,
        experiments: Sequence[str | Path],
        rules: ReportConf | None = None,
        config_dirs: Sequence[Path] = (),
    ) -> Findings:
        """The findings in experiment folders, by the rules of conf/report where none are given.

        `config_dirs` hold stages and plans of the user's own.
        """
        records, rules = read_records(experiments), rules or read_rules()
        shared = find_shared(records.found)
        alike: dict[str, list[ReadRun]] = defaultdict(list)
        for run in records.found:
            alike[str(run.record.ablation) if run.is_ablation else ""].append(run)
        # The ladder, or, where there is none, the steps taken back or added that ran most.
        first = alike.pop("", None) or alike.pop(max(alike, key=lambda key: len(alike[key])))
        stages = read_ladder(config_dirs, records.problems)
        banks = {
            (experiment, conditions): Bank(
                [run for run in records.found if run.experiment == experiment],
                conditions,
                stages,
                config_dirs,
            )
            for experiment, conditions in dict.fromkeys(
                (run.experiment, Conditions.of(run.record)) for run in first
            )
            if conditions.describes_settings
        }
        ladders = {each: bank.plain_runs for each, bank in banks.items()}
        groups = compare(first, shared, rules, ladders)
        plans = usable_plans(config_dirs, list(banks.values()), records.problems)
        main = groups[0]
        bank, worth, rates = banks.get((main.experiment, main.conditions)), None, []
        if bank:
            worth = find_worth(main, bank, plans, rules)
            rates = find_rates(bank, plans, rules)
        keys = dict.fromkeys((group.experiment, group.conditions) for group in groups)
        ranked = [banks[key] for key in keys if key in banks]
        ablated = sorted({run.record.stage.name for run in records.found if run.is_ablation})
        tables = []
        for plan in plans:
            try:
                table = find_table(plan, ranked, ablated, shared, rules)
            except UsageError as mistake:
                records.problems.append(f"The plan {plan.name} has no section: {mistake}")
            else:
                tables += [table] if table else []
        in_plans = {name for table in tables for name in table.names} - main.names
        for runs in alike.values():
            rest = [run for run in runs if run.name not in in_plans]
            groups += compare(rest, shared, rules) if rest else []
        return cls(records, rules, shared, groups, bank, tables, worth, rates, in_plans)

    @property
    def main(self) -> Group:
        return self.groups[0]

    @cached_property
    def verdicts(self) -> list[dict[str, Verdict]]:
        """The verdicts on each group's stages, by the stage's name."""
        return [judge(group, self.rules) for group in self.groups]

    @cached_property
    def answer(self) -> list[str]:
        said = answer(self.main, self.verdicts[0], self.control, self.rules)
        if len({run.experiment for run in self.records.found}) > 1:
            below = "; the experiments are side by side below" if self.alternatives else ""
            said.insert(0, f"This is on {self.main.experiment}{below}.")
        return [*said, *sentences.lowest(self.alternatives)]

    @cached_property
    def claims(self) -> list[Judgement]:
        evidence = Evidence(
            self._own_groups,
            [run for run in self.records.found if run.experiment == self.main.experiment],
            self.verdicts[0],
            self.control,
            self.shared,
            self.rules,
        )
        return claims.judge(evidence)

    @cached_property
    def others(self) -> list[tuple[Group, str, dict[str, Verdict]]]:
        """The groups shown apart, in what each differs from the main one, and its verdicts.

        Those of which every run is in the main group, in a plan's table, in the control, or of one
        stage that is shown side by side, are shown there.
        """
        shown = self.main.names | self._elsewhere
        side_by_side = {each.name for each in self.alternatives}
        return [
            (group, sentences.apart(group, self.main), verdicts)
            for group, verdicts in zip(self.groups[1:], self.verdicts[1:], strict=True)
            if not group.names <= shown
            if not (len(group.stages) == 1 and group.stages[0].name in side_by_side)
        ]

    @cached_property
    def alternatives(self) -> list[Alternatives]:
        """Stages that ran in several experiments or at several settings."""
        return find_alternatives(self.groups, self._elsewhere, self.rules)

    @property
    def _own_groups(self) -> list[Group]:
        """The groups of the main one's experiment."""
        return [group for group in self.groups if group.experiment == self.main.experiment]

    @property
    def _elsewhere(self) -> set[str]:
        """The runs that a plan's table shows, or the control."""
        control = self.control.pairs if self.control else []
        return self.in_plans | {longer.name for longer, _ in control}

    @cached_property
    def control(self) -> Comparison | None:
        """Gradient accumulation against the stage below it, trained for as many tokens."""
        for stage in reversed(self.main.ladder):
            if ACCUMULATES in stage.newest.stage.changes:
                return find_control(stage, self._own_groups, self.shared, self.rules)
        return None

    @cached_property
    def disturbed(self) -> str:
        """Whether the machine was busy, throttled or shared in runs of the main group."""
        runs = [run for stage in self.main.stages for run in stage.rounds]
        names = {run.name for run in runs}
        busy = disturbances(runs, self.rules)
        return sentences.disturbed_note(busy, self.shared & names, len(runs))
