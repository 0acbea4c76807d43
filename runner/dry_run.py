"""`dry_run=true`: the runs that a command asks for, and how long those will take that are left."""

import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from conf.errors import UsageError
from conf.schema import DataConf
from runner.command import NOT_SHARED, composed, read_ablation, read_quickly
from runner.data.hellaswag import items_sha256
from runner.data.source import find_source
from runner.expansion import expand, hydra_open, parse
from runner.identity import ROUND, fingerprint, override_key, resolved
from runner.messages import duration, say
from runner.record import WEIGHTS, Run, Status, read_runs
from runner.settings import read_settings
from stages.ladder import flatten, read_ladder

# The settings that decide how long a step takes, roughly.
COSTLY = (
    "model.n_layer", "model.n_head", "model.n_embd", "train.micro_batch_size", "train.context",
    "train.total_batch_tokens", "train.autocast", "train.compile", "train.flow_checks",
    "evaluation.tokens", "evaluation.samples", "evaluation.hellaswag", "evaluation.hellaswag_items",
    "device",
)  # fmt: skip
# Steps of a run that is trained to measure how long a step takes.
MEASURED_STEPS = 10
# Runs that begin within so many seconds after another ended are of one sweep.
BETWEEN_RUNS_S = 20


@dataclass
class Row:
    """The runs that differ in `ROUND` alone: their overrides, and the state of each round.

    `to_train` counts those that are left and that no row before trains too.
    """

    stage: str
    same_as: str | None
    said: str
    overrides: list[str]
    plain: dict[str, Any]
    states: dict[tuple[int, ...], Status | None] = field(default_factory=dict)
    to_train: int = 0

    @property
    def experiment(self) -> Path:
        return Path(self.plain["output_dir"]).expanduser() / self.plain["experiment"]

    @property
    def steps(self) -> int:
        return int(self.plain["train"]["steps"])

    @property
    def every(self) -> int | None:
        """Steps between two evaluations."""
        every: int | None = self.plain["evaluation"]["every"]
        return every

    @property
    def cost(self) -> tuple[Any, ...]:
        """The settings that decide how long it takes."""
        return _costly(self.plain)

    @property
    def left(self) -> int:
        return sum(status is None for status in self.states.values())


@dataclass(frozen=True)
class Cost:
    """Seconds of a run that do not depend on its steps, of each step, and of each evaluation."""

    fixed: float
    step: float
    evaluation: float

    def of(self, steps: int, every: int | None) -> float:
        """Seconds of a run of so many steps, evaluated every so often and at the end."""
        return self.fixed + self.step * steps + self.evaluation * _evaluations(steps, every)


