"""Synthetic records for the tests: curves drawn from formulas, never trained, and labelled so."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta, timezone
from functools import cache, reduce
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from hydra import compose, initialize_config_dir

import reports
from conf.reading import register
from conf.schema import Aim, StageConf
from reports.comparison import Comparison
from reports.report import Report
from reports.rules import read_rules
from reports.verdicts import Verdict
from reports.wording import words
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
RULES = read_rules()
SAY = words(RULES)
EVIL = "<img src=http://nowhere.invalid/x onerror=alert(1)> |a| *b* `c` $d$ ~~e~~ _f_ [g](h) & \\"


def names(stages: Sequence[Comparison]) -> list[str]:
    return [stage.name for stage in stages]


@cache
def real_ladder() -> Ladder:
    """The real stages over the real configuration."""
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return Ladder(read_ladder(), conditions(resolved(compose("config", ["scale=cpu"]))))


@cache
def ladder_of(stage: str, parent: str | None, typed: tuple[tuple[str, Any], ...]) -> Ladder:
    """The same with typed settings; with a stage of one's own on `parent`, if there is no such."""
    real = real_ladder()
    if stage in ORDER:
        return Ladder(real.stages, real.base | dict(typed), dict(typed)) if typed else real
    about = StageConf(name=stage, title=stage, aim=Aim.loss, guide="", claims={})
    own = Stage(stage, about, parent, 11, False, {f"train.{stage}": True}, [])
    return Ladder([*real.stages, own], real.base | dict(typed), dict(typed))


def question(
    stage: str, without: Sequence[str] = (), plus: Sequence[str] = (),
    typed: Mapping[str, Any] = {}, plan: str = "", parent: str | None = None,
    inert: Sequence[str] = (),
) -> Asked:  # fmt: skip
    """What the runner keeps of a command; settings that are `inert` do nothing in its model."""
    ladder = ladder_of(stage, parent, (*typed.items(),))
    below = ladder.chain(stage)[-1].parent
    before = Ablation(below) if below else None
    if plus or without:
        before = Ablation(stage, without if plus else ())

    def hashed(asked: Ablation) -> str:
        return short_hash({k: v for k, v in ladder.settings(asked).items() if k not in inert})

    words = ["python -m runner", *(f"{key}={value}" for key, value in typed.items())]
    words += [f"+stage={before.stage}", *before.overrides] if before else []
    asked = stage, ",".join(without), ",".join(plus), json.dumps(dict(typed), sort_keys=True), plan
    hashes = hashed(Ablation(stage, without, plus)), short_hash([ladder.base, sorted(typed)])
    reference = (hashed(before), " ".join(words)) if before else ("", "")
    return Asked(*asked, *hashes, *reference)


