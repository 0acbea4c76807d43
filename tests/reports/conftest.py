"""Synthetic records for the tests: curves drawn from formulas, never trained, and labelled so."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple
from datetime import datetime, timedelta, timezone
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

import reports
from conf.reading import register
from conf.schema import Aim, StageConf
from runner import record
from runner.files import file_sha256, seal
from runner.folder import RunFolder
from runner.identity import conditions, resolved, short_hash
from runner.observations import DrawnText, FlowCheck
from runner.rows import Asked, Step, Window, columns
from stages.arithmetic import Ablation, Ladder
from stages.ladder import CONF, Stage, nest, read_ladder
from tests.records import synthetic_run

# The loss that each stage goes down to, and its milliseconds a step.
FLOORS = {
    "step01": (9.0, 300.0), "step02": (7.4, 900.0), "step03": (6.5, 900.0), "step04": (6.15, 950.0),
    "step05": (6.04, 960.0), "step06": (6.04, 400.0), "step07": (6.04, 330.0),
    "step08": (5.87, 333.0), "step09": (5.84, 325.0), "step10": (5.6, 2600.0),
}  # fmt: skip
ORDER = list(FLOORS)
FIVE = (1, 2, 3, 4, 5)
WINDOWS = 64  # of held-out text, the same for every synthetic run
RATE = "train.learning_rate"
EVIL = "<img src=http://nowhere.invalid/x onerror=alert(1)> |a| *b* `c` $d$ ~~e~~ _f_ [g](h) & \\"


@cache
def real_ladder(*typed: tuple[str, Any]) -> Ladder:
    """The real stages over the real configuration, with typed settings."""
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        base = conditions(resolved(compose("config", ["scale=cpu"])))
    return Ladder(read_ladder(), base | dict(typed), dict(typed).keys())


def ladder_of(stage: str, parent: str | None, typed: Mapping[str, Any]) -> Ladder:
    """The same; with a stage of one's own on `parent`, if there is no such one."""
    ladder = real_ladder(*typed.items())
    if stage in ORDER:
        return ladder
    about = StageConf(name=stage, title=stage, aim=Aim.loss, guide="", claims={})
    own = Stage(stage, about, parent, 11, {f"train.{stage}": True}, [])
    return Ladder([*ladder.stages, own], ladder.base, ladder.typed)


def question(
    stage: str,
    without: Sequence[str] = (),
    plus: Sequence[str] = (),
    typed: Mapping[str, Any] = {},
    plan: str = "",
    parent: str | None = None,
    inert: Sequence[str] = (),
) -> Asked:
    """What the runner keeps of a command; settings that are `inert` do nothing in its model."""
    ladder = ladder_of(stage, parent, typed)
    below = ladder.chain(stage)[-1].parent
    before = Ablation(below) if below else None
    if plus or without:
        before = Ablation(stage, without if plus else ())

    def hashed(asked: Ablation) -> str:
        return short_hash({k: v for k, v in ladder.settings(asked).items() if k not in inert})

    words = [f"{key}={value}" for key, value in typed.items()]
    words += [f"+stage={before.stage}", *before.overrides] if before else []
    return Asked(
        stage,
        ",".join(without),
        ",".join(plus),
        json.dumps(dict(typed), sort_keys=True),
        plan,
        hashed(Ablation(stage, without, plus)),
        short_hash([ladder.base, sorted(typed)]),
        hashed(before) if before else "",
        " ".join(["python -m runner", *words]) if before else "",
    )


