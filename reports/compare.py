"""The join: what commands asked for, its runs, and what these are compared with."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from conf.schema import Aim, ReportConf
from reports.arm import Arm, Versus, is_finished
from reports.commands import trained_by
from reports.read import Records, Row
from reports.speed import find_shared
from stages.ladder import Stage

Conditions = tuple[str, tuple[Any, ...]]  # the experiment, and what must be equal
Key = tuple[str, tuple[Any, ...], str]  # with the hash of the ladder's settings


class About(NamedTuple):
    """What is known of a stage."""

    number: int
    title: str
    aim: Aim
    parent: str | None


@dataclass(frozen=True)
class Comparison:
    """A question that commands asked: a stage with its arithmetic and typed settings.

    `key` is what makes one ladder, `chain` the stage and those that it stands on, downwards.
    `versus` compares its runs with those of its reference, called `against`, which
    `reference_command` trains, and `baseline` with those of the ladder's baseline. `claimed` is the
    speed-up that the guide claims for its difference from the reference.
    """

    key: Key
    stage: str
    without: tuple[str, ...]
    plus: tuple[str, ...]
    typed: dict[str, Any]
    plans: frozenset[str]
    settings: str
    reference: str
    reference_command: str
    against: str
    number: int
    title: str
    aim: Aim
    chain: tuple[str, ...]
    claimed: float | None
    arm: Arm
    versus: Versus
    baseline: Versus

    @property
    def is_plain(self) -> bool:
        return not (self.without or self.plus)

    @property
    def is_on_parent(self) -> bool:
        """Whether it is compared with the stage that it stands on, if it stands on one."""
        return self.is_plain and self.against in ("", *self.chain[1:2])

    @property
    def same_as(self) -> str:
        """What it trains exactly as, where its reference has the same settings; else empty."""
        return self.against if self.settings == self.reference else ""

    @property
    def name(self) -> str:
        """The stage with its arithmetic, as one would say it."""
        return _named(self.stage, self.without, self.plus)

    @property
    def what(self) -> str:
        """The same with the typed settings."""
        return " ".join([self.name, *(f"{key}={shown(v)}" for key, v in self.typed.items())])

    @property
    def lost(self) -> list[Row]:
        """The runs of both sides that have no loss."""
        return [*(self.versus.other.lost if self.versus.other else []), *self.arm.lost]


def _named(stage: str, without: Sequence[str], plus: Sequence[str]) -> str:
    words = [stage]
    for word, entries in (("without", without), ("plus", plus)):
        words += [f"{word} {', '.join(entries)}"] if entries else []
    return " ".join(words)


def shown(value: Any) -> str:
    """A configured value as one would type it."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case list() | tuple():
            return f"[{', '.join(map(shown, value))}]"
        case float():
            return f"{value:g}"
    return str(value)


def compare(records: Records, ladder: Sequence[Stage], rules: ReportConf) -> list[Comparison]:
    """Every question in the records, in the order of the ladder.

    `ladder` tells what no record does of a stage.
    """
    rows = [run for run in records.rows if run.asked]
    about = {s.name: About(s.number, s.about.title, s.about.aim, s.parent) for s in ladder}
    about |= {r.stage: About(r.number, r.title, Aim(r.aim), r.parent) for r in rows}
    conditions, shared, claims = _conditions(rows), find_shared(records), _claims(ladder)
    # One run for each round of a setting: the newest that finished, else the newest.
    rounds: dict[Any, dict[Any, Row]] = defaultdict(dict)
    asked: dict[Any, list[Any]] = defaultdict(list)
    for run in sorted(rows, key=lambda run: (is_finished(run), run.started)):
        rounds[conditions[run.run], run.asked[0].settings][run.seed, run.repeat] = run
    for run in rows:
        for one in run.asked:
            key = *conditions[run.run], one.base
            asked[key, one.stage, one.without, one.plus, one.settings, one.reference].append(one)
    arms = {each: Arm(list(runs.values()), records) for each, runs in rounds.items()}
    baselines: dict[Key, str] = {}  # of two, as of an overlay that was edited, the newer one
    for key, stage, without, plus, settings, _ in asked:
        if stage in about and about[stage].aim is Aim.baseline and not (without or plus):
            known = arms.get((key[:2], baselines.get(key, "")))
            if known is None or arms[key[:2], settings].newest.started > known.newest.started:
                baselines[key] = settings

    @cache
    def versus(equal: Conditions, settings: str, other: str) -> Versus:
        """An arm against another: each two are joined once."""
        return Versus(arms[equal, settings], arms.get((equal, other)), rules, shared)

    found = []
    for (key, stage, *entries, settings, reference), lines in asked.items():
        without, plus = (tuple(text.split(",")) if text else () for text in entries)
        number, title, aim, _ = about.get(stage, About(0, stage, Aim.loss, None))
        against, below = _named(*trained_by(lines[-1].reference_command)), key[:2]
        base = "" if aim is Aim.flow else baselines.get(key, "")
        chain, claimed = _chain(stage, about), claims.get((without or plus or (stage,))[0])
        if len(without + plus) > 1 or (not (without or plus) and against not in chain[1:2]):
            claimed = None
        found.append(Comparison(
            key, stage, without, plus, json.loads(lines[-1].typed),
            frozenset(line.plan for line in lines if line.plan),
            settings, reference, lines[-1].reference_command, against,
            number, title, aim, chain, 1 / claimed if claimed and without else claimed,
            arms[below, settings], versus(below, settings, reference),
            versus(below, settings, base),
        ))  # fmt: skip
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


def _chain(stage: str, about: Mapping[str, About]) -> tuple[str, ...]:
    found: list[str] = []
    name: str | None = stage
    while name is not None and name not in found:
        found.append(name)
        name = about[name].parent if name in about else None
    return tuple(found)


def by_size(value: Any) -> tuple[bool, float, str]:
    """For sorting: numbers by size, and everything else by its words after them."""
    is_number = isinstance(value, int | float) and math.isfinite(value)
    return not is_number, value if is_number else 0, "" if is_number else str(value)


def _order(found: Comparison) -> tuple[Any, ...]:
    """The ladder's order; fewer entries before more, and numbers by size."""
    entries = (len(found.without), found.without, len(found.plus), found.plus)
    typed = [(key, by_size(value)) for key, value in found.typed.items()]
    return found.number, found.stage, *entries, typed


def _conditions(rows: Sequence[Row]) -> dict[str, Conditions]:
    """The experiment of each run by name, and what must be equal.

    A run that ended before all of it was known has that of a finished one that agrees with it.
    """
    known = dict.fromkeys((run.experiment, run.equal) for run in rows if is_finished(run))
    found = {}
    for run in rows:
        alike = (
            each
            for each in reversed(known)
            if each[0] == run.experiment
            if all(a == b or not a for a, b in zip(run.equal, each[1], strict=True))
        )
        own = run.experiment, run.equal
        found[run.run] = own if is_finished(run) else next(alike, own)
    return found
