"""The one schema of a run's record, `<experiment>/<stage>/<label>/`: its run.json.

The runner writes what these types hold, and reports read it back as the same types. Beside each
field is what it means. What makes runs comparable is defined only here. `runner.rows` describes the
tables beside run.json, and `runner.observations` what is seen of a model.
"""

import contextlib
import math
import shlex
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from enum import Enum
from functools import cached_property, partial
from itertools import compress
from pathlib import Path
from typing import Any

from conf.schema import Aim, validator
from runner.files import DamagedFile, process_is_gone, unseal
from runner.observations import Accuracy, DrawnText, Finding, FlowCheck, Inspection
from runner.products import Products
from runner.rows import Step, described, optional, printable, warm_steps
from stages.arithmetic import Ablation

FORMAT = 1
CHECKPOINT = "checkpoint.safetensors"
WEIGHTS = "weights.safetensors"
EVENTS = "events.out.tfevents.*"  # what TensorBoard calls its files

measured = partial(described, default=math.nan)  # NaN, and null in JSON, until it is measured
several = partial(described, default_factory=list)


class Status(str, Enum):
    """The state of a run."""

    running = "running"
    finished = "finished"
    diverged = "diverged"
    interrupted = "interrupted"
    failed = "failed"

    @property
    def is_final(self) -> bool:
        """Whether the run has its result, so that the same command does not train it again."""
        return self in (Status.finished, Status.diverged)


@dataclass(kw_only=True)
class StageInfo:
    """The stage as it was when the run began."""

    name: str = described("name of the stage, as in +stage=step07", "stage")
    number: int = described("position on the ladder, from 1; beyond the guide, after its last")
    beyond: bool = described("whether it is beyond the guide", default=False)
    parent: str | None = optional("the stage that it is built on, or empty")
    title: str = described("the stage's title")
    aim: Aim = described("what the stage is for: " + ", ".join(aim.value for aim in Aim))
    guide: str = described("summary of the guide's step")
    changes: dict[str, tuple[Any, Any]] = described("dotted key -> values before and after")
    same_as: str | None = optional(
        "the stage with the same training, if the model lacks all knobs that this one changes"
    )


@dataclass
class DataInfo:
    """The text, and its two parts once it is tokenized."""

    name: str = described("name of the data", "data")
    sha256: str = described("hash of the text", "data_sha256")
    fallback: str | None = optional("why it replaces other data, or empty", "data_fallback")
    bytes: int | None = optional("size of the text in bytes", "data_bytes")
    tokens: int | None = optional("tokens of the text", "data_tokens")
    train_tokens: int | None = optional("tokens trained on")
    held_out_tokens: int | None = optional("tokens held out")
    unigram_entropy: float | None = optional("entropy of a single token of the text, nats")
    windows_sha256: str | None = optional("hash of the held-out windows that are evaluated")
    hellaswag_sha256: str | None = optional("hash of HellaSwag's file, or empty")
    revision: str | None = optional("revision of the hub's dataset, or empty")
    index_sha256: str | None = optional("hash of the shards' hashes, or empty")


@dataclass
class Environment:
    """What the run ran on."""

    python: str = described("version of Python")
    torch: str = described("version of torch")
    platform: str = described("operating system")
    commit: str | None = optional("commit of the code, or empty")
    dirty: bool = described("whether the code differed from the commit", default=False)
    device: str | None = optional("cpu, cuda or mps")
    device_name: str | None = optional("the device's own name")
    threads: int | None = optional("CPU threads torch used")
    processes: int = described("processes that trained the run together", default=1)
    sharding: str | None = optional("fsdp if each process had a part of the model, or empty")


@dataclass
class ModelInfo:
    """The size of the model."""

    parameters: float = measured("parameters of the model")
    flops_per_token: float = measured("floating point operations a trained token costs")
    frozen: list[str] = field(default_factory=list)  # parameters that it needs no gradient for


@dataclass
class Timings:
    """Sums over all starts of the run, in seconds."""

    setup_s: float = described("seconds to set the run up", default=0.0)
    compile_s: float = described("seconds of compilation, which step_ms leaves out", default=0.0)
    train_s: float = described("seconds of training", default=0.0)
    evaluation_s: float = described("seconds of evaluations, samples included", default=0.0)
    diagnosis_s: float = described("seconds of inspections of the model", default=0.0)


