"""What may be compared with what, the differences, how sure they are, and a verdict a stage.

Losses are in nats/token; a difference is after minus before, so below zero is better. A speed-up
is a ratio of tokens per second; above one is faster.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from reports.records import WARMUP_STEPS, Records, rows

Floats = npt.NDArray[np.float64]
Run = dict[str, Any]

# Runs are compared only where all of these are equal.
CONDITIONS = ("data_sha256", "scale", "device", "device_name", "code", "torch", "variant")
CONFIDENCE = 0.95
# About 95 % of a normal distribution lies within two standard deviations.
NOISE_WIDTHS = 2.0
# A loss this many standard deviations of the run's own scatter above its last steps is a spike.
SPIKE_WIDTHS = 8.0
SPIKE_WINDOW = 5
MINIMUM_STEPS_FOR_NOISE = 8


@dataclass(frozen=True)
class Estimate:
    """A difference (neutral 0) or a speed-up (neutral 1) with the interval it lies in.

    With several seeds the interval is the 95 % confidence interval of the mean of the differences
    paired by seed (Student's t), and `p` its two-sided p-value. With one seed it is the value give
    or take twice the runs' own noise, and `p` is NaN. NaN bounds mean that the noise is unknown.
    """

    value: float
    low: float
    high: float
    seeds: int
    neutral: float
    p: float = math.nan

    @property
    def told(self) -> bool:
        """Whether the data can tell the value from no effect at all."""
        return self.low > self.neutral or self.high < self.neutral

    @property
    def up(self) -> bool:
        """Told, and above no effect: a higher loss, or a higher speed."""
        return self.low > self.neutral

    @property
    def down(self) -> bool:
        """Told, and below no effect: a lower loss, or a lower speed."""
        return self.high < self.neutral


@dataclass(frozen=True)
class Verdict:
    """A judgement of a stage: `tone` is good, bad, even or none; `text` says why."""

    tone: str
    text: str


@dataclass
class Stage:
    """A rung of one group of comparable runs, over its seeds.

    `runs` holds one run a seed: the newest that finished, else the newest. `mean` and `spread`
    (standard deviation over seeds, NaN for one) are over the finished runs, or over all of them
    where none has finished. `previous` is the stage it is compared with: the highest below it that
    finished; `skips` says that another lies between. `still_without` are the techniques not
    applied for a reason that a stage below already gave. Of two estimates of a loss, `loss_` is of
    the held-out one and `best_` of the interval's lower end.
    """

    name: str
    title: str
    number: float
    aim: str
    runs: list[Run]
    mean: dict[str, float]
    spread: dict[str, float]
    status: str
    spikes: dict[str, list[int]]
    clipped: tuple[int, int] | None
    previous: str = ""
    skips: bool = False
    still_without: list[str] = field(default_factory=list)
    loss_vs_previous: Estimate | None = None
    loss_vs_baseline: Estimate | None = None
    best_vs_previous: Estimate | None = None
    best_vs_baseline: Estimate | None = None
    speed_vs_previous: Estimate | None = None
    speed_vs_baseline: Estimate | None = None
    verdict: Verdict = field(default_factory=lambda: Verdict("none", ""))

    @property
    def finished(self) -> list[Run]:
        return [run for run in self.runs if run["status"] == "finished"]

    @property
    def seeds(self) -> list[float]:
        return [run["seed"] for run in self.runs]

    @property
    def newest(self) -> Run:
        return max(self.finished or self.runs, key=lambda run: run["started"])

    @property
    def is_flow(self) -> bool:
        return self.aim == "flow"

    @property
    def not_applied(self) -> dict[str, str]:
        return {what: why for run in self.runs for what, why in run["not_applied"].items()}


@dataclass
class Group:
    """Runs that may be compared, as the rungs of a ladder."""

    conditions: dict[str, str]
    stages: list[Stage]

    @property
    def runs(self) -> list[Run]:
        return [run for stage in self.stages for run in stage.runs]

    @property
    def ladder(self) -> list[Stage]:
        """The stages that can be compared: all but the short flow check."""
        return [stage for stage in self.stages if not stage.is_flow]

    @property
    def baseline(self) -> Stage | None:
        """The baseline, where it has finished."""
        found = [stage for stage in self.stages if stage.aim == "baseline" and stage.finished]
        return found[0] if found else None

    @property
    def last(self) -> Stage | None:
        """The highest stage that has finished."""
        found = [stage for stage in self.ladder if stage.finished]
        return found[-1] if found else None

    @property
    def seeds(self) -> list[float]:
        return sorted({run["seed"] for run in self.runs if not math.isnan(run["seed"])})


Curves = dict[str, dict[str, Floats]]


def curves_of(records: Records) -> Curves:
    """The columns of steps.csv as arrays, by run; a run without steps has empty ones."""
    wanted = ("step", "loss", "grad_norm", "lr", "step_ms", "tokens", "tokens_seen", "seconds")
    empty = {column: np.empty(0) for column in wanted}
    curves: Curves = dict.fromkeys(records.runs["run"], empty)
    for name, table in records.steps.groupby("run", sort=False):
        curves[str(name)] = {column: table[column].to_numpy(dtype=float) for column in wanted}
    return curves


def compare(records: Records) -> list[Group]:
    """The groups of comparable runs, the main one first.

    The main group is the one with the most stages, then one without overrides, then the newest.
    """
    curves = curves_of(records)
    members: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run in rows(records.runs):
        members[tuple(run[key] for key in CONDITIONS)].append(run)

    def rank(key: tuple[str, ...]) -> tuple[int, bool, str]:
        runs = members[key]
        stages = len({run["stage"] for run in runs})
        return stages, not runs[0]["variant"], max(run["started"] for run in runs)

    return [
        _group(dict(zip(CONDITIONS, key, strict=True)), members[key], curves)
        for key in sorted(members, key=rank, reverse=True)
    ]


def differing(group: Group, main: Group) -> list[str]:
    """The conditions in which a group differs from the main one."""
    return [key for key in CONDITIONS if group.conditions[key] != main.conditions[key]]


def _group(conditions: dict[str, str], runs: list[Run], curves: Curves) -> Group:
    by_stage: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_stage[run["stage"]].append(run)
    stages = [_stage(chosen(stage_runs), curves) for stage_runs in by_stage.values()]
    stages.sort(key=lambda stage: (math.isnan(stage.number), stage.number, stage.name))
    group = Group(conditions, stages)
    baseline = group.baseline
    for stage in group.ladder:
        before = [other for other in group.ladder if other.finished and other.number < stage.number]
        if before:
            previous = before[-1]
            stage.previous = previous.name
            stage.skips = previous is not group.ladder[group.ladder.index(stage) - 1]
            stage.loss_vs_previous = difference(
                previous.finished, stage.finished, "held_out", curves
            )
            stage.best_vs_previous = difference(previous.finished, stage.finished, "best", curves)
            stage.speed_vs_previous = speed_up(previous.finished, stage.finished, curves)
        if baseline is not None and stage is not baseline:
            stage.loss_vs_baseline = difference(
                baseline.finished, stage.finished, "held_out", curves
            )
            stage.best_vs_baseline = difference(baseline.finished, stage.finished, "best", curves)
            stage.speed_vs_baseline = speed_up(baseline.finished, stage.finished, curves)
    known: dict[str, str] = {}
    for stage in stages:
        stage.verdict = _verdict(stage)
        stage.still_without = [w for w, why in stage.not_applied.items() if known.get(w) == why]
        known |= stage.not_applied
    return group


def chosen(runs: Sequence[Run]) -> list[Run]:
    """One run a seed: the newest that finished, else the newest; in order of seed."""
    best: dict[float, Run] = {}
    for run in sorted(runs, key=lambda run: (run["status"] == "finished", run["started"])):
        seed = -1.0 if math.isnan(run["seed"]) else run["seed"]
        best[seed] = run
    return [best[seed] for seed in sorted(best)]


AVERAGED = (
    "worst",
    "best",
    "first",
    "last",
    "held_out",
    "tokens_per_second",
    "step_ms",
    "tokens_per_step",
    "compile_s",
    "setup_s",
    "train_s",
    "mfu",
    "peak_flops",
    "peak_memory_bytes",
)


def _stage(runs: list[Run], curves: Curves) -> Stage:
    finished = [run for run in runs if run["status"] == "finished"]
    measured = finished or runs
    newest = max(measured, key=lambda run: run["started"])
    values = {column: np.array([run[column] for run in measured]) for column in AVERAGED}
    return Stage(
        name=newest["stage"],
        title=newest["title"],
        number=newest["number"],
        aim=newest["aim"],
        runs=runs,
        mean={column: _mean(value) for column, value in values.items()},
        spread={column: _spread(value) for column, value in values.items()},
        status="finished" if finished else newest["status"],
        spikes={
            run["run"]: found
            for run in runs
            if (found := spikes(curves[run["run"]]["step"], curves[run["run"]]["loss"]))
        },
        clipped=_clipped(measured, curves),
    )


def _mean(values: Floats) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else math.nan


def _spread(values: Floats) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.std(ddof=1)) if len(finite) > 1 else math.nan


def _clipped(runs: list[Run], curves: Curves) -> tuple[int, int] | None:
    """How many steps had a gradient above the clipping threshold, of how many."""
    clipping = [run for run in runs if not math.isnan(run["clip_grad_norm"])]
    if not clipping:
        return None
    norms = [(curves[run["run"]]["grad_norm"], run["clip_grad_norm"]) for run in clipping]
    return (
        sum(int((norm > threshold).sum()) for norm, threshold in norms),
        sum(len(norm) for norm, _ in norms),
    )


def scatter(values: Floats) -> float:
    """Standard deviation of a series about its smooth trend; NaN for fewer than eight values.

    From second differences, of which independent noise of variance s^2 gives 6 s^2 and a smooth
    trend next to nothing (Gasser, Sroka and Jennen-Steinmetz, Biometrika 73, 1986).
    """
    if len(values) < MINIMUM_STEPS_FOR_NOISE or not np.isfinite(values).all():
        return math.nan
    return float(np.sqrt(np.mean(np.diff(values, 2) ** 2) / 6))


def loss_noise(before: Run, after: Run, curves: Curves) -> float:
    """Standard deviation of one run's loss minus another's, from their second halves.

    Runs of one seed that take equally many tokens a step see the same batches, so what the
    batches do to both is no noise: the scatter is that of the step by step difference. Otherwise
    the runs' own scatters add in quadrature.
    """
    a, b = curves[before["run"]], curves[after["run"]]
    length = min(len(a["loss"]), len(b["loss"]))
    half = length // 2
    if length and np.array_equal(a["tokens_seen"][:length], b["tokens_seen"][:length]):
        return scatter(b["loss"][half:length] - a["loss"][half:length])
    return math.hypot(*(scatter(curve["loss"][len(curve["loss"]) // 2 :]) for curve in (a, b)))


def speed_noise(run: Run, curves: Curves) -> float:
    """Relative standard deviation of a steady step's time, robust to single slow steps."""
    step_ms = curves[run["run"]]["step_ms"][WARMUP_STEPS:]
    if len(step_ms) < MINIMUM_STEPS_FOR_NOISE or not (step_ms > 0).all():
        return math.nan
    log_ms = np.log(step_ms)
    # 1.4826 x the median absolute deviation is a normal distribution's standard deviation.
    return float(1.4826 * np.median(np.abs(log_ms - np.median(log_ms))))


def difference(
    before: Sequence[Run], after: Sequence[Run], column: str, curves: Curves
) -> Estimate | None:
    """`column` (a loss) after minus before, paired by seed; None where no seed has both."""
    return _paired(
        before,
        after,
        lambda a, b: float(b[column] - a[column]),
        lambda a, b: loss_noise(a, b, curves),
    )


def speed_up(before: Sequence[Run], after: Sequence[Run], curves: Curves) -> Estimate | None:
    """Tokens per second after over before, paired by seed, in logarithms."""

    def log_ratio(a: Run, b: Run) -> float:
        if not (a["tokens_per_second"] > 0 and b["tokens_per_second"] > 0):
            return math.nan
        return math.log(b["tokens_per_second"] / a["tokens_per_second"])

    found = _paired(
        before,
        after,
        log_ratio,
        lambda a, b: math.hypot(speed_noise(a, curves), speed_noise(b, curves)),
    )
    if found is None:
        return None
    value, low, high = (math.exp(bound) for bound in (found.value, found.low, found.high))
    return Estimate(value, low, high, found.seeds, neutral=1.0, p=found.p)


def _paired(
    before: Sequence[Run],
    after: Sequence[Run],
    measure: Callable[[Run, Run], float],
    noise: Callable[[Run, Run], float],
) -> Estimate | None:
    by_seed = {run["seed"]: run for run in before}
    pairs = [(by_seed[run["seed"]], run) for run in after if run["seed"] in by_seed]
    pairs = [pair for pair in pairs if math.isfinite(measure(*pair))]
    values = np.array([measure(*pair) for pair in pairs])
    if not len(values):
        return None
    value = float(values.mean())
    if len(values) == 1:
        width = NOISE_WIDTHS * noise(*pairs[0])
        return Estimate(value, value - width, value + width, 1, neutral=0.0)
    low, high, p = t_interval(values)
    return Estimate(value, low, high, len(values), neutral=0.0, p=p)


def t_interval(values: Floats) -> tuple[float, float, float]:
    """95 % confidence interval of the mean and the p-value of its being zero, Student's t.

    From scipy.special: importing scipy.stats takes longer than the rest of a report.
    """
    from scipy.special import stdtr, stdtrit

    freedom = len(values) - 1
    mean, error = float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))
    if error == 0:
        return mean, mean, 1.0 if mean == 0 else 0.0
    width = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * error
    return mean - width, mean + width, 2 * float(stdtr(freedom, -abs(mean) / error))


