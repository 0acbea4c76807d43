"""The join: what commands asked for, its runs, and what these are compared with."""

from __future__ import annotations

import json
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conf.schema import Aim, ReportConf
from reports.arm import Arm, Versus, is_finished
from reports.read import Records, Row
from reports.speed import find_shared
from stages.ladder import Stage

Key = tuple[str, tuple[Any, ...], str]  # experiment, conditions, hash of the ladder's settings


@dataclass(frozen=True)
class Comparison:
    """A question that commands asked: a stage with its arithmetic and typed settings.

    `key` is what makes one ladder, `chain` the stage and those that it stands on, downwards.
    `versus` compares its runs with those of its reference, called `against`, which
    `reference_command` trains, and `baseline` with those of the ladder's baseline.
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


def _named(stage: str, without: Sequence[str] = (), plus: Sequence[str] = ()) -> str:
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
    equal = _conditions(rows)
    arms = {key: Arm(runs, records) for key, runs in _rounds(rows, equal).items()}
    about = {s.name: (s.number, s.about.title, s.about.aim, s.parent) for s in ladder}
    about |= {r.stage: (r.number, r.title, Aim(r.aim), r.parent) for r in rows}
    asked: dict[tuple[Any, ...], list[Any]] = defaultdict(list)
    for row in rows:
        for one in row.asked:
            key = row.experiment, equal[row.run], one.base
            asked[key, one.stage, one.without, one.plus, one.settings, one.reference].append(one)
    baselines: dict[Key, str] = {}  # of two, as of an overlay that was edited, the newer one
    for key, stage, without, plus, settings, _ in asked:
        if stage in about and about[stage][2] is Aim.baseline and not (without or plus):
            mine, known = (arms.get((*key[:2], s)) for s in (settings, baselines.get(key)))
            if mine and (known is None or mine.newest.started > known.newest.started):
                baselines[key] = settings
    joined: dict[tuple[str, tuple[Any, ...], str, str], Versus] = {}
    shared = find_shared(records)

    def versus(key: Key, settings: str, other: str) -> Versus:
        """An arm against another: each two are joined once."""
        both = *key[:2], settings, other
        if both not in joined:
            before, after = arms.get((*key[:2], other)), arms[both[:3]]
            joined[both] = Versus(after, before, rules, shared)
        return joined[both]

    found = []
    for (key, stage, without, plus, settings, reference), lines in asked.items():
        taken, added = (tuple(text.split(",")) if text else () for text in (without, plus))
        number, title, aim, _ = about.get(stage, (0, stage, Aim.loss, None))
        names = frozenset(line.plan for line in lines if line.plan)
        found.append(
            Comparison(
                key=key,
                stage=stage,
                without=taken,
                plus=added,
                typed=json.loads(lines[-1].typed),
                plans=names,
                settings=settings,
                reference=reference,
                reference_command=lines[-1].reference_command,
                against=_against(lines[-1].reference_command),
                number=number,
                title=title,
                aim=aim,
                chain=_chain(stage, about),
                arm=arms[(*key[:2], settings)],
                versus=versus(key, settings, reference),
                baseline=versus(key, settings, "" if aim is Aim.flow else baselines.get(key, "")),
            )
        )
    return sorted(found, key=_order)


def _chain(stage: str, about: Mapping[str, tuple[int, str, Aim, str | None]]) -> tuple[str, ...]:
    found: list[str] = []
    name: str | None = stage
    while name is not None and name not in found:
        found.append(name)
        name = about[name][3] if name in about else None
    return tuple(found)


def _against(command: str) -> str:
    """What the command of a reference trains, as one would say it; empty for no command."""
    words = dict(word.lstrip("+").partition("=")[::2] for word in shlex.split(command)[3:])
    lists = (words.get(word, "").strip("[]") for word in ("without", "plus"))
    taken, added = (text.split(",") if text else [] for text in lists)
    return _named(words.get("stage", ""), taken, added)


def _order(found: Comparison) -> tuple[Any, ...]:
    """The ladder's order; fewer entries before more, and numbers by size."""
    entries = (len(found.without), found.without, len(found.plus), found.plus)
    typed = [
        (key, not isinstance(v, int | float), float(v) if isinstance(v, int | float) else 0, str(v))
        for key, v in found.typed.items()
    ]
    return found.number, found.stage, *entries, typed


def _conditions(rows: Sequence[Row]) -> dict[str, tuple[Any, ...]]:
    """What must be equal for the runs, by name.

    A run that ended before all of it was known has that of a finished one that agrees with it.
    """
    known = {(run.experiment, run.equal): None for run in rows if is_finished(run)}
    return {
        run.run: next(
            (
                equal
                for experiment, equal in reversed(known)
                if run.experiment == experiment and not is_finished(run)
                if all(a == b or not a for a, b in zip(run.equal, equal, strict=True))
            ),
            run.equal,
        )
        for run in rows
    }


def _rounds(
    rows: Sequence[Row], equal: Mapping[str, tuple[Any, ...]]
) -> dict[tuple[str, tuple[Any, ...], str], list[Row]]:
    """One run for each round of a setting: the newest that finished, else the newest."""
    rounds: dict[Any, dict[Any, Row]] = defaultdict(dict)
    for run in sorted(rows, key=lambda run: (is_finished(run), run.started)):
        key = run.experiment, equal[run.run], run.asked[0].settings
        rounds[key][run.seed, run.repeat] = run
    return {key: list(runs.values()) for key, runs in rounds.items()}
