"""`dry_run=true`: the runs of a command, and how long the remaining ones will take.

The estimate is from the most similar finished runs on this machine in the same experiment.
"""

import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from conf.keys import keys
from conf.schema import Checkpoint, Config, DataConf, Role
from gpt2.config import KNOBS
from runner.command import Request, composed
from runner.data.hellaswag import items_sha256
from runner.data.source import find_source
from runner.folder import is_done
from runner.identity import fingerprint, measured, resolved
from runner.messages import duration, say
from runner.overrides import hydra_open, override_key, parse, read_sweep
from runner.record import Run, Status, read_runs
from runner.settings import read_settings
from stages.ladder import read_ladder

# The keys in which the runs of one row differ.
ROUND = [key.name for key in keys() if key.role is Role.round]
# A run that begins within so many seconds after another ended is of the same sweep.
BETWEEN_RUNS_S = 20


@dataclass
class PlannedRuns:
    """Runs that differ only in `ROUND`: their configuration, and which rounds are done.

    `to_train` counts the remaining runs that no earlier row trains.
    """

    shown: str
    remark: str
    plain: dict[str, Any]
    done: dict[tuple[int, ...], bool] = field(default_factory=dict)
    to_train: int = 0

    @property
    def experiment(self) -> Path:
        return Path(self.plain["output_dir"]).expanduser() / self.plain["experiment"]

    @property
    def left(self) -> int:
        return len(self.done) - sum(self.done.values())


@dataclass(frozen=True)
class Pace:
    """Seconds of a finished run: a fixed part, per token, and per evaluation."""

    settings: dict[str, Any]
    fixed: float
    token: float
    evaluation: float

    @classmethod
    def of(cls, run: Run, seconds: float) -> "Pace":
        """The pace of a run that took this many seconds in total."""
        settings = measured(run.config)
        training, evaluating = run.timings.train_s, run.timings.evaluation_s
        token = training / (run.results.steps * run.results.tokens_per_step)
        evaluation = evaluating / _evaluations(settings, int(run.results.steps))
        return cls(settings, seconds - training - evaluating, token, evaluation)

    def seconds(self, settings: Mapping[str, Any]) -> float:
        """How long a run with these settings takes at this pace."""
        steps = settings["train.steps"]
        micro_batch = settings["train.micro_batch_size"] * settings["train.context"]
        tokens = steps * (settings["train.total_batch_tokens"] or micro_batch)
        evaluations = _evaluations(settings, steps)
        return self.fixed + self.token * tokens + self.evaluation * evaluations


def is_dry_run(overrides: Sequence[str]) -> bool:
    """Whether to list the runs instead of training them."""
    asked = parse([o for o in overrides if override_key(o) == "dry_run"])
    return bool(OmegaConf.merge(Config, asked).dry_run) if asked else False


def plan_runs(
    overrides: Sequence[str], config_dirs: Sequence[Path]
) -> tuple[DictConfig, list[PlannedRuns]]:
    """What is common to a sweep's runs as Hydra composes it, and the runs.

    Raises UsageError and Hydra's errors for a mistake in any of them.
    """
    with hydra_open(config_dirs):
        cfg, runs = read_sweep(overrides, config_dirs)
        return cfg, _rows(runs, config_dirs)


def list_runs(overrides: Sequence[str], config_dirs: Sequence[Path], console: Console) -> None:
    """Print what the command would train. Raises UsageError and Hydra's errors."""
    cfg, rows = plan_runs(overrides, config_dirs)
    records = {e: read_runs(e) for e in dict.fromkeys(row.experiment for row in rows)}
    trained: set[tuple[Path, str]] = set()
    for row in rows:
        _find_done(row, records[row.experiment], trained)
    _print_rows(rows, cfg, console)
    total = sum(len(row.done) for row in rows)
    left, to_train = sum(row.left for row in rows), sum(row.to_train for row in rows)
    same = f", {left - to_train} the same as one of these" if left > to_train else ""
    runs_in_words = f"{total} run{'s' if total > 1 else ''}"
    say(console, f"{runs_in_words}: {total - left} finished, {to_train} to train{same}.")
    paces = _paces([run for experiment in records.values() for run in experiment.values()])
    known, unknown = 0.0, 0
    for row in rows:
        estimate = _estimate(row, paces)
        known, unknown = known + (estimate or 0.0), unknown + row.to_train * (estimate is None)
    if known:
        which = f"{to_train - unknown} of them" if unknown else "they"
        say(console, f"One after another, {which} will take about {duration(known)} here.")
    if unknown:
        which = f"the other {unknown}" if known else "they"
        say(
            console,
            f"How long {which} take is not known: no run of such a model on this device has "
            "finished here; train one of them, and ask again.",
        )


