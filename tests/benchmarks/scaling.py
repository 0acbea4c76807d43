"""docs/scaling.md: what GPT-2 costs on 1 to 64 GPUs, predicted, and how far predictions err here.

docs/scaling.json holds what can be measured here of what `cost.Step` predicts: the traffic of runs,
what their processes keep, and traced memory.
"""

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from conf.schema import Config, Sharding
from tests.benchmarks import cost
from tests.benchmarks.cost import Cluster, Plan, Step
from tests.benchmarks.machine import describe, title
from tests.benchmarks.memory import configured, peak_bytes
from tests.benchmarks.ours import BRIEF_ENDING, NO_REPORT, python
from tests.benchmarks.pages import DOCS, rendered, save

Measured = dict[str, Any]

PAGE = DOCS / "scaling.md"
LONG_RUN_TOKENS = 10e9
MODELS = {"gpt2": "124M", "gpt2_medium": "350M", "gpt2_large": "774M", "gpt2_xl": "1.5B"}

STAGE = "step10"
EQUAL_STEPS = 20
# 16 sequences a step, so that each of four processes has two micro batches, in fp32 everywhere.
EQUAL = (
    "train.total_batch_tokens=512", f"train.steps={EQUAL_STEPS}", "evaluation.every=null",
    "train.autocast=none", "train.compile=false", "device=cpu",
)  # fmt: skip
SHARDINGS = {"DDP": Sharding.none, "FSDP": Sharding.fsdp}

# Micro batches whose memory is traced, on one GPU and under FSDP on several.
TRACED = [(model, 4, gpus) for gpus in (1, 8) for model in MODELS] + [("gpt2", 8, 64)]


def watched(runs: list[list[str]], processes: int = 1) -> list[tuple[Measured, ...]]:
    """The runs at the smoke scale, each as every process saw it, see watched.py.

    Raises CommandFailed.
    """
    torchrun = ("torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m")
    module = (*(torchrun if processes > 1 else ()), "tests.benchmarks.watched")
    common = (f"+stage={STAGE}", "scale=smoke", *BRIEF_ENDING, NO_REPORT)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        asked = [[*common, *run, f"output_dir={folder}/{i}"] for i, run in enumerate(runs)]
        python(*module, name, json.dumps(asked), OMP_NUM_THREADS="1")
        seen = [
            json.loads((folder / f"{rank}.json").read_text("utf-8")) for rank in range(processes)
        ]
    return list(zip(*seen, strict=True))


def measure_equality() -> list[Measured]:
    """The losses of one, two and four processes, and what is received and kept by the first."""
    ((alone,),) = watched([list(EQUAL)])
    losses = pd.DataFrame(alone["steps"])["loss"]
    found = []
    for processes in (2, 4):
        runs = [[*EQUAL, f"train.sharding={sharding.value}"] for sharding in SHARDINGS.values()]
        for name, (first, *_) in zip(SHARDINGS, watched(runs, processes), strict=True):
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


def check_traffic(found: Measured) -> pd.DataFrame:
    """The bytes that a process receives in a step."""
    rows = []
    for entry in found["equality"]:
        name = f"{entry['sharding']}, {entry['processes']} processes"
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
    steps = {model: Step(on_gpu(model, 1)) for model in MODELS}
    step = steps["gpt2"]
    tokens = step.tokens * step.micro_batches
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
        equal_steps=EQUAL_STEPS,
        traffic=check_traffic(found),
        kept=check_kept(found),
        memory=check_memory(found),
    )


def main() -> None:
    """Measure everything, and write docs/scaling.json and .md."""
    found: Measured = {
        "processor": title(describe(torch.device("cpu"))),
        "torch": torch.__version__,
        "equality": measure_equality(),
        # Traced without a GPU.
        "memory": [peak_bytes(on_gpu(model, size), n) for model, size, n in TRACED],
    }
    PAGE.write_text(page(save(PAGE, found)), encoding="utf-8")
