"""The join: what commands asked for, its runs, and what these are compared with."""

import json
import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any

from conf.schema import Aim, ReportConf
from reports.arm import Arm, Versus, is_finished
from reports.commands import trained_by
from reports.read import Records, Row
from runner.rows import Asked
from stages.ladder import Stage, lineage

# The experiment, what must be equal, and the hash of the ladder's settings.
Key = tuple[str, tuple[Any, ...], str]
About = tuple[int, str, Aim, bool]  # of a stage: number, title, aim, whether beyond the guide


class Comparison:
    """A question that commands asked: a stage with its arithmetic and typed settings.

    `asked` is its newest line, `key` what makes one ladder, `chain` the stage and its ancestors,
    downwards. `versus` compares its runs with those of its reference, called `against`,
    or `same_as` where both have the same settings, and `baseline` with those of the ladder's
    baseline. `claimed` is the speed-up that the guide claims for its difference from the reference.
    `is_lowest` says that there is no baseline, and that others are compared with its runs and they
    with none.
    """

    baseline: Versus
    claimed: float | None
    is_lowest: bool

    def __init__(
        self,
        key: Key,
        lines: Sequence[Asked],
        about: About,
        chain: Sequence[str],
        versus: Versus,
    ) -> None:
        asked = self.asked = lines[-1]
        self.key, self.stage, self.plans = key, asked.stage, {each.plan for each in lines} - {""}
        self.number, self.title, self.aim, self.beyond = about
        entries = asked.without, asked.plus
        self.without, self.plus = (tuple(text.split(",")) if text else () for text in entries)
        self.is_plain = not any(entries)
        self.typed: dict[str, Any] = json.loads(asked.typed)
        self.name = _named(asked.stage, *entries)
        self.what = " ".join([self.name, *(f"{k}={shown(v)}" for k, v in self.typed.items())])
        self.versus, self.arm, other = versus, versus.arm, versus.other
        self.lost = [*(other.lost if other else []), *self.arm.lost]  # of both sides
        self.chain = chain
        self.against = _named(*trained_by(asked.reference_command))
        self.same_as = self.against if asked.settings == asked.reference else ""
        # Whether it is compared with its parent, if it has one.
        self.is_on_parent = self.is_plain and self.against in ("", *self.chain[1:2])


def _named(stage: str, without: str, plus: str) -> str:
    """A stage with its arithmetic, as one would say it."""
    entries = {"without": without, "plus": plus}
    said = (f" {word} {text.replace(',', ', ')}" for word, text in entries.items() if text)
    return stage + "".join(said)


def shown(value: Any) -> str:
    """A configured value as one would type it."""
    match value:
        case None | bool():
            return json.dumps(value)
        case list() | tuple():
            return f"[{', '.join(map(shown, value))}]"
        case float():
            return f"{value:g}"
    return str(value)


def compare(
    records: Records, ladder: Sequence[Stage], rules: ReportConf, shared: Collection[str]
) -> list[Comparison]:
    """Every question, in the order of the ladder, which tells what no record does of a stage.

    `shared` are the names of runs that shared their machine.
    """
    rows = [run for run in records.rows if run.asked]
    about: dict[str, About] = {
        line.stage: (0, line.stage, Aim.loss, False) for run in rows for line in run.asked
    }
    about |= {s.name: (s.number, s.about.title, s.about.aim, s.beyond) for s in ladder}
    about |= {r.stage: (r.number, r.title, Aim(r.aim), r.beyond) for r in rows}
    parents = {s.name: s.parent for s in ladder} | {r.stage: r.parent for r in rows}
    conditions, claims = _conditions(rows), _claims(ladder)
    # One run for each round of a setting: the newest that finished, else the newest.
    rounds: dict[Any, dict[Any, Row]] = defaultdict(dict)
    for run in sorted(rows, key=lambda run: (is_finished(run), run.started)):
        rounds[conditions[run.run], run.asked[0].settings][run.seed, run.repeat] = run
    arms = {each: Arm(list(runs.values()), records) for each, runs in rounds.items()}
    asked: dict[tuple[Key, Any], list[Asked]] = defaultdict(list)
    for run in rows:
        for one in run.asked:
            question = one.stage, one.without, one.plus, one.settings, one.reference
            asked[(*conditions[run.run], one.base), question].append(one)

    @cache  # each two arms are joined once
    def versus(arm: Arm, other: Arm | None) -> Versus:
        return Versus(arm, other, rules, shared)

    found = []
    for (key, (*_, settings, reference)), lines in asked.items():
        pair = versus(arms[key[:2], settings], arms.get((key[:2], reference)))
        stage = lines[-1].stage
        found.append(Comparison(key, lines, about[stage], lineage(stage, parents), pair))
    baselines: dict[Key, Arm] = {}  # of two, as of an overlay that was edited, the newer one
    for each in found:
        if each.aim is Aim.baseline and each.is_plain:
            both = baselines.get(each.key, each.arm), each.arm
            baselines[each.key] = max(both, key=lambda arm: arm.newest.started)
    compared_with = {each.versus.other for each in found if each.versus.pairs}
    for each in found:
        alone = each.key not in baselines and each.versus.other is None
        each.is_lowest = alone and each.arm in compared_with
        base = None if each.aim is Aim.flow else baselines.get(each.key)
        each.baseline, each.claimed = versus(each.arm, base), _claimed(each, claims)
    return sorted(found, key=_order)


def _claims(ladder: Sequence[Stage]) -> dict[str, float]:
    """The guide's speed-ups by what `without` and `plus` call a change."""
    found = {}
    for stage in ladder:
        for change, speed_up in stage.about.claims.items():
            found[f"{stage.name}:{change}"] = speed_up
            if [*stage.changes] == [change]:
                found[stage.name] = speed_up
    return found


def _claimed(found: Comparison, claims: Mapping[str, float]) -> float | None:
    """The guide's speed-up for the one change in which both sides differ, if it names one."""
    changed, below = found.plus, _named(found.stage, found.asked.without, "")
    if not found.plus:
        changed, below = found.without, found.stage
    if found.is_plain:
        changed, below = (found.stage,), "".join(found.chain[1:2])
    claimed = claims.get(changed[0]) if len(changed) == 1 and found.against == below else None
    return 1 / claimed if claimed and changed == found.without else claimed


def by_size(value: Any) -> tuple[bool, float, str]:
    """For sorting: numbers by size, and everything else by its words after them."""
    is_number = isinstance(value, int | float) and math.isfinite(value)
    return not is_number, value if is_number else 0, "" if is_number else str(value)


def _order(found: Comparison) -> tuple[Any, ...]:
    """The ladder's order; fewer entries before more."""
    typed = [(key, by_size(value)) for key, value in found.typed.items()]
    entries = (len(found.without), found.without, len(found.plus), found.plus)
    return found.number, found.stage, *entries, typed


def _conditions(rows: Sequence[Row]) -> dict[str, tuple[str, tuple[Any, ...]]]:
    """The experiment of each run by name, and what must be equal.

    A run that ended before all of it was known has that of a finished one that agrees with it.
    """
    finished = dict.fromkeys((run.experiment, run.equal) for run in rows if is_finished(run))
    found = {run.run: (run.experiment, run.equal) for run in rows}
    for run in rows:
        for experiment, equal in () if is_finished(run) else finished:
            both = zip((run.experiment, *run.equal), (experiment, *equal), strict=True)
            if all(a == b or not a for a, b in both):
                found[run.run] = experiment, equal
    return found
