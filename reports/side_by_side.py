"""The same question in several experiments or at several settings, on an equal footing."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from conf.schema import ReportConf
from reports.arm import Versus
from reports.compare import Comparison
from reports.statistics import Estimate


@dataclass(frozen=True)
class Alternative:
    """A question under one of several conditions: `differs` is in what, by name.

    `more` is its held-out loss less that of the lowest, over the seeds that both have. None for the
    lowest itself, and where text, windows or device differ.
    """

    found: Comparison
    differs: dict[str, Any]
    more: Estimate | None = None


@dataclass(frozen=True)
class Alternatives:
    """A stage with its alternatives, in the order of what differs; `lowest` has the lowest loss."""

    name: str
    title: str
    rows: list[Alternative]
    lowest: Alternative | None


def find_alternatives(
    found: Sequence[Comparison], main: set[str], rules: ReportConf
) -> list[Alternatives]:
    """The questions of which others than the main ladder's runs, named in `main`, answer one."""
    alike: dict[Any, list[Comparison]] = defaultdict(list)
    for each in found:
        alike[each.stage, each.without, each.plus].append(each)
    return [
        _compared(members, rules)
        for members in alike.values()
        if len({id(each.arm) for each in members}) > 1
        if any(run.run not in main for each in members for run in each.arm.rounds)
    ]


def _compared(members: Sequence[Comparison], rules: ReportConf) -> Alternatives:
    members = list({id(each.arm): each for each in reversed(members)}.values())[::-1]
    described = [describe(each) for each in members]
    keys = varied(described)
    differs = [{key: each.get(key) for key in keys} for each in described]
    order = sorted(range(len(members)), key=lambda i: _sort_key(differs[i].values()))
    finite = [members[i] for i in order if members[i].arm.measurable]
    finite = [each for each in finite if each.key[1] == members[0].key[1]] or finite
    best = min(finite, key=lambda each: each.arm.mean("held_out"), default=None)
    rows = [
        Alternative(
            members[i],
            differs[i],
            Versus(members[i].arm, best.arm, rules).loss
            if best and best is not members[i] and best.key[1] == members[i].key[1]
            else None,
        )
        for i in order
    ]
    lowest = next((row for row in rows if row.found is best), None)
    return Alternatives(members[0].name, members[0].title, rows, lowest)


def varied(described: Sequence[dict[str, Any]]) -> list[str]:
    """The names that do not have the same value everywhere.

    A scale decides most settings: where it differs, those that differ within one are named.
    """
    alike: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for each in described:
        alike[each["scale"]].append(each)
    keys = [key for key in dict.fromkeys(key for each in described for key in each)
            if len({json.dumps(each.get(key), default=str) for each in described}) > 1]  # fmt: skip
    if len(alike) == 1:
        return keys
    within = {key for same in alike.values() for key in varied(same)}
    return [key for key in keys if "." not in key or key in within]


def describe(each: Comparison) -> dict[str, Any]:
    """What may tell the conditions of runs apart, by name."""
    run = each.arm.newest
    return {
        "experiment": run.experiment,
        "scale": run.scale,
        "model": run.model,
        "data": run.data,
        "text": run.data_sha256[:8],
        "device": run.device_name or run.device,
        "matrix products": run.products.precisions if run.products else None,
        "torch": run.torch,
        "code": run.code[:8],
        **run.conditions,
        **each.typed,
    }


def _sort_key(values: Any) -> list[tuple[bool, float, str]]:
    """Numbers by size, and everything else by its words after them."""
    return [
        (False, float(v), "")
        if isinstance(v, int | float) and math.isfinite(v)
        else (True, 0, str(v))
        for v in values
    ]