def spikes(step: Floats, loss: Floats) -> list[int]:
    """Steps at which the loss jumped far above the median of the five before; a jump counts once.

    Far is eight times the run's own scatter, taken robustly so that a spike does not hide itself.
    """
    if len(loss) < MINIMUM_STEPS_FOR_NOISE + SPIKE_WINDOW:
        return []
    second = np.diff(loss, 2)
    second = second[np.isfinite(second)]
    if not len(second):
        return []
    width = 1.4826 * float(np.median(np.abs(second))) / math.sqrt(6)
    found: list[int] = []
    inside = False
    for at in range(SPIKE_WINDOW, len(loss)):
        window = loss[at - SPIKE_WINDOW : at]
        window = window[np.isfinite(window)]
        jumped = bool(len(window)) and loss[at] - np.median(window) > SPIKE_WIDTHS * width > 0
        if jumped and not inside:
            found.append(int(step[at]))
        inside = jumped
    return found


def _verdict(stage: Stage) -> Verdict:
    if stage.status != "finished":
        return _unfinished(stage.newest)
    if stage.is_flow:
        return _flow(stage)
    lost = [run for run in stage.runs if run["status"] != "finished"]
    verdict = _finished(stage)
    if lost:
        states = ", ".join(f"seed {run['seed']:.0f} {run['status']}" for run in lost)
        tone = "bad" if any(run["status"] in ("diverged", "failed") for run in lost) else "even"
        return Verdict(tone, f"{verdict.text}; but {states}")
    return verdict