class Lab:
    """An experiment of synthetic runs, and the report on it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(
        self, stage: str = "step02", seed: int = 1, *, without: Sequence[str] = (),
        plus: Sequence[str] = (), typed: Mapping[str, Any] = {}, plan: str = "",
        parent: str | None = None, asked: Sequence[Asked] = (), floor: float | None = None,
        step_ms: float | None = None, losses: Sequence[float] | np.ndarray | None = None,
        noise: float = 0.03, every: int | None = None, repeat: int = 1, at: float | None = None,
        status: str = "finished", **given: Any,
    ) -> Path:  # fmt: skip
        """Write one synthetic run and return its folder.

        A question of its own is asked of it, or those that are `asked`. `every` is the number of
        steps between evaluations, `at` the minute of its round, seed and repeat, at which it began;
        rounds follow each other. Any other key is a dotted path into run.json, with __ for dots.
        """
        ladder = ladder_of(stage, parent, (*typed.items(),))
        ablation = Ablation(stage, without, plus)
        settings = ladder.settings(ablation)
        about = ladder.chain(ladder.plain_stage(ablation) or stage)[-1]
        number, finished, fast = about.number, status == "finished", about.number >= 6
        usual = FLOORS.get(about.name, (6.0, 300.0))
        floor, step_ms = usual[0] if floor is None else floor, step_ms or usual[1]
        label = given.pop("label", f"seed{seed}-{repeat}-{short_hash(settings)[:8]}")
        folder = self.path / about.name / label
        folder.mkdir(parents=True, exist_ok=True)

        planned, tokens = settings["train.steps"], {1: 64, 10: 2048}.get(number, 256)
        own, random = np.random.default_rng(seed * 1000 + number), np.random.default_rng
        if losses is None:
            place = np.arange(planned)
            batches = random(seed).normal(0, 0.12 if tokens == 256 else 0.05, planned)
            falling = floor + (10.95 - floor) * np.exp(-place / 8)
            losses = falling + (batches + own.normal(0, noise, planned)) * np.minimum(1, place / 4)
        taken = len(losses)
        times = step_ms * (1 + 0.02 * np.abs(random(number).normal(size=taken)))
        norms = 1.4 * np.exp(-np.arange(taken) / 15) + 0.4
        series = enumerate(np.array([losses, norms, np.full(taken, 6e-4), times]).T.tolist())
        curve = [(i, *values, tokens) for i, values in series]
        windows = random(7).normal(0, 0.3, WINDOWS) + own.normal(0, noise, WINDOWS)
        beside = (0.15 + windows - windows.mean()).tolist()
        places = range(every or taken, taken, every or 1)
        levels = {at: float(np.nanmean(losses[max(0, at - 50) : at])) for at in places}
        levels |= {planned: floor} if finished else {}
        held_out = [
            (step, 64 * i, 64, level + more)
            for step, level in levels.items()
            for i, more in enumerate(beside)
        ]
        for name, kind, rows in (("steps", Step, curve), ("held_out", Window, held_out)):
            lines = [",".join(columns(kind)), *(",".join(map(repr, row)) for row in rows)]
            (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")

        begun = datetime(2026, 11, 22, tzinfo=timezone.utc)
        begun += timedelta(hours=2 * seed + 24 * repeat, minutes=number if at is None else at)
        before = ladder.settings(Ablation(about.parent)) if about.parent else ladder.base
        config = nest(settings) | {"seed": seed, "repeat": repeat, "recipe": None}
        config["model"]["name"], config["scale"]["name"] = "synthetic-gpt2", "cpu"
        results = record.Results(
            held_out=floor + 0.15, held_out_error=float(windows.std(ddof=1) / WINDOWS**0.5),
            mfu=0.35 * 330 / step_ms, peak_flops=8e11, flops_before=7.9e11, flops_after=7.8e11,
            peak_memory_bytes=2.6e9, peak_flops_dtype="bfloat16",
        )  # fmt: skip
        fields = asdict(synthetic_run(
            status=record.Status(status),
            stage=record.StageInfo(
                name=about.name, number=number, beyond=about.beyond, parent=about.parent,
                title=about.about.title, aim=about.about.aim, guide="",
                changes={key: (before.get(key), settings[key]) for key in about.changes},
            ),
            experiment=self.path.name, label=label, command=f"python -m runner +stage={stage}",
            variant=[f"{key}={value}" for key, value in typed.items()],
            conditions=ladder.base, config=config,
            data=record.DataInfo("synthetic", "5a" * 32, tokens=300_000, windows_sha256="c0" * 32),
            model=record.ModelInfo(parameters=124_439_808),
            environment=record.Environment(
                "3.11", "2.13", "Synthetic", device="cpu", device_name="Synthetic CPU", threads=2
            ),
            process=record.Process(platform.node(), 1), started=begun.isoformat(),
            ended=None if status == "running" else (begun + timedelta(seconds=50)).isoformat(),
            steps_sha256=file_sha256(folder / "steps.csv") if finished else None,
            held_out_sha256=file_sha256(folder / "held_out.csv") if finished else None,
            compile_cache="warm" if fast else None, attention_kernel="cudnn" if fast else None,
            not_applied={"TF32": "it needs an NVIDIA GPU from Ampere on"} if fast else {},
            checks=[FlowCheck("no token sees the future", True, "exactly zero")][: number == 1],
            timings=record.Timings(compile_s=41.0 if fast else 0.0),
            results=record.summarise([Step(*row) for row in curve], (), results)
            if finished else record.Results(),
            samples=[DrawnText("The king", 1, f"synthetic text of {stage}")][: number > 1],
        ))  # fmt: skip
        for path, value in given.items():
            *parents, key = path.split("__")
            reduce(getitem, parents, fields)[key] = value
        (folder / "run.json").write_bytes(seal(fields))
        for one in asked or [question(stage, without, plus, typed, plan, parent)]:
            RunFolder(folder).ask(one)
        return folder

    def seeds(
        self, stage: str, floor: float | None = None, seeds: Iterable[int] = FIVE, **given: Any
    ) -> None:
        """A run of each seed with this floor, 0.01 a seed apart, or with the stage's own."""
        for seed in seeds:
            self.run(stage, seed, floor=floor and floor + 0.01 * seed, **given)

    def stages(self, seeds: Iterable[int] = FIVE, **floors: float | None) -> Lab:
        for stage, floor in floors.items():
            self.seeds(stage, floor, seeds)
        return self

    @property
    def report(self) -> Report:
        return Report([self.path])

    def stage(self, name: str) -> tuple[Comparison, Verdict, str]:
        """A stage of the main ladder, with its verdict, as it is and as its line says it."""
        report = self.report
        (stage,) = (each for each in report.main.stages if each.name == name)
        verdict = report.verdicts[name]
        said = SAY("verdict", stage, verdict), SAY("evidence", stage, verdict)
        return stage, verdict, ", ".join(filter(None, said))


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "lab")


