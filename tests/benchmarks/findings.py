"""Whether planted faults are named and healthy runs are not, as docs/findings.md and .json.

Every run is one of the command line, in a copy of the project where the fault is one of the code.
"""

import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from runner.observations import Severity
from runner.record import Run, read_runs
from runner.training.device import device_name
from tests.benchmarks.ours import NO_REPORT, ROOT, CommandFailed
from tests.benchmarks.pages import DOCS, read, save, write
from tests.benchmarks.planted import FAULTS, Fault, plant

PAGE = DOCS / "findings.md"
SCALES = ("smoke", "mini")
# Those of GPT-2 124M, at every scale.
RATES = ("scale.learning_rate=3e-4", "scale.peak_learning_rate=6e-4")
SEEDS = 5
HEALTHY_STAGES = ("step05", "step08", "step09", "step10")
HEALTHY_SEEDS = {"smoke": 250, "mini": 10, "cpu": 10}  # of each of the four stages
# What takes most of a thousand short runs' time and changes no loss.
HASTE = {"smoke": ("train.compile=false", "evaluation.peak_seconds=0.01")}

Entry = dict[str, Any]


def main(*names: str) -> None:
    """Measure what is missing, or what is named: `faults` and scales of healthy runs."""
    found: Entry = (
        read(PAGE) if PAGE.with_suffix(".json").exists() else {"faults": {}, "healthy": {}}
    )
    found["machine"] = device_name(torch.device("cpu"))
    for fault in FAULTS:
        named = found["faults"].setdefault(fault.what, {})
        for scale in SCALES:
            if scale not in named or "faults" in names:
                named[scale] = plant_and_train(fault, scale)
                save(PAGE, found)
                print(f"{fault.what}, {scale}: {named[scale]['names']}", flush=True)
    for scale, seeds in HEALTHY_SEEDS.items():
        if scale not in found["healthy"] or scale in names:
            found["healthy"][scale] = healthy(scale, seeds)
            save(PAGE, found)
            print(f"healthy runs, {scale}: {found['healthy'][scale]}", flush=True)
    render(found)


def render(found: Entry) -> None:
    """Write the page."""
    every = sum(
        all(is_named(fault, found["faults"].get(fault.what, {}).get(scale)) for scale in SCALES)
        for fault in FAULTS
    )
    write(PAGE, found=found, faults=FAULTS, scales=SCALES, rates=RATES, every=every)


def is_named(fault: Fault, named: Entry | None) -> bool:
    """Whether every run of a fault has its name."""
    return named is not None and named["names"].get(fault.name) == named["runs"]


def plant_and_train(fault: Fault, scale: str) -> Entry:
    """In how many of the runs of a fault each name was among the findings."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = plant(fault, folder)
        runs = _sweep(folder / "project", folder, scale, *words, f"seed=range(1,{SEEDS + 1})")
        return {"runs": len(runs), "names": Counter(f.name for run in runs for f in run.findings)}


def healthy(scale: str, seeds: int) -> Entry:
    """Healthy runs of a scale: how many, the findings above a note, and the notes.

    `looks` are their time over that of the steps.
    """
    words = (f"seed=range(1,{seeds + 1})", f"+stage={','.join(HEALTHY_STAGES)}")
    launcher = "hydra/launcher=cores"
    runs = _sweep(ROOT, ROOT / "outputs", scale, *words, launcher, *HASTE.get(scale, ()))
    found = [finding for run in runs for finding in run.findings]
    return {
        "runs": len(runs),
        "looks": median(run.timings.diagnosis_s / run.timings.train_s for run in runs),
        "alarms": Counter(f.name for f in found if f.severity is not Severity.note),
        "notes": Counter(f.name for f in found if f.severity is Severity.note),
    }


def _sweep(project: Path, outputs: Path, scale: str, *words: str) -> Sequence[Run]:
    """Train a sweep by the command line of a project; a run that diverges is a run too."""
    experiment = f"findings-{scale}"
    command = ["-m", "runner", "-m", *words, f"scale={scale}", *RATES, NO_REPORT, "quiet=true"]
    command += [f"output_dir={outputs}", f"experiment={experiment}"]
    done = subprocess.run([sys.executable, *command], cwd=project, capture_output=True, text=True)
    runs = list(read_runs(outputs / experiment).values())
    if done.returncode not in (0, 1) or not all(run.status.is_final for run in runs) or not runs:
        output = (done.stdout + done.stderr)[-2000:]
        raise CommandFailed(f"python {' '.join(command)}\n{output}")
    return runs
