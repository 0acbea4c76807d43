"""Speeds: which runs may be compared by them, and when the machine was busy."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import pandas as pd

from conf.schema import ReportConf
from reports.read import Records, Row
from reports.statistics import Estimate, mean_ratio

# A stage that is not for speed is said to be faster where it surely is by more than this.
WORTHWHILE = 1.01
YEAR = 365 * 24 * 3600.0  # in seconds; a damaged record may say more of a run


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

    @property
    def is_claim(self) -> bool:
        return self.pace in (Pace.faster, Pace.slower)

    @property
    def is_worthwhile(self) -> bool:
        return self.pace is Pace.faster and self.estimate.low > WORTHWHILE


def speed_up(
    before: Sequence[Row], after: Sequence[Row], shared: Collection[str], rules: ReportConf
) -> SpeedUp | None:
    """The speed-up over the rounds, seed and repeat, that both have; None where they have none."""
    first, second = (
        {(r.seed, r.repeat, r.equal_speed): r for r in runs if 0 < r.tokens_per_second < math.inf}
        for runs in (before, after)
    )
    pairs = [(first[key], run) for key, run in second.items() if key in first]
    if not pairs:
        return None
    ratios = np.array([b.tokens_per_second / a.tokens_per_second for a, b in pairs])
    runs = [run for pair in pairs for run in pair]
    in_turn = sorted(sorted(run.started for run in pair) for pair in pairs)
    starts = [start for pair in in_turn for start in pair]
    doubts = {
        Doubt.shared: any(run.run in shared for run in runs),
        Doubt.interrupted: any(run.resumed_at for run in runs),
        Doubt.hosts: len({run.host for run in runs}) > 1,
        Doubt.few: len(pairs) < rules.minimum_rounds,
        Doubt.apart: starts != sorted(starts),
    }
    doubt = next((doubt for doubt, holds in doubts.items() if holds), None)
    return SpeedUp(mean_ratio(ratios, rules), doubt)


def find_shared(records: Records) -> set[str]:
    """The names of runs that trained while another of these runs did, on the same machine."""
    # When a run that was resumed paused is not recorded.
    runs = records.runs[~records.runs["resumed_at"].astype(bool)]
    start = pd.to_datetime(runs["started"], utc=True, format="ISO8601")
    ended = pd.to_datetime(runs["ended"], utc=True, format="ISO8601").dt.as_unit("us")
    seconds = runs["run"].map(records.steps.groupby("run")["seconds"].max()).fillna(0)
    last_step = start + pd.to_timedelta(seconds.clip(0, YEAR), unit="s")
    unclosed = last_step.mask(runs["status"] == "running", pd.Timestamp.now("UTC"))
    end = ended.where(ended.notna(), unclosed.dt.as_unit("us"))
    runs = runs.assign(start=start, end=end).sort_values(["start", "end"])
    host = runs.groupby("host")
    latest = host["end"].cummax().groupby(runs["host"]).shift()
    both = (runs["start"] < latest) | (runs["end"] > host["start"].shift(-1))
    return set(runs["run"][both])


def find_busy(runs: Sequence[Row], rules: ReportConf) -> list[str]:
    """The names of runs around which the machine's matrix products were slower than at its best."""
    table = pd.DataFrame(runs)
    product = ["device_name", "threads", "processes", "peak_flops_dtype"]
    best = table.groupby(product, dropna=False)["peak_flops"].transform("max")
    slowest = table[["flops_before", "flops_after"]].min(axis=1)
    return table["run"][slowest < (1 - rules.busy) * best].tolist()
