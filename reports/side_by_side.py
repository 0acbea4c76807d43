"""The same question in several experiments or at several settings."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from conf.schema import ReportConf
from reports.arm import Arm, Versus
from reports.comparison import Comparison, by_size
from reports.statistics import Estimate
from stages.ladder import flatten


@dataclass(frozen=True)
class Alternative:
    """A question under one of several conditions: `differs` is in what, by name.

    `more` is its held-out loss less that of the lowest, under equal conditions, over their seeds.
    """

    found: Comparison
    differs: dict[str, Any]
    more: Estimate | None


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
    alike: dict[Any, dict[Arm, Comparison]] = defaultdict(dict)
    for each in found:
        alike[each.stage, each.without, each.plus].setdefault(each.arm, each)
    several = [each for each in alike.values() if len(each) > 1]
    others = [each for each in several if any(not arm.names <= main for arm in each)]
    return [_compared(list(by_arm.values()), rules) for by_arm in others]


def _compared(members: Sequence[Comparison], rules: ReportConf) -> Alternatives:
    first, typed = members[0], {key for each in members for key in each.typed}
    described = []
    for each in members:
        own = flatten(each.arm.newest.config)  # a stage may set what another run typed
        described.append(describe(each) | {key: own[key] for key in typed if key in own})
    names = varied(described)
    differs = [{name: each.get(name) for name in names} for each in described]
    pairs = zip(differs, members, strict=True)
    ordered = sorted(pairs, key=lambda pair: [by_size(value) for value in pair[0].values()])
    finite = [each for _, each in ordered if each.arm.measurable]
    finite = [each for each in finite if each.key[1] == first.key[1]] or finite
    best = min(finite, key=lambda each: each.arm.mean("held_out"), default=None)
    rows = []
    for differing, each in ordered:
        other = best.arm if best and best.key[1] == each.key[1] else None
        rows.append(Alternative(each, differing, Versus(each.arm, other, rules).loss))
    lowest = next((row for row in rows if row.found is best), None)
    return Alternatives(first.name, first.title, rows, lowest)


def varied(described: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names that do not have the same value everywhere.

    A scale decides most settings: where it differs, those that differ within one are named.
    """
    texts = [{key: json.dumps(v, default=str) for key, v in each.items()} for each in described]
    table = pd.DataFrame(texts).fillna("null")
    within, different = table.groupby("scale").nunique().max() > 1, table.nunique() > 1
    return [key for key in map(str, table) if different[key] and ("." not in key or within[key])]


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
