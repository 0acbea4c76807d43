"""Speeds: which runs may be compared by them, and when the machine was busy or throttled."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np

from conf.schema import ReportConf
from reports.read import Floats, ReadRun
from reports.statistics import Estimate, mean_ratio
from runner.record import Status, same_speed_conditions, warm_steps

# Steps at the beginning and at the end of a run whose times are compared.
DRIFT_SHARE = 1 / 3
MINIMUM_STEPS = 12
# Repeats from which a stage is compared with itself.
MINIMUM_REPEATS = 4


@dataclass(frozen=True)
class SpeedUp:
    """Tokens/s after over before; `why_no_claim` is empty where the estimate decides."""

    estimate: Estimate
    why_no_claim: str

    @property
    def claims(self) -> bool:
        return not self.why_no_claim

    @property
    def faster(self) -> bool:
        return self.claims and self.estimate.above

    @property
    def slower(self) -> bool:
        return self.claims and self.estimate.below


def speed_up(
    before: Sequence[ReadRun], after: Sequence[ReadRun], shared: set[str], rules: ReportConf
) -> SpeedUp | None:
    """The speed-up over the rounds, seed and repeat, that both have; None where they have none.

    `shared` are the names of runs that shared their machine with another.
    """
    by_round = {run.record.round: run for run in before}
    pairs = [(by_round[b.record.round], b) for b in after if b.record.round in by_round]
    return _ratio(pairs, shared, rules)


def against_itself(
    rounds: Sequence[ReadRun], shared: set[str], rules: ReportConf
) -> SpeedUp | None:
    """The speed of a stage over its own, in pairs of repeats that follow each other.

    It is 1 but for chance, and so shows how large a speed-up can be seen. Of every second pair the
    earlier repeat is on top, so that a steady drift cancels. None where no seed has four repeats.
    """
    by_seed: dict[int, list[ReadRun]] = defaultdict(list)
    for run in rounds:
        by_seed[run.record.seed].append(run)
    pairs = [
        pair
        for runs in by_seed.values()
        if len(runs) >= MINIMUM_REPEATS
        for number, pair in enumerate(zip(runs[::2], runs[1::2], strict=False))
        for pair in [pair[::-1] if number % 2 else pair]
    ]
    return _ratio(pairs, shared, rules)


def _ratio(
    pairs: Sequence[tuple[ReadRun, ReadRun]], shared: set[str], rules: ReportConf
) -> SpeedUp | None:
    pairs = [pair for pair in pairs if _has_speed(pair)]
    if not pairs:
        return None
    rates = np.array([[run.record.results.tokens_per_second for run in pair] for pair in pairs])
    return SpeedUp(mean_ratio(rates[:, 1] / rates[:, 0], rules), _doubt(pairs, shared, rules))


def _has_speed(pair: tuple[ReadRun, ReadRun]) -> bool:
    before, after = (run.record for run in pair)
    rates = before.results.tokens_per_second, after.results.tokens_per_second
    return same_speed_conditions(before, after) and all(
        math.isfinite(rate) and rate > 0 for rate in rates
    )


def _doubt(pairs: Sequence[tuple[ReadRun, ReadRun]], shared: set[str], rules: ReportConf) -> str:
    """Why a speed-up is a figure without a claim, if it is."""
    runs = [run for pair in pairs for run in pair]
    if any(run.name in shared for run in runs):
        return "runs shared the machine"
    if any(run.record.resumed_at for run in runs):
        return "runs were interrupted"
    if len({run.record.process.host for run in runs}) > 1:
        return "runs were on different hosts"
    if len(pairs) < rules.minimum_rounds:
        rounds = "one round" if len(pairs) == 1 else f"{len(pairs)} rounds"
        return f"{rounds} of the {rules.minimum_rounds} that decide"
    spans = sorted(
        (min(run.record.started for run in pair), max(run.record.started for run in pair))
        for pair in pairs
    )
    if any(end > start for (_, end), (start, _) in itertools.pairwise(spans)):
        return "the rounds were not interleaved"
    return ""


def find_shared(runs: Sequence[ReadRun]) -> set[str]:
    """The names of runs that trained while another of these runs did, on the same machine.

    Without runs that were resumed: when they paused is not recorded.
    """
    by_host: dict[str, list[tuple[datetime, datetime, str]]] = defaultdict(list)
    for run in runs:
        if not run.record.resumed_at:
            by_host[run.record.process.host].append((*_span(run), run.name))
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


def _span(run: ReadRun) -> tuple[datetime, datetime]:
    """When a run began and ended; a run that never closed its record, when its last step ended."""
    start = datetime.fromisoformat(run.record.started)
    if run.record.ended is not None:
        return start, datetime.fromisoformat(run.record.ended)
    if run.record.status is Status.running:
        return start, datetime.now(timezone.utc)
    return start, start + timedelta(seconds=max(run.curve.seconds, default=0.0))


def disturbances(runs: Sequence[ReadRun], rules: ReportConf) -> dict[str, str]:
    """What shows that the machine was busy or throttled during a run, by the run's name."""
    best: dict[tuple[Any, ...], float] = defaultdict(float)
    for run in runs:
        key = _product(run)
        best[key] = max(best[key], np.nan_to_num(run.record.results.peak_flops))
    found = {}
    for run in runs:
        results, most = run.record.results, best[_product(run)]
        slowest = np.nanmin([results.flops_before, results.flops_after, math.inf])
        drift = _drift(run)
        if slowest < (1 - rules.busy) * most:
            found[run.name] = f"matrix products at {slowest / most:.0%} of the best measured"
        elif not 1 - rules.busy < drift < 1 / (1 - rules.busy):
            found[run.name] = f"the steps at the end took {drift:.2f} times those at the start"
    return found


def _product(run: ReadRun) -> tuple[Any, ...]:
    """The machine, what of it a process has, and the type of the product measured on it."""
    on = run.record.environment
    return on.machine, on.threads, on.processes, run.record.results.peak_flops_dtype


def _drift(run: ReadRun) -> float:
    """The median step time of the last third over that of the first; 1 for a short run."""
    step_ms = warm(run)
    if len(step_ms) < MINIMUM_STEPS:
        return 1.0
    part = int(len(step_ms) * DRIFT_SHARE)
    return float(np.median(step_ms[-part:]) / np.median(step_ms[:part]))


def warm(run: ReadRun) -> Floats:
    """The milliseconds of the steps that count for speed."""
    return run.curve.step_ms[warm_steps(len(run.curve.step_ms), run.record.resumed_at)]
