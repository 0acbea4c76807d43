"""Whether planted faults are named and healthy runs are not, as docs/findings.md and .json.

Every run is one of the command line, in a copy of the project where the fault is one of the code.
"""

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median

import jinja2
import torch
from rich.console import Console

from conf.schema import validator
from runner.observations import Severity
from runner.record import Run, read_runs
from runner.training.device import device_name
from tests.benchmarks.ours import NO_REPORT, ROOT, CommandFailed
from tests.benchmarks.planted import FAULTS, Fault, plant

PAGE = ROOT / "docs" / "findings.md"
SCALES = ("smoke", "mini")
SEEDS = 5
HEALTHY_STAGES = ("step05", "step08", "step09", "step10")
HEALTHY_SEEDS = {"smoke": 250, "mini": 10, "cpu": 10}  # of each of the four stages

# What takes most of a thousand short runs' time and changes no loss.
HASTE = {"smoke": ("train.compile=false", "evaluation.peak_seconds=0.01")}


@dataclass
class Named:
    """In how many of the runs of a fault at a scale each name was among the findings."""

    runs: int
    names: dict[str, int]


@dataclass
class Healthy:
    """Healthy runs of a scale: how many, the findings above a note, and the notes."""

    runs: int
    looks: float  # their time over that of the steps, median
    alarms: dict[str, int]
    notes: dict[str, int]


@dataclass
class Measured:
    """What docs/findings.json holds."""

    machine: str
    faults: dict[str, dict[str, Named]] = field(default_factory=dict)
    healthy: dict[str, Healthy] = field(default_factory=dict)

    def save(self) -> None:
        PAGE.with_suffix(".json").write_text(json.dumps(asdict(self), indent=1) + "\n")


def measure(console: Console, names: list[str]) -> None:
    """Measure what is missing, or what is named: `faults` and scales of healthy runs."""
    found = _read()
    for fault in FAULTS:
        for scale in SCALES:
            if scale in found.faults.get(fault.what, {}) and "faults" not in names:
                continue
            console.print(f"{fault.what}, {scale} ...")
            named = _plant_and_train(fault, scale)
            found.faults.setdefault(fault.what, {})[scale] = named
            found.save()
            console.print(f"  {named.names}")
    for scale, seeds in HEALTHY_SEEDS.items():
        if scale not in found.healthy or scale in names:
            console.print(f"healthy runs, {scale} ...")
            found.healthy[scale] = _healthy(scale, seeds)
            found.save()
            console.print(f"  {found.healthy[scale]}")
    write(found)


def write(found: Measured) -> None:
    """Write the page."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.get_template("findings.md.j2")
    every = sum(_in_every_run(fault, found) for fault in FAULTS)
    PAGE.write_text(template.render(found=found, faults=FAULTS, scales=SCALES, every=every))


def _in_every_run(fault: Fault, found: Measured) -> bool:
    """Whether a fault was named in every run of all scales."""
    by_scale = found.faults.get(fault.what, {})
    return all(scale in by_scale and is_named(fault, by_scale[scale]) for scale in SCALES)


def is_named(fault: Fault, found: Named) -> bool:
    """Whether every run of a fault has its name."""
    return found.names.get(fault.name) == found.runs


def _read() -> Measured:
    machine = device_name(torch.device("cpu"))
    try:
        saved: Measured = validator(Measured).validate_json(PAGE.with_suffix(".json").read_text())
    except FileNotFoundError:
        return Measured(machine)
    return replace(saved, machine=machine)


def _plant_and_train(fault: Fault, scale: str) -> Named:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = plant(fault, folder)
        seeds = ",".join(map(str, range(1, SEEDS + 1)))
        runs = _sweep(folder / "project", folder, scale, *words, f"seed={seeds}")
        return Named(len(runs), dict(Counter(f.name for run in runs for f in run.findings)))


def _healthy(scale: str, seeds: int) -> Healthy:
    stages = ",".join(HEALTHY_STAGES)
    words = (
        f"seed=range(1,{seeds + 1})",
        f"+stage={stages}",
        "hydra/launcher=cores",
        *HASTE.get(scale, ()),
    )
    return _counted(_sweep(ROOT, ROOT / "outputs", scale, *words))


def _counted(runs: Sequence[Run]) -> Healthy:
    found = [finding for run in runs for finding in run.findings]
    alarms = Counter(f.name for f in found if f.severity is not Severity.note)
    notes = Counter(f.name for f in found if f.severity is Severity.note)
    looks = median(run.timings.diagnosis_s / run.timings.train_s for run in runs)
    return Healthy(len(runs), looks, dict(alarms), dict(notes))


def _sweep(project: Path, outputs: Path, scale: str, *words: str) -> list[Run]:
    """Train a sweep by the command line of a project; a run that diverges is a run too."""
    experiment = f"findings-{scale}"
    command = [
        sys.executable,
        "-m",
        "runner",
        "-m",
        *words,
        f"scale={scale}",
        NO_REPORT,
        "quiet=true",
    ]
    command += [f"output_dir={outputs}", f"experiment={experiment}"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    runs = list(read_runs(outputs / experiment).values())
    if done.returncode not in (0, 1) or not all(run.status.is_final for run in runs) or not runs:
        raise CommandFailed(
            f"python {' '.join(command[1:])}\n{(done.stdout + done.stderr)[-2000:]}"
        )
    return runs