def write_run(
    experiment: Path,
    stage: str = "step02",
    seed: int = 1,
    *,
    without: Sequence[str] = (),
    plus: Sequence[str] = (),
    typed: Mapping[str, Any] = {},
    plan: str = "",
    parent: str | None = None,
    asked: Sequence[Asked] = (),
    floor: float | None = None,
    step_ms: float | None = None,
    losses: Sequence[float] | np.ndarray | None = None,
    noise: float = 0.03,
    every: int | None = None,
    repeat: int = 1,
    at: float | None = None,
    status: str = "finished",
    **given: Any,
) -> Path:
    """Write one synthetic run and return its folder.

    A question of its own is asked of it, or those that are `asked`. `every` is the number of steps
    between evaluations, `at` the minute of its round, seed and repeat, at which it began; rounds
    follow each other. Any other key is a dotted path into run.json, with __ for the dots.
    """
    ladder, ablation = ladder_of(stage, parent, typed), Ablation(stage, without, plus)
    settings = ladder.settings(ablation)
    about = ladder.chain(ladder.plain_stage(ablation) or stage)[-1]
    number, finished, fast = about.number, status == "finished", about.number >= 6
    usual = FLOORS.get(about.name, (6.0, 300.0))
    floor, step_ms = usual[0] if floor is None else floor, step_ms or usual[1]
    label = given.pop("label", f"seed{seed}-{repeat}-{short_hash(settings)[:8]}")
    folder = experiment / about.name / label
    folder.mkdir(parents=True, exist_ok=True)

    planned, tokens = settings["train.steps"], {1: 64, 10: 2048}.get(number, 256)
    own = np.random.default_rng(seed * 1000 + number)
    if losses is None:
        steps = np.arange(planned)
        batches = np.random.default_rng(seed).normal(0, 0.12 if tokens == 256 else 0.05, planned)
        falling = floor + (10.95 - floor) * np.exp(-steps / 8)
        losses = falling + (batches + own.normal(0, noise, planned)) * np.minimum(1, steps / 4)
    taken = len(losses)
    times = step_ms * (1 + 0.02 * np.abs(np.random.default_rng(number).normal(size=taken)))
    norms = 1.4 * np.exp(-np.arange(taken) / 15) + 0.4
    curve = [
        Step(i, float(losses[i]), float(norms[i]), 6e-4, float(times[i]), tokens)
        for i in range(taken)
    ]
    windows = np.random.default_rng(7).normal(0, 0.3, WINDOWS) + own.normal(0, noise, WINDOWS)
    evaluations = {
        step: float(np.nanmean(losses[max(0, step - 50) : step]))
        for step in range(every or taken, taken, every or 1)
    }
    evaluations |= {planned: floor} if finished else {}
    held_out = [
        Window(step, 64 * i, 64, level + 0.15 + float(windows[i] - windows.mean()))
        for step, level in evaluations.items()
        for i in range(WINDOWS)
    ]
    for name, kind, rows in (("steps", Step, curve), ("held_out", Window, held_out)):
        lines = [",".join(columns(kind))]
        lines += [",".join(map(repr, astuple(row))) for row in rows]
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")

    begun = datetime(2026, 11, 22, tzinfo=timezone.utc)
    begun += timedelta(hours=2 * seed + 24 * repeat, minutes=number if at is None else at)
    results = record.Results(
        held_out=floor + 0.15, held_out_error=float(windows.std(ddof=1) / WINDOWS**0.5),
        mfu=0.35 * 330 / step_ms, peak_flops=8e11, flops_before=7.9e11, flops_after=7.8e11,
        peak_memory_bytes=2.6e9, peak_flops_dtype="bfloat16",
    )  # fmt: skip
    before = ladder.settings(Ablation(about.parent)) if about.parent else ladder.base
    config = nest(settings) | {"seed": seed, "repeat": repeat, "recipe": None}
    config["model"]["name"], config["scale"]["name"] = "synthetic-gpt2", "cpu"
    fields = asdict(
        synthetic_run(
            status=record.Status(status),
            stage=record.StageInfo(
                name=about.name, number=number, parent=about.parent, title=about.about.title,
                aim=about.about.aim, guide="",
                changes={key: (before.get(key), settings[key]) for key in about.changes},
            ),
            experiment=experiment.name,
            label=label,
            command=f"python -m runner +stage={stage}",
            variant=[f"{key}={value}" for key, value in typed.items()],
            conditions=ladder.base,
            config=config,
            data=record.DataInfo("synthetic", "5a" * 32, tokens=300_000, windows_sha256="c0" * 32),
            model=record.ModelInfo(parameters=124_439_808),
            environment=record.Environment(
                "3.11.7", "2.13.0", "Synthetic", device="cpu", device_name="Synthetic CPU",
                threads=2,
            ),
            process=record.Process(platform.node(), 1),
            started=begun.isoformat(),
            ended=None if status == "running" else (begun + timedelta(seconds=50)).isoformat(),
            steps_sha256=file_sha256(folder / "steps.csv") if finished else None,
            held_out_sha256=file_sha256(folder / "held_out.csv") if finished else None,
            compile_cache="warm" if fast else None,
            not_applied={"TF32": "it needs an NVIDIA GPU from Ampere on"} if fast else {},
            checks=[FlowCheck("no token sees the future", True, "exactly zero")][: number == 1],
            timings=record.Timings(compile_s=41.0 if fast else 0.0),
            results=record.summarise(curve, (), results) if finished else record.Results(),
            samples=[DrawnText("The king", 1, f"synthetic text of {stage}")][: number > 1],
        )
    )  # fmt: skip
    for path, value in given.items():
        *parents, key = path.split("__")
        node = fields
        for each in parents:
            node = node[each]
        node[key] = value
    (folder / "run.json").write_bytes(seal(fields))
    for one in asked or [question(stage, without, plus, typed, plan, parent)]:
        RunFolder(folder).ask(one)
    return folder