@dataclass
class Results:
    """What was measured; NaN if the run did not get so far or the value is not finite."""

    steps: float = measured("steps taken")
    worst: float = measured("highest training loss, nats/token")
    best: float = measured("lowest training loss, nats/token")
    first: float = measured("training loss of the first step, nats/token")
    last: float = measured("training loss of the last step, nats/token")
    mean: float = measured("mean training loss over the steps, nats/token")
    held_out: float = measured("loss on the held-out text, nats/token")
    held_out_error: float = measured("standard error of held_out: its windows are a sample")
    hellaswag_acc: float = measured("HellaSwag's accuracy by the sum of an ending's losses")
    hellaswag_acc_norm: float = measured("the same by their mean, so that no length is preferred")
    tokens_per_step: float = measured("tokens in an optimizer step")
    tokens_per_second: float = measured("tokens_per_step over step_ms")
    step_ms: float = measured("milliseconds of a step, median over the warm steps")
    mfu: float = measured("FLOP/s of the model over peak_flops of all processes")
    datasheet_mfu: float = measured("the same over datasheet_flops")
    datasheet_flops: float = measured("FLOP/s of dense bf16 by the datasheet of a known GPU")
    peak_flops: float = measured("highest FLOP/s measured: of matrix products, or of the steps")
    flops_before: float = measured("FLOP/s of that product before the steps, median")
    flops_after: float = measured("the same after the steps")
    peak_memory_bytes: float = measured("largest memory of a process in bytes")
    peak_flops_dtype: str | None = optional("type of that matrix product")


@dataclass
class KeptWeights:
    """The weights in the run's folder: after how many steps, and their held-out loss."""

    steps: int
    held_out: float | None  # null if it is not finite


@dataclass
class Process:
    """The process that trains, or trained, the run."""

    host: str
    pid: int


@dataclass(kw_only=True)
class Settings:
    """The configuration values that tables show."""

    seed: int = described("seed of the draws and of the order of the data")
    repeat: int = described("number of the run among repeats of the same run")
    model: str = described("name of the model")
    scale: str = described("name of the scale")
    recipe: str | None = described("name of the recipe, or empty")
    steps: int = described("optimizer steps the run was to take", "steps_planned")
    micro_batch_size: int = described("sequences in a micro batch")
    context: int = described("tokens in a sequence")
    learning_rate: float = described("peak learning rate")
    clip_grad_norm: float | None = described("norm to which gradients are clipped, or empty")


@dataclass(kw_only=True)
class Run:
    """run.json."""

    stage: StageInfo
    experiment: str = described("name of the experiment's folder")
    label: str = described("name of the run's folder")
    fingerprint: str = described("hash of config, data and code")
    code: str = described("hash of the training code and torch's version")
    command: str = described("command that makes the run again")
    variant: list[str] = described("overrides that change what is measured, beside the stage")
    conditions: dict[str, Any] = described("decides losses in every stage: key -> value")
    changed_by: dict[str, str] = described("key -> stage to change it with", default_factory=dict)
    config: dict[str, Any] = described("the whole resolved configuration")
    data: DataInfo
    environment: Environment
    process: Process
    started: str = described("start, ISO 8601, UTC")
    ended: str | None = optional("end, ISO 8601, UTC, or empty")
    format: int = described("version of this schema", default=FORMAT)
    status: Status = described(", ".join(s.value for s in Status), default=Status.running)
    message: str | None = optional("why it diverged, failed or was interrupted, or empty")
    diverged_at: int | None = optional("step at which the loss was no longer finite")
    resumed_at: list[int] = several("steps at which it was resumed")
    applied: list[str] = several("the techniques that acted")
    not_applied: dict[str, str] = described("technique -> why it did not act", default_factory=dict)
    attention_kernel: str | None = optional("flash, cudnn, efficient or math, if torch chose it")
    notes: list[str] = several("settings with no effect, or an odd one")
    checks: list[FlowCheck] = several("the flow checks, see FlowCheck")
    products: Products | None = optional("rates of the device's matrix products, see Products")
    model: ModelInfo = field(default_factory=ModelInfo)
    compile_cache: str | None = optional("cold or warm: whether kernels were compiled, or found")
    timings: Timings = field(default_factory=Timings)
    results: Results = field(default_factory=Results)
    looks: list[Inspection] = several("what the model showed at some steps, see Inspection")
    findings: list[Finding] = several("what went wrong, by name, see Finding")
    samples: list[DrawnText] = several("text drawn from the model")
    hellaswag: list[Accuracy] = several("its accuracy, see Accuracy")
    weights: KeptWeights | None = optional("weights in the run's folder: steps, held_out, or empty")
    steps_sha256: str | None = optional("checksum of steps.csv once the run has ended, or empty")
    held_out_sha256: str | None = optional("the same of held_out.csv")

    @cached_property
    def settings(self) -> Settings:
        """The settings that tables show."""
        named = {group: self.config[group]["name"] for group in ("model", "scale")}
        named["recipe"] = (self.config["recipe"] or {}).get("name")
        flat = {**self.config, **self.config["train"], **named}
        return Settings(**{entry.name: flat[entry.name] for entry in fields(Settings)})

    @property
    def seed(self) -> int:
        return self.settings.seed

    @property
    def baseline_command(self) -> str:
        """The command that trains this run's baseline."""
        own = ("+stage=", "without=", "plus=")
        words = [word for word in shlex.split(self.command) if not word.startswith(own)]
        return shlex.join([*words, "+stage=step02"])

    @property
    def ablation(self) -> Ablation:
        """Its stage, and the steps taken back from it or added to it."""
        return Ablation(self.stage.name, self.config["without"], self.config["plus"])

    @property
    def is_abandoned(self) -> bool:
        """Whether the record says running, and its process is known to have ended."""
        at = self.process
        return self.status is Status.running and process_is_gone(at.host, at.pid)


