"""docs/scaling.md: what GPT-2 costs on 1 to 64 GPUs, predicted, and how far predictions err here.

docs/scaling.json holds what can be measured here of what `cost.Step` predicts: runs, transfers and
traced memory. Beside the seconds that pass it counts how long cores worked for a process, which
other programs on the same machine change little.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from conf.schema import Config, Sharding
from tests.benchmarks import cost
from tests.benchmarks.cost import Cluster, Plan, Processor, Step
from tests.benchmarks.limits import COPIED_BYTES
from tests.benchmarks.machine import describe, title
from tests.benchmarks.memory import configured, peak_bytes
from tests.benchmarks.ours import BRIEF_ENDING, NO_REPORT, python
from tests.benchmarks.pages import DOCS, rendered, save

Measured = dict[str, Any]

PAGE = DOCS / "scaling.md"
LONG_RUN_TOKENS = 10e9
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
        return Step(configured(STAGE, "cpu", *self.overrides))


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


def launch(what: Any, processes: int = 1, threads: int = 1) -> list[Any]:
    """What each of some processes writes, see watched.py. Raises CommandFailed."""
    torchrun = ("torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m")
    module = (*(torchrun if processes > 1 else ()), "tests.benchmarks.watched")
    with tempfile.TemporaryDirectory() as folder:
        python(*module, folder, json.dumps(what), OMP_NUM_THREADS=str(threads))
        files = [Path(folder) / f"{rank}.json" for rank in range(processes)]
        return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def watched(
    scale: str, runs: list[list[str]], processes: int = 1, threads: int = 1
) -> list[tuple[Measured, ...]]:
    """The runs, each as every process saw it."""
    with tempfile.TemporaryDirectory() as folder:
        common = (f"+stage={STAGE}", f"scale={scale}", *BRIEF_ENDING, NO_REPORT)
        arguments = [[*common, *run, f"output_dir={folder}/{i}"] for i, run in enumerate(runs)]
        return list(zip(*launch(arguments, processes, threads), strict=True))


def measure_sizes() -> list[dict[str, float]]:
    """Medians of each size on one thread of one process, in interleaved rounds."""
    runs = [list(size.overrides) for size in SIZES]
    rounds = [watched("cpu", runs) for _ in range(SIZE_ROUNDS)]
    return [timing(each) for each in zip(*rounds, strict=True)]


def timing(rounds: Iterable[tuple[Measured, ...]]) -> dict[str, float]:
    """Medians of one size's steps: the seconds, and how long cores worked for all processes.

    Without the first step of a run, which touches memory for the first time.
    """
    steps = pd.concat(
        pd.DataFrame(process["steps"]).assign(run=number)
        for number, run in enumerate(rounds)
        for process in run
    )
    steps = steps[steps.index > 0]
    own = steps.groupby(["run", steps.index])
    return {"seconds": own["seconds"].first().median(), "worked_s": own["worked_s"].sum().median()}


def measure_processes() -> dict[str, dict[str, float]]:
    """The same step on one thread, on two, and on two processes of one thread each, in turn."""
    own = SHARED.overrides
    sharded = [own, [*own, "train.sharding=fsdp"]]
    rounds = []
    for _ in range(ROUNDS):
        (one,), (two,) = watched("cpu", [own]), watched("cpu", [own], threads=2)
        rounds.append([one, two, *watched("cpu", sharded, 2)])
    names = ("one thread", "two threads", *SHARDINGS)
    return {name: timing(runs) for name, runs in zip(names, zip(*rounds, strict=True), strict=True)}


def measure_equality() -> list[Measured]:
    """The losses of one, two and four processes, and what is received and kept by the first."""
    ((alone,),) = watched("smoke", [list(EQUAL)])
    losses = pd.DataFrame(alone["steps"])["loss"]
    found = []
    for processes in (2, 4):
        runs = [[*EQUAL, f"train.sharding={sharding.value}"] for sharding in SHARDINGS.values()]
        for name, (first, *_) in zip(SHARDINGS, watched("smoke", runs, processes), strict=True):
            steps = pd.DataFrame(first["steps"])
            found.append(
                {
                    "processes": processes,
                    "sharding": name,
                    "loss_difference": (steps["loss"] - losses).abs().max(skipna=False),
                    "received_bytes": steps["received_bytes"].median(),
                    "kept_bytes": first["kept_bytes"],
                }
            )
    return found


@cache
def on_gpu(model: str, micro_batch_size: int) -> Config:
    """A configuration of the scale for one GPU, with 524,288 tokens a step."""
    overrides = (f"model={model}", f"train.micro_batch_size={micro_batch_size}")
    return configured(STAGE, "cuda", *overrides)


def checks(rows: list[tuple[str, float, float]]) -> pd.DataFrame:
    """Predictions beside what was measured, in one unit, and how far off they are."""
    found = pd.DataFrame(rows, columns=["name", "predicted", "measured"])
    return found.assign(error=found["predicted"] / found["measured"] - 1)


def check_sizes(found: Measured, processor: Processor) -> pd.DataFrame:
    """The seconds of each size but the one that was used to calibrate, and by FLOPs alone."""
    times = [(size, each["worked_s"]) for size, each in zip(SIZES, found["sizes"], strict=True)]
    others = [(size, worked) for size, worked in times if size is not CALIBRATION]
    rows = [(size.name, processor.seconds(size.step), worked) for size, worked in others]
    rate = CALIBRATION.step.flops / dict(times)[CALIBRATION]
    alone = checks([("", size.step.flops / rate, worked) for size, worked in others])
    return checks(rows).assign(flops_alone=alone["error"])


def check_traffic(found: Measured) -> pd.DataFrame:
    """The bytes that a process receives in collectives of SHARED's gradients, and in a step."""
    rows = []
    for processes in (2, 4):
        ring = (processes - 1) / processes * cost.FP32 * SHARED.step.parameters
        for name, times in {"all-reduce": 2, "all-gather": 1, "reduce-scatter": 2}.items():
            measured = found["bandwidths"][str(processes)][name]["received_bytes"]
            rows.append((f"{name}, {processes} processes", times * ring, measured))
    for entry in found["equality"]:
        name = f"a step under {entry['sharding']}, {entry['processes']} processes"
        rows.append((name, equal_step(entry).received_bytes(gloo=True), entry["received_bytes"]))
    return checks(rows)


