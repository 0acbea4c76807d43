"""Speeds: which runs may be compared by them, and when the machine was busy."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from enum import Enum

import numpy as np

from conf.schema import ReportConf
from reports.read import Records, Row
from reports.statistics import Estimate, mean_ratio
from runner.record import Status


class Doubt(str, Enum):
    """Why a speed-up is a figure without a claim."""

    shared = "shared"  # runs shared the machine
    interrupted = "interrupted"  # runs were interrupted
    hosts = "hosts"  # runs were on different hosts
    few = "few"  # fewer rounds than decide
    apart = "apart"  # the rounds were not interleaved


class Pace(str, Enum):
    """What a speed-up says."""

    faster = "faster"
    slower = "slower"
    even = "even"  # no difference was shown
    undecided = "undecided"  # a figure without a claim


@dataclass(frozen=True)
class SpeedUp:
    """Tokens/s after over before; `doubt` is None where the estimate decides."""

    estimate: Estimate
    doubt: Doubt | None

    @property
    def pace(self) -> Pace:
        if self.doubt:
            return Pace.undecided
        if self.estimate.above:
            return Pace.faster
        return Pace.slower if self.estimate.below else Pace.even


def speed_up(
    before: Sequence[Row], after: Sequence[Row], shared: Collection[str], rules: ReportConf
) -> SpeedUp | None:
    """The speed-up over the rounds, seed and repeat, that both have; None where they have none.

    `shared` are the names of runs that shared their machine with another.
    """
    by_round = {(run.seed, run.repeat): run for run in before}
    pairs = [
        (by_round[run.seed, run.repeat], run) for run in after if (run.seed, run.repeat) in by_round
    ]
    pairs = [pair for pair in pairs if _has_speed(*pair)]
    if not pairs:
        return None
    rates = np.array([[run.tokens_per_second for run in pair] for pair in pairs])
    return SpeedUp(mean_ratio(rates[:, 1] / rates[:, 0], rules), _doubt(pairs, shared, rules))


def _has_speed(before: Row, after: Row) -> bool:
    rates = before.tokens_per_second, after.tokens_per_second
    return before.equal_speed == after.equal_speed and all(
        math.isfinite(rate) and rate > 0 for rate in rates
    )


def _doubt(
    pairs: Sequence[tuple[Row, Row]], shared: Collection[str], rules: ReportConf
) -> Doubt | None:
    runs = [run for pair in pairs for run in pair]
    if any(run.run in shared for run in runs):
        return Doubt.shared
    if any(run.resumed_at for run in runs):
        return Doubt.interrupted
    if len({run.host for run in runs}) > 1:
        return Doubt.hosts
    if len(pairs) < rules.minimum_rounds:
        return Doubt.few
    spans = sorted(
        (min(run.started for run in pair), max(run.started for run in pair)) for pair in pairs
    )
    overlap = any(end > start for (_, end), (start, _) in itertools.pairwise(spans))
    return Doubt.apart if overlap else None


def find_shared(records: Records) -> set[str]:
    """The names of runs that trained while another of these runs did, on the same machine.

    Without runs that were resumed: when they paused is not recorded.
    """
    by_host: dict[str, list[tuple[datetime, datetime, str]]] = defaultdict(list)
    for run in records.rows:
        if not run.resumed_at:
            by_host[run.host].append((*_span(run, records), run.run))
    shared: set[str] = set()
    for spans in by_host.values():
        spans.sort()
        latest, owner = spans[0][1], spans[0][2]
        for start, end, name in spans[1:]:
            if start < latest:
                shared |= {name, owner}
            if end > latest:
                latest, owner = end, name
    return shared


def _span(run: Row, records: Records) -> tuple[datetime, datetime]:
    """When a run began and ended; a run that never closed its record, when its last step ended."""
    start = datetime.fromisoformat(run.started)
    if run.ended is not None:
        return start, datetime.fromisoformat(run.ended)
    if run.status == Status.running:
        return start, datetime.now(timezone.utc)
    steps = records.curves.get(run.run)
    return start, start + timedelta(seconds=0.0 if steps is None else steps["seconds"].iloc[-1])


def find_busy(runs: Sequence[Row], rules: ReportConf) -> list[str]:
    """The names of runs around which the machine's matrix products were slower than at its best."""
    best: dict[tuple[object, ...], float] = defaultdict(float)
    for run in runs:
        best[_product(run)] = max(best[_product(run)], np.nan_to_num(run.peak_flops))
    return [
        run.run
        for run in runs
        if np.nanmin([run.flops_before, run.flops_after, math.inf])
        < (1 - rules.busy) * best[_product(run)]
    ]


def _product(run: Row) -> tuple[object, ...]:
    """The machine, what of it a process has, and the type of the product measured on it."""
    return run.device_name, run.threads, run.processes, run.peak_flops_dtype