class UnreadableRecord(Exception):
    """Why a record cannot be used, as the rest of a sentence."""


def read_runs(experiment: Path) -> dict[Path, Run]:
    """Every readable record of an experiment by its run.json."""
    runs = {}
    for file in experiment.glob("*/*/run.json"):
        with contextlib.suppress(UnreadableRecord, OSError):
            runs[file] = read_run(file.parent)
    return runs


def read_run(folder: Path) -> Run:
    """The record in a run's folder. Raises UnreadableRecord and OSError."""
    try:
        return parse_run(printable(unseal((folder / "run.json").read_bytes())))
    except DamagedFile as error:
        raise UnreadableRecord(f"run.json is damaged: {error}") from None


def parse_run(content: dict[str, Any]) -> Run:
    """A run from run.json's fields. Raises UnreadableRecord."""
    from pydantic import ValidationError

    version = content.get("format", "no format")
    if version != FORMAT:
        raise UnreadableRecord(f"run.json has {version!r} as its format, and this reads {FORMAT}")
    try:
        known = {
            part: {k: v for k, v in (content.get(part) or {}).items() if v is not None}
            for part in ("model", "results")
        }
        run: Run = validator(Run).validate_python({**content, **known})
        validator(Settings).validate_python(vars(run.settings))
        for moment in (run.started, run.ended):
            if moment is not None and datetime.fromisoformat(moment).tzinfo is None:
                raise ValueError(f"{moment} has no time zone")
        return run
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UnreadableRecord(f"{key} in run.json: {first['msg']}") from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UnreadableRecord(f"run.json lacks what its format asks for ({error})") from None


def summarise(steps: Sequence[Step], resumed_at: Iterable[int], known: Results) -> Results:
    """The results that are `known`, with those that follow from the steps."""
    if not steps:
        return replace(known, steps=0)
    finite = [step.loss for step in steps if math.isfinite(step.loss)]
    warm = warm_steps(len(steps), resumed_at)
    step_ms = statistics.median(step.step_ms for step in compress(steps, warm))
    return replace(
        known,
        steps=len(steps),
        mean=statistics.fmean(finite) if finite else math.nan,
        worst=max(finite, default=math.nan),
        best=min(finite, default=math.nan),
        first=steps[0].loss,
        last=steps[-1].loss,
        tokens_per_step=steps[-1].tokens,
        tokens_per_second=steps[-1].tokens / step_ms * 1e3 if step_ms else math.nan,
        step_ms=step_ms,
    )


def must_be_equal(run: Run) -> tuple[str | None, ...]:
    """What two runs must share for comparable losses, besides their settings and seed.

    The text, its held-out windows, the device and its name, code, torch and precision.
    """
    on, precisions = run.environment, run.products.precisions if run.products else ""
    text = run.data.sha256, run.data.windows_sha256
    return *text, on.device, on.device_name, run.code, on.torch, precisions


def speed_conditions(run: Run) -> tuple[Any, ...]:
    """What they must share for comparable speeds too.

    CPU threads, processes, sharding, and how matrix products are computed.
    """
    on, answers = run.environment, run.products.answers if run.products else ""
    return on.threads, on.processes, on.sharding, answers


def find_baseline(run: Run, experiment: Path) -> Run | None:
    """The newest finished baseline comparable with a run: the same conditions and seed."""
    alike = [
        other
        for other in read_runs(experiment).values()
        if other.stage.aim is Aim.baseline and other.status is Status.finished
        if other.ablation.is_plain and other.seed == run.seed
        if must_be_equal(other) == must_be_equal(run) and other.conditions == run.conditions
    ]
    return max(alike, key=lambda other: other.started, default=None)