@pytest.fixture(scope="session")
def ladder(shared_dir: Path) -> Path:
    """An experiment of ten synthetic stages, one seed; it is only read."""
    lab = Lab(shared_dir / "synthetic" / "ladder")
    with FileLock(shared_dir / "synthetic.lock"):
        for stage in [] if lab.path.exists() else ORDER:
            lab.run(stage, plan="ladder")
    return lab.path


@pytest.fixture(scope="session")
def page(shared_dir: Path) -> Path:
    """The page of an experiment with something for every section; it is only read.

    Five seeds, plans, every status, runs apart, a damaged record, hostile text.
    """
    lab = Lab(shared_dir / "everything")
    with FileLock(shared_dir / "everything.lock"):
        if not lab.path.exists():
            write_everything(lab)
            reports.write_report([lab.path])
    return lab.path / "report" / "index.html"


def write_everything(lab: Lab) -> None:
    sheet = {"results__datasheet_flops": 989.4e12, "results__datasheet_mfu": 0.31}
    for stage in ORDER:
        lab.seeds(stage, **sheet)
    sets = {("step03",): 6.5, ("step04",): 7.2, ("step03", "step04"): 6.15}
    for seed in FIVE:
        for at, (plus, floor) in enumerate(sets.items(), 40):
            lab.run("step02", seed, plus=plus, plan="factorial", floor=floor, at=at)
        lab.run("step09", seed, without=["step04"], plan="leave_one_out", at=43)
    for at in range(14):
        typed = {RATE: (1 + at // 2) / 1e4}
        lab.run(ORDER[1 + at % 2], typed=typed, plan="learning_rate", at=20 + at)
    samples = [{"prompt": EVIL, "seed": 1, "text": EVIL, "step": 9 * i} for i in range(9)]
    scores = [{"step": i, "items": 9, "acc": 0.3, "acc_norm": i / 50} for i in range(50)]
    lab.run(
        "own", parent="step10", stage__title=EVIL, message=EVIL, notes=[EVIL], every=10,
        not_applied={EVIL: EVIL}, config__model__name=EVIL, samples=samples, hellaswag=scores,
    )  # fmt: skip
    losses = [11.0 - 0.05 * at for at in range(30)] + [math.nan]
    lab.run("wild", status="diverged", losses=losses, diverged_at=30, at=12)
    lab.run("lost", status="failed", losses=[], message=EVIL, at=13)
    lab.run("long", 6, status="running", stage__title="word" * 40)
    for at, stage in enumerate(("step02", "step03"), 50):
        lab.run(stage, label="apart", code="other", data__name=EVIL, at=at)
    (lab.run("torn") / "run.json").write_text("{")
