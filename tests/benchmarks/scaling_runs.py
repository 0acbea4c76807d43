"""What can be measured here of what `cost.Step` predicts: runs, transfers and traced memory.

Beside the seconds that pass it counts how long cores worked for a process, which other programs on
the same machine change little.
"""

import json
import os
import statistics
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch

from conf.schema import Config, Sharding
from tests.benchmarks.cost import Step
from tests.benchmarks.machine import describe, title
from tests.benchmarks.memory import configured, peak_bytes
from tests.benchmarks.ours import BRIEF_ENDING, NO_REPORT, python

Measured = dict[str, Any]

MODELS = {"gpt2": "124M", "gpt2_medium": "350M", "gpt2_large": "774M", "gpt2_xl": "1.5B"}

STAGE = "step10"
# No compiler, which fuses what is to be told apart, and the same precision on every processor.
PLAIN = ("train.autocast=none", "train.compile=false", "device=cpu", "evaluation.every=null")
ROUNDS = 3
SIZE_ROUNDS = 2
TIMED_STEPS = 4
EQUAL_STEPS = 20
# 16 sequences a step, so that each of four processes has two micro batches.
EQUAL = ("train.total_batch_tokens=512", f"train.steps={EQUAL_STEPS}", *PLAIN)
SHARDINGS = {"DDP": Sharding.none, "FSDP": Sharding.fsdp}


@dataclass(frozen=True)
class Size:
    """A training set-up that a CPU can afford, with heads of 64 channels as in GPT-2."""

    n_layer: int
    n_embd: int
    micro_batch_size: int
    context: int
    micro_batches: int

    @property
    def name(self) -> str:
        model = f"{self.n_layer} layers of {self.n_embd}"
        return f"{model}, {self.micro_batches} x {self.micro_batch_size} x {self.context}"

    @property
    def overrides(self) -> list[str]:
        """What the command line is given."""
        tokens = self.micro_batch_size * self.context * self.micro_batches
        return [
            f"model.n_layer={self.n_layer}",
            f"model.n_head={self.n_embd // 64}",
            f"model.n_embd={self.n_embd}",
            f"train.micro_batch_size={self.micro_batch_size}",
            f"train.context={self.context}",
            f"train.total_batch_tokens={tokens}",
            f"train.steps={TIMED_STEPS}",
            *PLAIN,
        ]

    @cached_property
    def step(self) -> Step:
        return Step.of(configured(STAGE, "cpu", *self.overrides))


# The processor is calibrated on this one, and its prediction of the others is checked.
CALIBRATION = Size(6, 256, 4, 64, 4)
SIZES = [
    Size(2, 64, 4, 64, 4),
    Size(4, 128, 1, 64, 8),
    Size(4, 128, 4, 64, 4),
    Size(4, 128, 16, 64, 1),
    CALIBRATION,
    Size(8, 384, 4, 256, 1),
    Size(8, 512, 4, 64, 2),
    Size(12, 768, 4, 64, 1),
    Size(12, 768, 1, 256, 1),
]
# What two processes train for its time.
SHARED = Size(4, 128, 4, 64, 4)
# Micro batches whose memory is traced, on one GPU and under FSDP on several.
TRACED = [(model, 4, gpus) for gpus in (1, 8) for model in MODELS] + [("gpt2", 8, 64)]


def watched(
    scale: str, runs: list[list[str]], processes: int, threads: int = 1
) -> list[list[dict[str, Any]]]:
    """The runs, each as `watched.Watched` of every process."""
    with tempfile.TemporaryDirectory() as folder:
        common = (f"+stage={STAGE}", f"scale={scale}", *BRIEF_ENDING, NO_REPORT)
        arguments = [[*common, *run, f"output_dir={folder}/{i}"] for i, run in enumerate(runs)]
        launch("watched", processes, threads, folder, json.dumps(arguments))
        return [list(run) for run in zip(*read(folder, processes), strict=True)]


def launch(module: str, processes: int, threads: int, *arguments: str) -> None:
    """Run a module of the benchmarks on some processes. Raises CommandFailed."""
    module = f"tests.benchmarks.{module}"
    torchrun = ("torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m")
    command = (*torchrun, module) if processes > 1 else (module,)
    python(*command, *arguments, OMP_NUM_THREADS=str(threads))


