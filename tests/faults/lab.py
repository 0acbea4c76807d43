"""Where faults are injected: the real command line at the smoke scale, and its outcome."""

import hashlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from runner.files import process_is_gone, unseal
from tests.environment import environment

ROOT = Path(__file__).parent.parent.parent

# Results that depend on a clock or the machine; the others are the same every time.
MEASURED = (
    "tokens_per_second", "step_ms", "mfu", "peak_flops", "datasheet_mfu", "flops_before",
    "flops_after", "peak_memory_bytes",
)  # fmt: skip

# Labs run in parallel: threads of one would wait for cores that another uses.
ALONE = {"OMP_NUM_THREADS": "1"}

Outcome = dict[str, Any]
Done = subprocess.CompletedProcess[str]


@dataclass
class Lab:
    """A folder for everything that is written, a text to train on, and a random generator.

    `shared` holds undisturbed runs, for other labs too.
    """

    folder: Path
    text: Path
    cache_dir: Path
    chance: random.Random
    shared: Path
    experiments: int = 0

    def new_experiment(self) -> Path:
        """The folder of an experiment without runs."""
        self.experiments += 1
        return self.folder / "outputs" / f"e{self.experiments}"

    def command(self, experiment: Path, *arguments: str) -> list[str]:
        """python -m runner for this experiment, with a checkpoint every five steps."""
        flags = [a for a in arguments if a.startswith("-")]
        alone = [] if "-m" in flags else ["~hydra.callbacks.report"]
        rest = [a for a in arguments if not a.startswith("-")]
        return [
            sys.executable, "-m", "runner", *flags, "scale=smoke", "device=cpu", "data=text",
            f'data.path="{self.text}"', f'output_dir="{experiment.parent}"',
            f'experiment="{experiment.name}"', f'cache_dir="{self.cache_dir}"',
            "train.checkpoint_every.steps=5", "train.compile=false", "train.steps=12",
            "sample.tokens=4", *alone, *rest,
        ]  # fmt: skip

    def start(self, experiment: Path, *arguments: str, **changed: str) -> "subprocess.Popen[str]":
        """The command in a process group of its own, its output in the lab's folder."""
        log = self.folder / "log.txt"
        with log.open("w") as file:
            return subprocess.Popen(
                self.command(experiment, *arguments),
                cwd=ROOT,
                env=environment(**{**ALONE, **changed}),
                stdout=file,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
                # A process that a shell starts in the background ignores Ctrl-C, and so would this.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )

    def start_training(
        self, experiment: Path, *arguments: str
    ) -> "tuple[subprocess.Popen[str], int]":
        """Start the command, and also give the process of the first run with two steps taken."""
        process = self.start(experiment, *arguments)
        stages = wait_until(lambda: training(experiment, steps=2), process)
        assert stages, (self.folder / "log.txt").read_text()
        return process, stages[0]

    def run(self, experiment: Path, *arguments: str, **changed: str) -> Done:
        """Run the command to its end. Raises TimeoutExpired if it hangs."""
        return subprocess.run(
            self.command(experiment, *arguments),
            cwd=ROOT,
            env=environment(**{**ALONE, **changed}),
            capture_output=True,
            text=True,
            timeout=1200,  # one of 19,073 steps takes ten minutes on a busy machine
        )

    def undisturbed(self, *arguments: str) -> Outcome:
        """The outcome of the command without a fault; run once for all labs that share it."""
        experiment = self.shared / hashlib.sha256(repr(arguments).encode()).hexdigest()[:8]
        with FileLock(f"{experiment}.lock"):
            if not (experiment / "undisturbed").exists():
                done = self.run(experiment, *arguments)
                assert done.returncode == 0, done.stdout + done.stderr
                (experiment / "undisturbed").touch()
        return outcome(experiment)

    def check_resumed(self, experiment: Path, *arguments: str) -> Done:
        """Assert that the same command exits 0 with the undisturbed outcome, bit by bit."""
        finished = {file: file.stat().st_mtime_ns for file in finished_records(experiment)}
        done = self.run(experiment, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        assert outcome(experiment) == self.undisturbed(*arguments)
        again = [file for file, changed in finished.items() if file.stat().st_mtime_ns != changed]
        assert not again, f"trained again although finished: {again}"
        assert not list(experiment.glob("*/*/.*part")), "a killed writer's file is left"
        return done


def outcome(experiment: Path) -> Outcome:
    """Per stage the status, the tables and the results, without those in MEASURED."""
    found = {}
    for file in sorted(experiment.glob("*/*/run.json")):
        record = unseal(file.read_bytes())
        results = {k: v for k, v in record["results"].items() if k not in MEASURED}
        lines = (file.parent / "steps.csv").read_text().splitlines()
        steps = [[c for i, c in enumerate(line.split(",")) if i != 4] for line in lines]
        held_out = (file.parent / "held_out.csv").read_text()
        seen = [record[key] for key in ("status", "samples", "hellaswag")]
        seen += [steps, held_out, results]
        found[record["stage"]["name"]] = seen
    return found


def finished_records(experiment: Path) -> list[Path]:
    """The run.json of every finished run. Raises DamagedFile for one that cannot be read."""
    files = experiment.glob("*/*/run.json")
    return [file for file in files if unseal(file.read_bytes())["status"] == "finished"]


def wait_until(condition: Callable[[], Any], process: "subprocess.Popen[str]") -> Any:
    """Poll until `condition` holds and return its value; False if the process ended before."""
    while process.poll() is None:
        if holds := condition():
            return holds
        time.sleep(0.002)
    return False


def steps_in(folder: Path) -> int:
    """Steps that a run has written to its table so far."""
    table = folder / "steps.csv"
    return max(0, len(table.read_text().splitlines()) - 1) if table.exists() else 0


def steps_done(experiment: Path) -> int:
    """Steps written so far by all runs of an experiment."""
    return sum(steps_in(folder) for folder in experiment.glob("*/*"))


def training(experiment: Path, steps: int = 0) -> list[int]:
    """The processes that are training those runs of an experiment that have taken `steps` steps."""
    found = []
    for file in experiment.glob("*/*/run.json"):
        record = unseal(file.read_bytes())
        who = record["process"]
        if (
            record["status"] == "running"
            and steps_in(file.parent) >= steps
            and not process_is_gone(who["host"], who["pid"])
        ):
            found.append(who["pid"])
    return found


def messages(experiment: Path) -> Iterator[str]:
    """The messages in an experiment's records."""
    for file in experiment.glob("*/*/run.json"):
        yield str(unseal(file.read_bytes())["message"])