def _unfinished(run: Run) -> Verdict:
    if run["status"] == "diverged":
        at = "" if math.isnan(run["diverged_at"]) else f" at step {run['diverged_at']:.0f}"
        return Verdict("bad", f"diverged{at}")
    if run["status"] == "failed":
        return Verdict("bad", f"failed: {run['message']}" if run["message"] else "failed")
    planned = "" if math.isnan(run["steps_planned"]) else f" of {run['steps_planned']:.0f}"
    words = "still running" if run["status"] == "running" else "interrupted"
    return Verdict("none", f"{words}, {run['steps']} steps{planned} done")


def _flow(stage: Stage) -> Verdict:
    checks = stage.newest["checks"]
    if not checks:
        return Verdict("none", "ran; no checks recorded")
    failed = [check["name"] for check in checks if not check["passed"]]
    if failed:
        return Verdict("bad", f"{len(failed)} of {len(checks)} checks failed: {'; '.join(failed)}")
    return Verdict("good", "all checks passed")


def _finished(stage: Stage) -> Verdict:
    if stage.aim == "baseline":
        return Verdict("none", "what the others are measured against")
    loss, speed = stage.loss_vs_previous, stage.speed_vs_previous
    if loss is None:
        return Verdict("none", "no earlier stage to compare with")
    if stage.aim == "speed":
        return _speed(loss, speed)
    if stage.aim == "stability" and stage.clipped is not None:
        over, of = stage.clipped
        if not over:
            return Verdict("even", "the threshold was never reached, so it could change nothing")
        tone, words = _loss_words(loss)
        return Verdict(tone, f"{over} of {of} steps clipped; {words}")
    tone, words = _loss_words(loss)
    return Verdict(tone, words)


def _loss_words(loss: Estimate) -> tuple[str, str]:
    if math.isnan(loss.low):
        return "none", "too few steps to know the noise"
    if loss.down:
        return "good", "lower loss"
    if loss.up:
        return "bad", "higher loss"
    return "even", "no difference in loss that this data can show"


def _speed(loss: Estimate, speed: Estimate | None) -> Verdict:
    if speed is None or math.isnan(speed.low):
        return Verdict("none", "too few steps to know the speed's noise")
    tone, words = (
        ("good", "faster")
        if speed.up
        else ("bad", "slower")
        if speed.down
        else ("even", "no faster")
    )
    if math.isnan(loss.low):
        return Verdict(tone, f"{words}; too few steps to say whether the loss moved")
    if loss.up:
        return Verdict("bad", f"{words}, but the loss rose")
    if loss.down:
        return Verdict(tone, f"{words}, and the loss fell, which a speed stage is not meant to do")
    return Verdict(tone, f"{words}, loss left alone")
