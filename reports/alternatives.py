"""The same stage in several experiments or at several settings, on an equal footing."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from conf.schema import ReportConf
from reports import formats
from reports.compare import Group, StageRuns, held_out_difference, pairs_of
from reports.statistics import Estimate


@dataclass(frozen=True)
class Alternative:
    """A stage in one of the groups: how it differs from the others, and its runs.

    `more` is its held-out loss less that of the lowest, over the seeds that both have. None for the
    lowest itself, and where text, windows or device differ.
    """

    what: str
    runs: StageRuns
    more: Estimate | None = None

    @property
    def statuses(self) -> str:
        """How its runs ended: finished, or 2 finished, 1 diverged."""
        counted = Counter(run.record.status.value for run in self.runs.runs)
        if len(counted) == 1:
            return next(iter(counted))
        return ", ".join(f"{number} {status}" for status, number in counted.items())


@dataclass(frozen=True)
class Alternatives:
    """A stage with its alternatives, in the order of what differs; `lowest` has the lowest loss."""

    name: str
    title: str
    rows: list[Alternative]
    lowest: Alternative | None


def find_alternatives(
    groups: Sequence[Group], elsewhere: set[str], rules: ReportConf
) -> list[Alternatives]:
    """The stages that are in several groups.

    Those are left out of which all but the first group's runs are shown `elsewhere`.
    """
    found: dict[str, list[tuple[Group, StageRuns]]] = defaultdict(list)
    for group in groups:
        for stage in group.stages:
            found[stage.name].append((group, stage))
    shown = elsewhere | groups[0].names
    return [
        _compared(members, rules)
        for members in found.values()
        if any(run.name not in shown for _, stage in members[1:] for run in stage.rounds)
    ]


def _compared(members: Sequence[tuple[Group, StageRuns]], rules: ReportConf) -> Alternatives:
    described = [_describe(group, stage) for group, stage in members]
    varied = _varied(described)
    if "scale" in varied:  # which decides most settings
        alike: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for each in described:
            alike[each["scale"]].append(each)
        within = {key for same in alike.values() for key in _varied(same)}
        varied = [key for key in varied if "." not in key or key in within]
    order = sorted(
        range(len(members)), key=lambda i: _sort_key([described[i].get(k) for k in varied])
    )
    finite = [i for i in order if members[i][1].finished and math.isfinite(_loss(members[i][1]))]
    best = min(finite, key=lambda i: _loss(members[i][1]), default=None)
    rows = []
    for i in order:
        group, stage = members[i]
        what = ", ".join(_said(key, described[i].get(key)) for key in varied)
        more = None
        if (
            best is not None
            and i != best
            and group.conditions.same_but_for_settings(members[best][0].conditions)
        ):
            more = held_out_difference(pairs_of(members[best][1], stage), rules)
        rows.append(Alternative(what, stage, more))
    lowest = rows[order.index(best)] if best is not None else None
    return Alternatives(members[0][1].name, members[0][1].title, rows, lowest)


def _varied(described: Sequence[dict[str, Any]]) -> list[str]:
    """The names that do not have the same value everywhere."""
    return [
        key
        for key in dict.fromkeys(key for each in described for key in each)
        if len({json.dumps(each.get(key), default=str) for each in described}) > 1
    ]


def _describe(group: Group, stage: StageRuns) -> dict[str, Any]:
    """What may tell a group from another, by name."""
    run = stage.newest
    return {
        "experiment": stage.rounds[0].experiment,
        "": group.variant,
        "scale": run.settings.scale,
        "data": run.data.name,
        "text": run.data.sha256[:8],
        "device": run.environment.machine,
        "torch": run.environment.torch,
        "code": run.code[:8],
        "without": ",".join(run.ablation.without),
        "plus": ",".join(run.ablation.plus),
        **json.loads(group.conditions.settings),
    }


def _said(key: str, value: Any) -> str:
    if value == "":
        return "as the ladder has it"
    if key in ("", "experiment"):
        return str(value)
    return f"{key}={formats.setting(value)}"


def _sort_key(values: Sequence[Any]) -> list[tuple[bool, float, str]]:
    """Numbers by size, and everything else by its words after them."""
    numbers = [isinstance(v, int | float) for v in values]
    return [
        (not is_number, float(value) if is_number else 0.0, str(value))
        for is_number, value in zip(numbers, values, strict=True)
    ]


def _loss(stage: StageRuns) -> float:
    return stage.mean.held_out