def check_kept(found: Measured) -> pd.DataFrame:
    """What a process keeps for its parameters.

    When the optimizer steps, gradients and the two moments are sharded as the weights are.
    """
    return checks(
        [
            ("", 4 * equal_step(entry).memory["weights"], sum(entry["kept_bytes"].values()))
            for entry in found["equality"]
        ]
    )


def equal_step(entry: Measured) -> Step:
    """The step of a run whose losses were compared."""
    config = configured(STAGE, "smoke", *EQUAL)
    return Step(config, entry["processes"], SHARDINGS[entry["sharding"]])


def check_processes(found: Measured, processor: Processor) -> pd.DataFrame:
    """How long cores work for a step on one process, and on two of them together."""
    measured, transfers = found["processes"], found["bandwidths"]["2"]
    rows = [("one process", processor.seconds(SHARED.step), measured["one thread"]["worked_s"])]
    for name, sharding in SHARDINGS.items():
        step = Step(configured(STAGE, "cpu", *SHARED.overrides), 2, sharding)
        transfer = transfers["all-gather" if step.is_sharded else "all-reduce"]
        communication = step.received_bytes(gloo=True) / transfer["received_bytes"]
        each = processor.seconds(step) + communication * transfer["worked_s"]
        rows.append((f"two processes, {name}", 2 * each, measured[name]["worked_s"]))
    return checks(rows)


def check_memory(found: Measured) -> pd.DataFrame:
    """The peak of a step on one GPU, or on one of several under FSDP."""
    rows = []
    for (model, size, gpus), traced in zip(TRACED, found["memory"], strict=True):
        step = Step(on_gpu(model, size), gpus, Sharding.fsdp)
        name = f"{MODELS[model]}, {size} x {step.context}, {gpus} GPU{'s' * (gpus > 1)}"
        rows.append((name, step.memory_bytes, traced))
    return checks(rows)


@cache
def plan(model: str, gpus: int, sharding: str, cluster: Cluster) -> Plan:
    """524,288 tokens, with the largest micro batch that fits; one sequence, where none does."""
    sizes = [2**power for power in range(cost.LARGEST_MICRO_BATCH.bit_length())]
    plans = [Plan(cluster, Step(on_gpu(model, n), gpus, SHARDINGS[sharding])) for n in sizes]
    return next((each for each in reversed(plans) if each.fits), plans[0])


def page(found: Measured) -> str:
    """docs/scaling.md from the measurements, with the predictions calculated anew."""
    worked = found["sizes"][SIZES.index(CALIBRATION)]["worked_s"]
    copied = 2 * COPIED_BYTES / found["bandwidths"]["1"]["copy"]["worked_s"]
    processor = Processor.calibrated(CALIBRATION.step, worked, copied)
    steps = {model: Step(on_gpu(model, 1)) for model in MODELS}
    step = steps["gpt2"]
    tokens = step.tokens * step.micro_batches
    alone = found["processes"]["one thread"]["worked_s"]
    return rendered(
        "scaling.md",
        found=found,
        cost=cost,
        models=MODELS,
        steps=steps,
        shardings=SHARDINGS,
        plan=plan,
        node_share=lambda sharding: max(
            plan(model, cost.GPUS_OF_NODE, sharding, cost.H100).share for model in MODELS
        ),
        # The MFU of each of cost.PUBLISHED.
        published_mfu=[
            count / seconds * step.flops / tokens / (cost.GPUS_OF_NODE * cluster.flops)
            for count, seconds, cluster in cost.PUBLISHED
        ],
        sharded_bytes=Step(on_gpu("gpt2_xl", 8), cost.GPUS_OF_NODE, Sharding.fsdp).memory_bytes,
        step_tokens=tokens,
        long_run_steps=int(LONG_RUN_TOKENS // tokens),
        processor=processor,
        calibration=CALIBRATION,
        shared=SHARED,
        equal_steps=EQUAL_STEPS,
        overhead={name: found["processes"][name]["worked_s"] / alone - 1 for name in SHARDINGS},
        reduced=found["bandwidths"]["2"]["all-reduce"],
        sizes=check_sizes(found, processor),
        traffic=check_traffic(found),
        kept=check_kept(found),
        processes=check_processes(found, processor),
        memory=check_memory(found),
    )


def main() -> None:
    """Measure everything, and write docs/scaling.json and .md."""
    kinds: dict[str, Callable[[], Any]] = {
        # A copy of memory and collectives of SHARED's gradients, in the first of the processes.
        "bandwidths": lambda: {n: launch(SHARED.step.parameters, n)[0] for n in (1, 2, 4)},
        "equality": measure_equality,
        "processes": measure_processes,
        "sizes": measure_sizes,
        # Traced without a GPU.
        "memory": lambda: [peak_bytes(on_gpu(model, size), n) for model, size, n in TRACED],
    }
    found: Measured = {
        "processor": title(describe(torch.device("cpu"))),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
    }
    for kind, work in kinds.items():
        print(f"Measuring: {kind}", flush=True)
        found[kind] = work()
    # As the file has it: the numbers of processes are words there.
    PAGE.write_text(page(save(PAGE, found)), encoding="utf-8")
