"""docs/scaling.md: what GPT-2 costs on 1 to 64 GPUs, predicted, and how far predictions err here.

docs/scaling.json holds what was measured; all predictions are calculated from `cost.Step`.
"""

import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jinja2
from rich.console import Console

from conf.schema import Sharding
from tests.benchmarks import cost
from tests.benchmarks.cost import Cluster, Processor, Step
from tests.benchmarks.limits import COPIED_BYTES
from tests.benchmarks.memory import configured
from tests.benchmarks.ours import ROOT
from tests.benchmarks.scaling_runs import (
    CALIBRATION,
    EQUAL,
    EQUAL_STEPS,
    MODELS,
    SHARDINGS,
    SHARED,
    SIZES,
    STAGE,
    TRACED,
    Measured,
    measure_all,
    on_gpu,
)

PAGE = ROOT / "docs" / "scaling.md"
GB = 1e9
GPUS = (1, 2, 4, 8, 16, 32, 64)
GUIDE_STEPS = 50
LONG_RUN_TOKENS = 10e9


@dataclass(frozen=True)
class Check:
    """A prediction beside what was measured, in one unit."""

    name: str
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1


@dataclass(frozen=True)
class Checks:
    """Predictions of one kind."""

    rows: list[Check]

    @property
    def median(self) -> float:
        """The median error, without signs."""
        return statistics.median(abs(row.error) for row in self.rows)

    @property
    def worst(self) -> float:
        """The largest error, without its sign."""
        return max(abs(row.error) for row in self.rows)


def calibrated(found: Measured) -> Processor:
    """One thread of this machine, from a size's time and the copy of memory."""
    worked = found["sizes"][SIZES.index(CALIBRATION)]["worked_s"]
    copied = 2 * COPIED_BYTES / found["bandwidths"]["1"]["copy"]["worked_s"]
    return Processor.calibrated(CALIBRATION.step, worked, copied)


def check_sizes(found: Measured, seconds: Callable[[Step], float]) -> Checks:
    """The seconds of each size but the one that was used to calibrate."""
    pairs = zip(SIZES, found["sizes"], strict=True)
    return Checks(
        [
            Check(size.name, seconds(size.step), timed["worked_s"])
            for size, timed in pairs
            if size is not CALIBRATION
        ]
    )


def check_collectives(found: Measured) -> Checks:
    """The bytes that a process receives in each collective of SHARED's gradients."""
    rows = []
    for processes in (2, 4):
        ring = (processes - 1) / processes * cost.FP32 * SHARED.step.parameters
        for name, times in {"all-reduce": 2, "all-gather": 1, "reduce-scatter": 2}.items():
            measured = found["bandwidths"][str(processes)][name]["received_bytes"]
            rows.append(Check(f"{name}, {processes} processes", times * ring, measured))
    return Checks(rows)


def check_shares(found: Measured) -> tuple[Checks, Checks]:
    """What a process receives in a step of a run, and what it keeps for its parameters."""
    received, kept = [], []
    for entry in found["equality"]:
        name = f"{entry['sharding']}, {entry['processes']} processes"
        sharding = SHARDINGS[entry["sharding"]]
        step = Step.of(configured(STAGE, "smoke", *EQUAL), entry["processes"], sharding)
        received.append(Check(name, step.received_bytes(gloo=True), entry["received_bytes"]))
        # When the optimizer steps, gradients and the two moments are sharded as the weights are.
        own = 4 * step.memory["weights"]
        kept.append(Check(name, own, sum(entry["kept_bytes"].values())))
    return Checks(received), Checks(kept)


def check_processes(found: Measured, processor: Processor) -> Checks:
    """How long cores work for a step on one process, and on two of them together."""
    measured, transfers = found["processes"], found["bandwidths"]["2"]
    alone = processor.seconds(SHARED.step)
    rows = [Check("one process", alone, measured["one thread"]["worked_s"])]
    for name, sharding in SHARDINGS.items():
        step = Step.of(configured(STAGE, "cpu", *SHARED.overrides), 2, sharding)
        transfer = transfers["all-gather" if step.is_sharded else "all-reduce"]
        communication = step.received_bytes(gloo=True) / transfer["received_bytes"]
        each = processor.seconds(step) + communication * transfer["worked_s"]
        rows.append(Check(f"two processes, {name}", 2 * each, measured[name]["worked_s"]))
    return Checks(rows)


def check_memory(found: Measured) -> Checks:
    """The peak of a step on one GPU, or on one of several under FSDP."""
    rows = []
    for (model, size, gpus), traced in zip(TRACED, found["memory"], strict=True):
        step = Step.of(on_gpu(model, size), gpus, Sharding.fsdp)
        name = f"{MODELS[model]}, {size} x {step.context}, {gpus} GPU{'s' * (gpus > 1)}"
        rows.append(Check(name, step.memory_bytes, traced))
    return Checks(rows)


