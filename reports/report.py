"""Everything that a report says, before it is put into words: comparisons, verdicts, tables."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conf.errors import UsageError
from conf.schema import PlanConf, ReportConf
from reports.answer import Answer, find_answer
from reports.claims import Judgement, judge_claims
from reports.compare import Comparison, compare
from reports.ladders import Group, find_groups
from reports.rates import StageRates, find_rates
from reports.read import Records, read_records
from reports.rules import read_rules
from reports.side_by_side import Alternatives, find_alternatives
from reports.speed import find_busy, find_shared
from reports.verdicts import Verdict, is_judged_by_loss, judge
from reports.worth import Worth, find_worth
from stages.ladder import group_files, read_ladder
from stages.plans import Plan, read_plan


@dataclass(frozen=True)
class Table:
    """The comparisons of a plan, or of steps that were taken back or added without one.

    Their verdicts are one family of tests. `group` is the ladder of the first of them.
    """

    plan: Plan | None
    rows: list[Comparison]
    verdicts: list[Verdict]
    group: Group


@dataclass(frozen=True)
class Control:
    """A stage, and the runs that a plan compares with it: fewer tokens a step, as many in all."""

    stage: Comparison
    longer: Comparison


@dataclass(frozen=True)
class Report:
    """What some records say, by some rules.

    `groups` begin with the main ladder, whose `verdicts` are by name; `apart` are those of the
    others that are shown nowhere else. `shared` and `busy` name runs of the main ladder that shared
    their machine, and around which it was slow.
    """

    records: Records
    rules: ReportConf
    comparisons: list[Comparison]
    groups: list[Group]
    verdicts: dict[str, Verdict]
    tables: list[Table]
    worth: Worth | None
    rates: list[StageRates]
    alternatives: list[Alternatives]
    control: Control | None
    claims: list[Judgement]
    answer: Answer
    apart: list[Group]
    shared: list[str]
    busy: list[str]

    @property
    def main(self) -> Group:
        return self.groups[0]

    @classmethod
    def of(
        cls,
        experiments: Sequence[str | Path],
        rules: ReportConf | None = None,
        config_dirs: Sequence[Path] = (),
    ) -> Report:
        """The report on experiment folders, by the rules of conf/report where none are given.

        `config_dirs` hold stages and plans of the user's own. Raises UsageError.
        """
        records, rules = read_records(experiments), rules or read_rules()
        ladder = read_ladder(config_dirs, records.problems)
        plans = _read_plans(config_dirs, records.problems)
        found = compare(records, ladder, rules)
        if not found:
            raise UsageError(f"No run can be compared. The first problem: {records.problems[0]}")
        groups = find_groups(found)
        main = groups[0]
        tables = _tables(found, groups, plans, rules)
        in_tables = {id(row) for table in tables for row in table.rows}
        elsewhere = in_tables | {id(each) for each in found if each.key == main.key}
        free = [*main.stages, *(each for each in found if id(each) not in elsewhere)]
        alternatives = find_alternatives(free, main.names, rules)
        verdicts = judge(main.stages, rules, is_judged_by_loss)
        by_stage = {each.name: v for each, v in zip(main.stages, verdicts, strict=True)}
        control = _control(main, found, plans)
        runs = {run.run: run for stage in main.stages for run in stage.arm.rounds}
        loss = control.longer.versus.loss if control else None
        return cls(
            records=records,
            rules=rules,
            comparisons=found,
            groups=groups,
            verdicts=by_stage,
            tables=tables,
            worth=find_worth(main, ladder, rules),
            rates=find_rates(main, found, ladder, rules),
            alternatives=alternatives,
            control=control,
            claims=judge_claims(main, found, by_stage, loss and loss.flipped, ladder, rules),
            answer=find_answer(main, by_stage, alternatives, rules),
            apart=_apart(groups, alternatives, in_tables),
            shared=sorted(find_shared(records) & main.names),
            busy=find_busy(list(runs.values()), rules),
        )


def _read_plans(config_dirs: Sequence[Path], problems: list[str]) -> dict[str, Plan]:
    """Every plan that can be read, by name; what is wrong with another joins the problems."""
    plans = {}
    for name, file in group_files("plan", config_dirs).items():
        try:
            plans[name] = read_plan(file)
        except UsageError as mistake:
            problems.append(f"The plan {name} has no title: {mistake}")
    return plans


def _tables(
    found: Sequence[Comparison],
    groups: Sequence[Group],
    plans: Mapping[str, Plan],
    rules: ReportConf,
) -> list[Table]:
    """A table for each plan that ran, apart by experiment, conditions, model and scale."""
    members: dict[tuple[Any, ...], list[Comparison]] = defaultdict(list)
    for each in found:
        run = each.arm.newest
        for name in sorted(each.plans) or ([""] if not each.is_plain else []):
            members[(name, *each.key[:2], run.model, run.scale)].append(each)
    by_key = {group.key: group for group in reversed(groups)}
    tables = []
    for (name, *_), rows in sorted(members.items(), key=lambda item: (not item[0][0], item[0][0])):
        in_main = all(row in groups[0].stages for row in rows)
        if in_main and (groups[0].baseline in rows or not rows[0].typed):
            continue  # they are the main ladder
        plan = plans.get(name) or (Plan(name, PlanConf(title=name), {}) if name else None)
        verdicts = judge(rows, rules, lambda each: not each.same_as)
        tables.append(Table(plan, rows, verdicts, by_key[rows[0].key]))
    return tables


def _control(main: Group, found: Sequence[Comparison], plans: Mapping[str, Plan]) -> Control | None:
    """The main ladder's stage that a plan names as its reference, and that plan's runs."""
    naming = {name for name, plan in plans.items() if plan.about.reference}
    stages = {stage.settings: stage for stage in main.ladder}
    longer = [each for each in found if each.plans & naming and each.versus.loss]
    return next(
        (
            Control(stages[each.reference], each)
            for each in longer
            if each.reference in stages and each.key[:2] == main.key[:2]
            if math.isclose(_tokens(each), _tokens(stages[each.reference]), rel_tol=0.01)
        ),
        None,
    )


def _tokens(found: Comparison) -> float:
    """The tokens that its runs train on."""
    return found.arm.mean("steps") * found.arm.mean("tokens_per_step")


def _apart(
    groups: Sequence[Group], alternatives: Sequence[Alternatives], in_tables: set[int]
) -> list[Group]:
    """The other groups with runs that are shown nowhere else."""
    main, *others = groups
    side_by_side = {id(row.found) for each in alternatives for row in each.rows}
    apart = []
    for group in others:
        shown = [stage for stage in group.stages if not stage.arm.names <= main.names]
        shown = [stage for stage in shown if id(stage) not in in_tables]
        if shown and not (len(shown) == 1 and id(shown[0]) in side_by_side):
            apart.append(group)
    return apart