def read(folder: str, processes: int) -> list[Any]:
    """What each process wrote."""
    files = [Path(folder) / f"{rank}.json" for rank in range(processes)]
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def measure_sizes() -> list[dict[str, float]]:
    """Medians of each size on one thread of one process, in interleaved rounds."""
    runs = [list(size.overrides) for size in SIZES]
    rounds = [run for _ in range(SIZE_ROUNDS) for run in watched("cpu", runs, 1)]
    return [timing(rounds[number :: len(SIZES)]) for number in range(len(SIZES))]


def timing(rounds: Iterable[list[dict[str, Any]]]) -> dict[str, float]:
    """Medians of one size's steps: the seconds, and how long cores worked for all processes.

    Without the first step of a run, which touches memory for the first time.
    """
    steps = [
        step
        for run in rounds
        for step in zip(*(process["steps"][1:] for process in run), strict=True)
    ]
    return {
        "seconds": statistics.median(first["seconds"] for first, *_ in steps),
        "worked_s": statistics.median(sum(own["worked_s"] for own in step) for step in steps),
    }


def measure_processes() -> dict[str, dict[str, float]]:
    """The same step on one thread, on two, and on two processes of one thread each, in turn."""
    own = SHARED.overrides
    sharded = [own, [*own, "train.sharding=fsdp"]]
    rounds = []
    for _ in range(ROUNDS):
        (one,), (two,) = watched("cpu", [own], 1), watched("cpu", [own], 1, threads=2)
        rounds.append([one, two, *watched("cpu", sharded, 2)])
    names = ("one thread", "two threads", *SHARDINGS)
    return {name: timing(runs) for name, runs in zip(names, zip(*rounds, strict=True), strict=True)}


def measure_equality() -> list[Measured]:
    """Twenty steps on one, two and four processes: losses, bytes received and bytes kept."""
    (alone,) = watched("smoke", [list(EQUAL)], 1)
    losses = [step["loss"] for step in alone[0]["steps"]]
    found = []
    for processes in (2, 4):
        runs = [[*EQUAL, f"train.sharding={sharding.value}"] for sharding in SHARDINGS.values()]
        for name, run in zip(SHARDINGS, watched("smoke", runs, processes), strict=True):
            first = run[0]
            differences = [
                abs(step["loss"] - expected)
                for step, expected in zip(first["steps"], losses, strict=True)
            ]
            received = statistics.median(step["received_bytes"] for step in first["steps"])
            found.append(
                {
                    "processes": processes,
                    "sharding": name,
                    "loss_difference": max(differences),
                    "received_bytes": received,
                    "kept_bytes": first["kept_bytes"],
                }
            )
    return found


def measure_bandwidths() -> dict[str, Any]:
    """A copy of memory and collectives of SHARED's gradients, in the first of several processes."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for processes in (1, 2, 4):
            launch("bandwidths", processes, 1, folder, str(SHARED.step.parameters))
            found[str(processes)] = read(folder, processes)[0]
    return found


def measure_memory() -> list[int]:
    """The traced peak of every entry of TRACED, without a GPU."""
    return [peak_bytes(on_gpu(model, size), gpus) for model, size, gpus in TRACED]


@cache
def on_gpu(model: str, micro_batch_size: int) -> Config:
    """A configuration of the scale for one GPU, with 524,288 tokens a step."""
    overrides = (f"model={model}", f"train.micro_batch_size={micro_batch_size}")
    return configured(STAGE, "cuda", *overrides)


KINDS: dict[str, Callable[[], Any]] = {
    "bandwidths": measure_bandwidths,
    "equality": measure_equality,
    "processes": measure_processes,
    "sizes": measure_sizes,
    "memory": measure_memory,
}


def measure_all(say: Callable[[str], None]) -> Measured:
    """All of it, by kind, and the machine; `say` is told what begins."""
    found: Measured = {
        "processor": title(describe(torch.device("cpu"))),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
    }
    for kind, measure in KINDS.items():
        say(f"Measuring: {kind}")
        found[kind] = measure()
    return found
