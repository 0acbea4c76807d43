"""`dry_run=true`: the runs that a command asks for, and how long those will take that are left."""

import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from conf.errors import UsageError
from runner.command import NOT_SHARED, read_ablation, read_quickly
from runner.data.text import find_text, text_sha256
from runner.identity import ROUND, fingerprint, override_key, resolved
from runner.messages import say
from runner.record import Run, Status, read_runs
from runner.settings import read_settings
from stages.ladder import CONF, flatten, read_ladder
from stages.plans import expand

# The settings that decide how long a step takes, roughly.
COSTLY = (
    "model.n_layer", "model.n_head", "model.n_embd", "train.micro_batch_size", "train.context",
    "train.total_batch_tokens", "train.autocast", "train.compile", "train.flow_checks",
    "evaluation.tokens", "evaluation.every",
)  # fmt: skip
# Steps of a run that is trained to measure how long a step takes.
MEASURED_STEPS = 10
# Runs that begin within so many seconds after another ended are of one sweep.
BETWEEN_RUNS_S = 20


@dataclass
class Row:
    """The runs that differ in seed and repeat alone: their overrides, and the state of each."""

    stage: str
    said: str
    overrides: list[str]
    plain: dict[str, Any]
    states: dict[str, Status | None] = field(default_factory=dict)

    @property
    def left(self) -> int:
        return sum(status is None or not status.is_final for status in self.states.values())


@dataclass(frozen=True)
class Cost:
    """Seconds of a run that do not depend on its steps, and seconds of each step."""

    fixed: float
    step: float


def list_runs(overrides: Sequence[str], config_dirs: Sequence[Path], console: Console) -> None:
    """Print what the command would train. Raises UsageError and Hydra's errors."""
    folders = [f"'{folder.resolve()}'" for folder in config_dirs]
    searched = [f"hydra.searchpath=[{','.join(folders)}]"] if folders else []
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    constant = [o.input_line for o in parsed if not o.is_sweep_override()]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", [*searched, *constant], return_hydra_config=True)
        runs = expand(dict(cfg.hydra.sweeper.params or {}), overrides, config_dirs)
        rows = _rows([[*searched, *run] for run in runs], config_dirs)
    experiment = Path(cfg.output_dir).expanduser() / cfg.experiment
    records = list(read_runs(experiment).values())
    _find_states(rows, {run.fingerprint: run.status for run in records}, console)
    costs = _costs(records)
    _print_rows(rows, cfg, console)
    total = sum(len(row.states) for row in rows)
    left = sum(row.left for row in rows)
    say(console, f"{total} runs: {total - left} finished, {left} to train.")
    if left:
        seconds = sum(row.left * _seconds(row, costs, console) for row in rows if row.left)
        say(console, f"They will take about {_duration(seconds)} on this machine.")
    for callback in cfg.hydra.callbacks.values():
        show = getattr(instantiate(callback), "on_dry_run", None)
        if show is not None:
            show(experiment, console)


def _rows(runs: Sequence[Sequence[str]], config_dirs: Sequence[Path]) -> list[Row]:
    stages = read_ladder(config_dirs)
    common = set.intersection(*(set(run) for run in runs))
    rows: dict[tuple[str, ...], Row] = {}
    for run in runs:
        rest = tuple(o for o in run if override_key(o) not in (*ROUND, "dry_run", "plan"))
        if rest not in rows:
            stage, composed = read_quickly(rest, stages)
            read_settings(composed)
            asked = read_ablation(rest)
            shown = [o for o in rest if o not in common and override_key(o) not in NOT_SHARED]
            said = " ".join([asked.stage, *asked.overrides, *shown])
            rows[rest] = Row(stage, said, list(rest), resolved(composed))
        chosen = {override_key(o): o.partition("=")[2] for o in run}
        rows[rest].states[" ".join(chosen.get(key, "1") for key in ROUND)] = None
    return list(rows.values())


def _find_states(rows: Sequence[Row], known: Mapping[str, Status], console: Console) -> None:
    for row in rows:
        data, cache_dir = row.plain["data"], Path(row.plain["cache_dir"]).expanduser()
        name, path, url, sha256 = (data[key] for key in ("name", "path", "url", "sha256"))
        _, files, _ = find_text(name, path, url, sha256, cache_dir)
        text = text_sha256(files, cache_dir)
        for each in row.states:
            values = dict(zip(ROUND, map(int, each.split()), strict=True))
            row.states[each] = known.get(fingerprint({**row.plain, **values}, text))


def _print_rows(rows: Sequence[Row], cfg: DictConfig, console: Console) -> None:
    if cfg.plan:
        say(console, f"{cfg.plan.title}: {cfg.plan.question}", "bold")
    table = Table(box=None, pad_edge=False)
    table.add_column("run", overflow="fold")
    table.add_column("finished", justify="right")
    for row in rows:
        same = f"  (is {row.stage})" if row.stage != row.said.split()[0] else ""
        table.add_row(f"{row.said}{same}", f"{len(row.states) - row.left} of {len(row.states)}")
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
            *(statistics.median(getattr(c, name) for c in costs) for name in ("fixed", "step"))
        )
        for key, costs in found.items()
    }


def _cost(run: Run, seconds: float) -> Cost:
    in_steps = run.timings.train_s + run.timings.evaluation_s
    return Cost(seconds - in_steps, in_steps / run.results.steps)


def _costly(config: Mapping[str, Any]) -> tuple[Any, ...]:
    flat = flatten(config)
    return tuple(flat.get(key) for key in COSTLY)


def _seconds(row: Row, costs: dict[tuple[Any, ...], Cost], console: Console) -> float:
    """How long a run takes: from the records of like ones, or else measured now."""
    key = _costly(row.plain)
    if key not in costs:
        costs[key] = _measured(row, console)
    return costs[key].fixed + costs[key].step * row.plain["train"]["steps"]


def _measured(row: Row, console: Console) -> Cost:
    """The cost of a run, by training a few steps of it."""
    say(console, f"No record of such runs yet: measuring {MEASURED_STEPS} steps of {row.said} ...")
    with tempfile.TemporaryDirectory() as output:
        measured = [f"train.steps={MEASURED_STEPS}", f"output_dir={output}"]
        replaced = ("train.steps", "output_dir", "hydra.callbacks.report")
        kept = [o for o in row.overrides if override_key(o) not in replaced]
        command = [sys.executable, "-m", "runner", *kept, *measured, "~hydra.callbacks.report"]
        plain = {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=plain)
        runs = list(read_runs(Path(output) / row.plain["experiment"]).values())
        if not (runs and runs[0].status is Status.finished and runs[0].ended):
            raise UsageError(
                f"{row.said} could not be measured: {(done.stderr or done.stdout)[-300:]}"
            )
    start, end = map(datetime.fromisoformat, (runs[0].started, runs[0].ended))
    return _cost(runs[0], (end - start).total_seconds())


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