@dataclass(frozen=True)
class Plan:
    """A step of 524,288 tokens on some GPUs of a cluster."""

    cluster: Cluster
    step: Step

    @property
    def fits(self) -> bool:
        return self.cluster.fits(self.step)

    @property
    def seconds(self) -> str:
        """With all the communication hidden that can be, to none."""
        digits = (f"{seconds:#.2g}" for seconds in self.cluster.seconds(self.step))
        least, most = (number.rstrip(".") for number in digits)
        return least if least == most else f"{least} to {most}"

    def hours(self, steps: float) -> float:
        """Of so many steps, with no communication hidden."""
        return self.cluster.seconds(self.step)[1] * steps / 3600

    @property
    def received_per_second(self) -> float:
        """Bytes/s of each GPU, on average over a step that hides what can be hidden."""
        return self.step.received_bytes() / self.cluster.seconds(self.step)[0]

    @property
    def communication_share(self) -> float:
        """The time of communication, in that of computing."""
        computing = self.cluster.compute_seconds(self.step)
        return self.cluster.communication_seconds(self.step) / computing

    @property
    def even_bandwidth(self) -> float:
        """Bytes/s at which communication takes as long as computing."""
        return self.step.received_bytes() / self.cluster.compute_seconds(self.step)


def plan(model: str, gpus: int, sharding: str, cluster: Cluster) -> Plan:
    """With the largest micro batch that fits; one sequence, where none does."""
    sizes = [2**power for power in range(cost.LARGEST_MICRO_BATCH.bit_length())]
    plans = [
        Plan(cluster, Step.of(on_gpu(model, size), gpus, SHARDINGS[sharding])) for size in sizes
    ]
    return next((each for each in reversed(plans) if each.fits), plans[0])


def published_mfu() -> list[float]:
    """The MFU of each of cost.PUBLISHED."""
    step = Step.of(on_gpu("gpt2", 1))
    flops_per_token = step.flops / step.tokens / step.micro_batches
    return [
        tokens / seconds * flops_per_token / (cost.GPUS_OF_NODE * cluster.flops)
        for tokens, seconds, cluster in cost.PUBLISHED
    ]


def page(found: Measured) -> str:
    """docs/scaling.md from the measurements, with the predictions calculated anew."""
    processor = calibrated(found)
    flops_alone = CALIBRATION.step.flops / found["sizes"][SIZES.index(CALIBRATION)]["worked_s"]
    received, kept = check_shares(found)
    steps = {model: Step.of(on_gpu(model, 1)) for model in MODELS}
    tokens = steps["gpt2"].tokens * steps["gpt2"].micro_batches
    node_shares = {
        sharding: max(
            plan(model, cost.GPUS_OF_NODE, sharding, cost.H100).communication_share
            for model in MODELS
        )
        for sharding in SHARDINGS
    }
    alone = found["processes"]["one thread"]["worked_s"]
    xl_on_node = on_gpu("gpt2_xl", 8)
    sharded_bytes = Step.of(xl_on_node, cost.GPUS_OF_NODE, Sharding.fsdp).memory_bytes
    template = Path(__file__).with_name("scaling.md.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        trim_blocks=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    return environment.from_string(template).render(
        found=found,
        cost=cost,
        GB=GB,
        models=MODELS,
        steps=steps,
        shardings=SHARDINGS,
        gpus=GPUS,
        plan=plan,
        node_shares=node_shares,
        published_mfu=published_mfu(),
        sharded_bytes=sharded_bytes,
        step_tokens=tokens,
        guide_steps=GUIDE_STEPS,
        long_run_steps=int(LONG_RUN_TOKENS // tokens),
        processor=processor,
        calibration=CALIBRATION,
        shared=SHARED,
        equal_steps=EQUAL_STEPS,
        overhead={name: found["processes"][name]["worked_s"] / alone - 1 for name in SHARDINGS},
        reduced=found["bandwidths"]["2"]["all-reduce"],
        sizes=check_sizes(found, processor.seconds),
        flops_alone=check_sizes(found, lambda step: step.flops / flops_alone),
        collectives=check_collectives(found),
        received=received,
        kept=kept,
        processes=check_processes(found, processor),
        memory=check_memory(found),
    )


def measure(console: Console) -> None:
    """Measure everything, and write docs/scaling.json and .md."""
    found = measure_all(console.print)
    PAGE.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(found), encoding="utf-8")