def _rows(runs: Sequence[Sequence[str]], config_dirs: Sequence[Path]) -> list[PlannedRuns]:
    stages = read_ladder(config_dirs)
    common = set.intersection(*(set(run) for run in runs))
    rows: dict[tuple[str, ...], PlannedRuns] = {}
    for run in runs:
        rest = tuple(o for o in run if override_key(o) not in [*ROUND, "dry_run", "plan"])
        if rest not in rows:
            request = Request.read(rest, stages)
            cfg = request.configuration()
            read_settings(cfg)
            asked, name = request.ablation, request.stage.name
            typed = [o for o in request.shared if o not in common]
            remark = f"  (is {name})" if name != asked.stage else ""
            if same_as := request.same_as:
                remark = f"  (not applicable: trains exactly as {same_as})"
            shown = " ".join([asked.stage, *asked.overrides, *typed])
            rows[rest] = PlannedRuns(shown, remark, resolved(cfg))
        typed = [override for override in run if override_key(override) in ROUND]
        values = {**rows[rest].plain, **parse(typed)}
        if not all(type(values[key]) is int for key in ROUND):  # in quotes, or a mistake
            values = resolved(composed(*typed))
        rows[rest].done[tuple(values[key] for key in ROUND)] = False
    return list(rows.values())


def _find_done(
    row: PlannedRuns, records: Mapping[Path, Run], trained: set[tuple[Path, str]]
) -> None:
    """Note which of a row's runs are already done.

    `trained` has experiment and fingerprint of the earlier rows' runs; this row's runs are added.
    """
    kept = row.plain["checkpoint"] != Checkpoint.none.name
    done = {run.fingerprint for file, run in records.items() if is_done(run, file.parent, kept)}
    data, cache_dir = row.plain["data"], row.plain["cache_dir"]
    text = _data_sha256(tuple(data.items()), cache_dir)
    path = row.plain["evaluation"]["hellaswag"]
    items = items_sha256(path, Path(cache_dir).expanduser()) if path is not None else None
    force = row.plain["force"]
    for place in row.done:
        values = dict(zip(ROUND, place, strict=True))
        identity = fingerprint({**row.plain, **values}, text, items)
        row.done[place] = identity in done and not force
        if not row.done[place] and (force or (row.experiment, identity) not in trained):
            trained.add((row.experiment, identity))
            row.to_train += 1


@cache
def _data_sha256(data: tuple[tuple[str, Any], ...], cache_dir: str) -> str:
    return find_source(DataConf(**dict(data)), Path(cache_dir).expanduser()).sha256


def _print_rows(rows: Sequence[PlannedRuns], cfg: DictConfig, console: Console) -> None:
    if cfg.plan:
        say(console, f"{cfg.plan.title}: {cfg.plan.question}", "bold")
    table = Table(box=None, pad_edge=False)
    table.add_column("run", overflow="fold")
    table.add_column("finished", justify="right")
    for row in rows:
        finished = f"{len(row.done) - row.left} of {len(row.done)}"
        table.add_row(f"{row.shown}{row.remark}", finished)
    console.print(table, highlight=False, markup=False, emoji=False)


def _paces(records: Sequence[Run]) -> list[Pace]:
    """The paces of this machine's finished runs."""
    here = [run for run in records if run.ended and run.process.host == platform.node()]
    here.sort(key=lambda run: run.started)
    paces = []
    for run, following in zip_longest(here, here[1:]):
        if run.status is Status.finished and not run.resumed_at:
            start, end = (datetime.fromisoformat(str(at)) for at in (run.started, run.ended))
            if following is not None:  # until the next run of the sweep begins
                begins = datetime.fromisoformat(following.started)
                end = begins if 0 <= (begins - end).total_seconds() < BETWEEN_RUNS_S else end
            paces.append(Pace.of(run, (end - start).total_seconds()))
    return paces


def _estimate(row: PlannedRuns, paces: Sequence[Pace]) -> float | None:
    """Seconds for the runs to train: the median over the paces of the most similar runs, if any.

    Similar runs have the same device and the same model, except for what stages switch in it.
    """
    settings, switched = measured(row.plain), {f"model.{knob}" for knob in KNOBS}
    differing: dict[int, list[float]] = {}
    for pace in paces:
        other = pace.settings
        changed = {key for key in {*settings, *other} if settings.get(key) != other.get(key)}
        if not any(key == "device" or key.startswith("model.") for key in changed - switched):
            differing.setdefault(len(changed), []).append(pace.seconds(settings))
    return row.to_train * statistics.median(differing[min(differing)]) if differing else None


def _evaluations(settings: Mapping[str, Any], steps: int) -> int:
    """The number of a run's evaluations: during training, and at the end."""
    every = settings["evaluation.every"]
    return 1 + ((steps - 1) // every if every else 0)