def write_stages(experiment: Path, seeds: Iterable[int] = FIVE, **floors: float | None) -> Path:
    """Write runs of some stages with these floors, or their usual ones; return the experiment.

    Seeds are 0.01 apart where a floor is given.
    """
    for seed in seeds:
        for stage, floor in floors.items():
            write_run(experiment, stage, seed, floor=floor and floor + 0.01 * seed)
    return experiment


@pytest.fixture(scope="session")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment of ten synthetic stages, one seed; it is only read."""
    return write_stages(tmp_path_factory.mktemp("shared") / "ladder", [1], **dict.fromkeys(ORDER))


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of an experiment with something for every section; it is only read.

    Five seeds, plans, every status, runs apart, a damaged record, hostile text.
    """
    experiment = tmp_path_factory.mktemp("shared") / "everything"
    write_stages(experiment, **dict.fromkeys(ORDER))
    sets = {("step03",): 6.5, ("step04",): 7.2, ("step03", "step04"): 6.15}
    for seed in FIVE:
        for at, (plus, floor) in enumerate(sets.items(), 40):
            write_run(experiment, seed=seed, plus=plus, plan="factorial", floor=floor, at=at)
        write_run(experiment, "step09", seed, without=["step04"], plan="leave_one_out", at=43)
    for at in range(14):
        typed, stage = {RATE: (1 + at // 2) / 1e4}, ORDER[1 + at % 2]
        write_run(experiment, stage, typed=typed, plan="learning_rate", at=20 + at)
    samples = [{"prompt": EVIL, "seed": 1, "text": EVIL, "step": 9 * i} for i in range(9)]
    scores = [{"step": i, "items": 9, "acc": 0.3, "acc_norm": i / 50} for i in range(50)]
    write_run(
        experiment, "own", parent="step10", stage__title=EVIL, message=EVIL, notes=[EVIL],
        not_applied={EVIL: EVIL}, config__model__name=EVIL, every=10, samples=samples,
        hellaswag=scores,
    )  # fmt: skip
    losses = [11.0 - 0.05 * at for at in range(30)] + [math.nan]
    write_run(experiment, "wild", status="diverged", losses=losses, diverged_at=30, at=12)
    write_run(experiment, "lost", status="failed", losses=[], message=EVIL, at=13)
    write_run(experiment, "long", 6, status="running", stage__title="word" * 40)
    for at, stage in enumerate(("step02", "step03"), 50):
        write_run(experiment, stage, label="apart", code="other", data__name=EVIL, at=at)
    (write_run(experiment, "torn") / "run.json").write_text("{")
    return reports.write_report([experiment])