def list_runs(overrides: Sequence[str], config_dirs: Sequence[Path], console: Console) -> None:
    """Print what the command would train. Raises UsageError and Hydra's errors."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    constant = [o.input_line for o in parsed if not o.is_sweep_override()]
    with hydra_open(config_dirs):
        cfg = compose("config", constant, return_hydra_config=True)
        runs = expand(dict(cfg.hydra.sweeper.params or {}), overrides, config_dirs)
        rows = _rows(runs, config_dirs)
    found = {e: read_runs(e) for e in dict.fromkeys(row.experiment for row in rows)}
    trained: set[tuple[Path, str]] = set()
    for row in rows:
        _find_states(row, found[row.experiment], trained)
    costs = _costs([run for records in found.values() for run in records.values()])
    _print_rows(rows, cfg, console)
    total = sum(len(row.states) for row in rows)
    left, to_train = sum(row.left for row in rows), sum(row.to_train for row in rows)
    same = f", {left - to_train} the same as one of these" if left > to_train else ""
    runs_in_words = f"{total} run{'s' if total > 1 else ''}"
    say(console, f"{runs_in_words}: {total - left} finished, {to_train} to train{same}.")
    if left:
        rows = [row for row in rows if row.to_train]
        for row in rows:
            if row.cost not in costs:
                costs[row.cost] = _measured(row, config_dirs, console)
        seconds = sum(row.to_train * costs[row.cost].of(row.steps, row.every) for row in rows)
        say(console, f"One after another, they will take about {duration(seconds)} here.")


def _rows(runs: Sequence[Sequence[str]], config_dirs: Sequence[Path]) -> list[Row]:
    stages = read_ladder(config_dirs)
    common = set.intersection(*(set(run) for run in runs))
    rows: dict[tuple[str, ...], Row] = {}
    for run in runs:
        rest = tuple(o for o in run if override_key(o) not in (*ROUND, "dry_run", "plan"))
        if rest not in rows:
            stage, same_as, cfg = read_quickly(rest, stages)
            read_settings(cfg)
            asked = read_ablation(rest)
            shown = [o for o in rest if o not in common and override_key(o) not in NOT_SHARED]
            said = " ".join([asked.stage, *asked.overrides, *shown])
            rows[rest] = Row(stage, same_as, said, list(rest), resolved(cfg))
        typed = [override for override in run if override_key(override) in ROUND]
        values = {**rows[rest].plain, **parse(typed)}
        if not all(type(values[key]) is int for key in ROUND):  # in quotes, or a mistake
            values = resolved(composed(*typed))
        rows[rest].states[tuple(values[key] for key in ROUND)] = None
    return list(rows.values())


def _find_states(row: Row, records: Mapping[Path, Run], trained: set[tuple[Path, str]]) -> None:
    """Fill in the state of a row's runs, as they would be found finished, or not.

    `trained` are those of the rows before, to which its own are added: experiment, fingerprint.
    """
    kept = row.plain["checkpoint"] != "none"
    known: dict[str, Status] = {}
    for file, run in records.items():
        if run.status.is_final and (not kept or (file.parent / WEIGHTS).exists()):
            known[run.fingerprint] = run.status
    data, cache_dir = row.plain["data"], row.plain["cache_dir"]
    text = _data_sha256(tuple(data.items()), cache_dir)
    path = row.plain["evaluation"]["hellaswag"]
    items = items_sha256(path, Path(cache_dir).expanduser()) if path is not None else None
    force = row.plain["force"]
    for each in row.states:
        values = dict(zip(ROUND, each, strict=True))
        identity = fingerprint({**row.plain, **values}, text, items)
        row.states[each] = None if force else known.get(identity)
        if row.states[each] is None and (force or (row.experiment, identity) not in trained):
            trained.add((row.experiment, identity))
            row.to_train += 1


@cache
def _data_sha256(data: tuple[tuple[str, Any], ...], cache_dir: str) -> str:
    return find_source(DataConf(**dict(data)), Path(cache_dir).expanduser()).sha256


def _print_rows(rows: Sequence[Row], cfg: DictConfig, console: Console) -> None:
    if cfg.plan:
        say(console, f"{cfg.plan.title}: {cfg.plan.question}", "bold")
    table = Table(box=None, pad_edge=False)
    table.add_column("run", overflow="fold")
    table.add_column("finished", justify="right")
    for row in rows:
        remark = f"  (is {row.stage})" if row.stage != row.said.split()[0] else ""
        if row.same_as:
            remark = f"  (not applicable: trains exactly as {row.same_as})"
        table.add_row(f"{row.said}{remark}", f"{len(row.states) - row.left} of {len(row.states)}")
    console.print(table, highlight=False, markup=False)


def _costs(records: Sequence[Run]) -> dict[tuple[Any, ...], Cost]:
    """What the finished runs of this machine took, by their costly settings: medians."""
    here = [run for run in records if run.process.host == platform.node()]
    here = sorted((run for run in here if run.ended), key=lambda run: run.started)
    found: dict[tuple[Any, ...], list[Cost]] = defaultdict(list)
    for run, following in zip_longest(here, here[1:]):
        if run.status is Status.finished and not run.resumed_at:
            assert run.ended is not None
            start, end = map(datetime.fromisoformat, (run.started, run.ended))
            if following is not None:  # until the next run of the sweep begins
                begins = datetime.fromisoformat(following.started)
                end = begins if 0 <= (begins - end).total_seconds() < BETWEEN_RUNS_S else end
            found[_costly(run.config)].append(_cost(run, (end - start).total_seconds()))
    return {
        key: Cost(
            *(statistics.median(getattr(c, entry.name) for c in costs) for entry in fields(Cost))
        )
        for key, costs in found.items()
    }


def _cost(run: Run, seconds: float) -> Cost:
    steps, training, evaluating = run.results.steps, run.timings.train_s, run.timings.evaluation_s
    evaluations = _evaluations(int(steps), flatten(run.config).get("evaluation.every"))
    return Cost(seconds - training - evaluating, training / steps, evaluating / evaluations)


def _evaluations(steps: int, every: int | None) -> int:
    """How often a run is evaluated: during training, and at the end."""
    return 1 + ((steps - 1) // every if every else 0)


def _costly(config: Mapping[str, Any]) -> tuple[Any, ...]:
    flat = flatten(config)
    own = [(k, v) for k, v in flat.items() if k.startswith(("model.target", "model.arguments."))]
    return (*(flat.get(key) for key in COSTLY), repr(own))


def _measured(row: Row, config_dirs: Sequence[Path], console: Console) -> Cost:
    """The cost of a run, by training a few steps of it."""
    say(console, f"No record of such runs yet: measuring {MEASURED_STEPS} steps of {row.said} ...")
    with tempfile.TemporaryDirectory() as output:
        measured = [f"train.steps={MEASURED_STEPS}", f"output_dir={output}"]
        replaced = ("train.steps", "output_dir", "hydra.callbacks.report")
        kept = [
            override
            for override in row.overrides
            if override_key(override) not in replaced
            and not override.startswith(("hydra/launcher", "hydra.launcher"))  # this runs here
        ]
        command = [sys.executable, "-m", "runner", *(f"--config-dir={d}" for d in config_dirs)]
        command += [*kept, *measured, "~hydra.callbacks.report"]
        left_out = ("HYDRA_FULL_ERROR", "WORLD_SIZE")  # it is measured on one process
        plain = {key: value for key, value in os.environ.items() if key not in left_out}
        done = subprocess.run(command, capture_output=True, errors="backslashreplace", env=plain)
        runs = list(read_runs(Path(output) / row.plain["experiment"]).values())
        if not (runs and runs[0].status is Status.finished and runs[0].ended):
            raise UsageError(
                f"{row.said} could not be measured: {(done.stderr or done.stdout)[-300:]}"
            )
    start, end = map(datetime.fromisoformat, (runs[0].started, runs[0].ended))
    return _cost(runs[0], (end - start).total_seconds())
