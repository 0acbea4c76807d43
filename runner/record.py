"""The one schema of a run's record, `<experiment>/<stage>/<label>/`.

The runner writes what these types hold as run.json, steps.csv, held_out.csv and asked.csv, and
reports read it back as the same types. Beside each field is what it means. Every rule about a
record (which steps are cold, which runs are comparable) is here, once.
"""

import contextlib
import csv
import math
import re
import shlex
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from datetime import datetime
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any

from conf.schema import Aim, validator
from runner.files import DamagedFile, process_is_gone, unseal
from runner.products import Products
from stages.arithmetic import Ablation

FORMAT = 1
STEPS = "steps.csv"
HELD_OUT = "held_out.csv"
ASKED = "asked.csv"
CHECKPOINT = "checkpoint.safetensors"
WEIGHTS = "weights.safetensors"
EVENTS = "events.out.tfevents.*"  # what TensorBoard calls its files
CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
# The first steps of each start are slow: caches are cold, and memory is touched for the first time.
COLD_STEPS = 3


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


def described(doc: str, column: str | None = None, **default: Any) -> Any:
    """A field of a record: what it holds, and its column's name where it is not the field's."""
    return field(metadata={"doc": doc, "column": column}, **default)


def optional(doc: str, column: str | None = None) -> Any:
    """A field that is null where there is nothing to say."""
    return described(doc, column, default=None)


def measured(doc: str) -> Any:
    """A number that is NaN, and null in JSON, until it is measured."""
    return described(doc, default=math.nan)


@dataclass(frozen=True)
class Step:
    """One optimizer step; its fields are the columns of steps.csv."""

    step: int = described("optimizer step, from 0")
    loss: float = described("training loss, mean over the step's micro batches, nats/token")
    grad_norm: float = described("global L2 norm of the gradient before clipping")
    lr: float = described("learning rate")
    step_ms: float = described("wall milliseconds of the step")
    tokens: int = described("tokens trained on in the step")

    @property
    def is_finite(self) -> bool:
        """Whether training can go on from the step's loss and norm."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.step_ms * 1e3

    def line(self) -> str:
        """The step's line of the log, in the guide's form."""
        return (
            f"step {self.step}, loss: {self.loss}, norm: {self.grad_norm:.4f}, "
            f"dt: {self.step_ms:.2f}ms\n"
        )


@dataclass(frozen=True)
class Window:
    """The loss on one window of held-out text; its fields are the columns of held_out.csv."""

    step: int = described("optimizer steps taken before it was measured")
    first_token: int = described("position of the window's first token in the held-out text")
    tokens: int = described("tokens predicted in the window")
    loss: float = described("mean loss of these tokens, nats/token")


@dataclass(frozen=True)
class Asked:
    """What one command asked of the run; its fields are the columns of asked.csv.

    Hashes are the first 16 hexadecimal digits of SHA-256. Two runs are the two sides of a
    comparison where the `reference` of one is the `settings` of the other.
    """

    stage: str = described("the stage as it was asked for, whatever the run is recorded as")
    without: str = described("the steps taken back from it, joined by commas, or empty")
    plus: str = described("the steps added to it, joined by commas, or empty")
    typed: str = described("the typed settings that decide losses, but a recipe's: JSON by key")
    plan: str = described("name of the plan that asked for it, or empty")
    settings: str = described("hash of the settings that decide losses")
    base: str = described("hash of those without the stage: what the stages of a ladder share")
    reference: str = described("`settings` of what it is compared with, or empty")
    reference_command: str = described("command that trains what it is compared with, or empty")


def columns(kind: type) -> dict[str, str]:
    """What each column holds: of a table, Step, Window or Asked, or of a run and its parts."""
    found: dict[str, str] = {}
    for entry in fields(kind):
        if "doc" in entry.metadata:
            found[entry.metadata["column"] or entry.name] = entry.metadata["doc"]
        elif isinstance(entry.type, type) and is_dataclass(entry.type):
            found |= columns(entry.type)
    return found


@dataclass(kw_only=True)
class StageInfo:
    """The stage as it was when the run began."""

    name: str = described("name of the stage, as in +stage=step07", "stage")
    number: int = described("position on the ladder, from 1")
    parent: str | None = optional("the stage that it stands on, or empty")
    title: str = described("the stage's title")
    aim: Aim = described("what the stage is for: " + ", ".join(aim.value for aim in Aim))
    guide: str = described("the guide's words in short")
    changes: dict[str, tuple[Any, Any]] = described("dotted key -> values before and after")
    same_as: str | None = optional(
        "the stage that it trains exactly as, where the model lacks all knobs that it changes"
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
    sharding: str | None = optional("fsdp where each of them had a part of the model, or empty")

    @property
    def machine(self) -> str:
        """The device for people."""
        return self.device_name or self.device or "unknown"


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
    diagnosis_s: float = described("seconds of looks into the model", default=0.0)


@dataclass
class Results:
    """What was measured; NaN where the run did not get so far or the value is not finite."""

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
    peak_flops: float = measured("FLOP/s of the fastest matrix product measured on the machine")
    flops_before: float = measured("FLOP/s of that product before the steps, median")
    flops_after: float = measured("the same after the steps")
    peak_memory_bytes: float = measured("largest memory of a process in bytes")
    peak_flops_dtype: str | None = optional("type of that matrix product")


@dataclass
class Check:
    """One flow check: whether it passed, and what was measured."""

    name: str
    passed: bool
    detail: str
    seconds: float = 0.0


@dataclass
class Sample:
    """Text drawn from the model after so many steps; older records have one, from the end."""

    prompt: str
    seed: int
    text: str
    step: int | None = None


@dataclass
class Accuracy:
    """HellaSwag after so many steps: in which share of the items the right ending is most likely.

    The losses of an ending's tokens are summed for `acc`, and their mean is taken for `acc_norm`.
    """

    step: int
    items: int
    acc: float
    acc_norm: float

    @property
    def error(self) -> float:
        """The standard error of `acc_norm`, as the items are a sample."""
        return math.sqrt(self.acc_norm * (1 - self.acc_norm) / self.items)

    def __str__(self) -> str:
        by_mean = f"{self.acc_norm:.1%} ± {self.error:.1%} of {self.items:,} items"
        return f"{by_mean} (by the sum of losses {self.acc:.1%})"


@dataclass
class Layer:
    """The signal after one layer, in one look; null where a number is not finite."""

    name: str
    activation: float | None  # standard deviation over the positions, RMS over the channels
    gradient: float | None  # RMS of the loss's gradient with respect to it


@dataclass
class Look:
    """What one sequence shows of a model before a step, and of the step; see training.diagnosis.

    Numbers are null where they are not finite, or where the model or the step has none.
    """

    step: int
    layers: list[Layer] = field(default_factory=list)
    dead_units: float | None = None  # largest share of a linear layer's inputs that are constant
    attention_entropy: float | None = None  # lowest of the layers', over that of uniform weights
    grad_norm: float | None = None  # L2 norm of the sequence's gradient
    later: float | None = None  # gradient at tokens after the last target over that before it
    batch: str = ""  # checksum of the tokens
    shifted: float = 0.0  # share of the targets that are the next token
    copied: float = 0.0  # share of the targets that are the token itself
    update: float | None = None  # a weight matrix's update over its weights, RMS, median
    frozen: list[str] = field(default_factory=list)  # parameters that the step did not change
    step_norm: float | None = None  # L2 norm of the step's gradient
    weight: float | None = None  # sum of the weights of the micro batches' losses in the step's
    noise_tokens: float | None = None  # tokens at which a gradient's noise equals its length


class Severity(str, Enum):
    """How much a finding matters: worth knowing, likely to cost loss, or certainly wrong."""

    note = "note"
    warning = "warning"
    error = "error"

    @property
    def rank(self) -> int:
        """0 for a note, and more for what matters more."""
        return list(Severity).index(self)


@dataclass
class Finding:
    """Something that went wrong in a run, or is worth knowing: see runner.findings."""

    name: str
    severity: Severity
    numbers: dict[str, float | None]
    sentence: str
    advice: str


@dataclass
class KeptWeights:
    """The weights in the run's folder: after how many steps, and their held-out loss."""

    steps: int
    held_out: float | None  # null where it is not finite


@dataclass
class Process:
    """Who trains, or trained, the run."""

    host: str
    pid: int


@dataclass(kw_only=True)
class Settings:
    """The configuration values that tables show."""

    seed: int = described("seed of the draws and of the order of the data")
    repeat: int = described("number of the run among those that are the same but for the moment")
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
    conditions: dict[str, Any] = described("what decides losses in every stage: key -> value")
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
    resumed_at: list[int] = described("steps it was resumed at", default_factory=list)
    applied: list[str] = described("the techniques that acted", default_factory=list)
    not_applied: dict[str, str] = described("technique -> why it did not act", default_factory=dict)
    attention_kernel: str | None = optional("flash, cudnn, efficient or math, where torch chose it")
    notes: list[str] = described("what has no effect, or an odd one", default_factory=list)
    checks: list[Check] = described("the flow checks, see Check", default_factory=list)
    products: Products | None = optional("rates of the device's matrix products, see Products")
    model: ModelInfo = field(default_factory=ModelInfo)
    compile_cache: str | None = optional("cold or warm: whether kernels were compiled, or found")
    timings: Timings = field(default_factory=Timings)
    results: Results = field(default_factory=Results)
    looks: list[Look] = described(
        "what the model showed at some steps, see Look", default_factory=list
    )
    findings: list[Finding] = described(
        "what went wrong, by name, see Finding", default_factory=list
    )
    samples: list[Sample] = described("text drawn from the model", default_factory=list)
    hellaswag: list[Accuracy] = described("its accuracy, see Accuracy", default_factory=list)
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
        """The command that trains the baseline that it is compared with."""
        words = [
            "+stage=step02" if word.startswith("+stage=") else word
            for word in shlex.split(self.command)
            if not word.startswith(("without=", "plus="))
        ]
        return shlex.join(words)

    @property
    def ablation(self) -> Ablation:
        """Its stage, and the steps taken back from it or added to it."""
        return Ablation(self.stage.name, self.config["without"], self.config["plus"])

    @property
    def round(self) -> tuple[int, int]:
        """Seed and repeat: which of the comparable runs of its stage it is."""
        return self.settings.seed, self.settings.repeat

    @property
    def is_abandoned(self) -> bool:
        """Whether the record says running, and its process is known to have ended."""
        running = self.status is Status.running
        return running and process_is_gone(self.process.host, self.process.pid)


class UnreadableRecord(Exception):
    """Why a record cannot be used, as the rest of a sentence."""


def read_runs(experiment: Path) -> dict[Path, Run]:
    """Every readable record of an experiment by its run.json."""
    found = {}
    for file in experiment.glob("*/*/run.json"):
        with contextlib.suppress(UnreadableRecord, OSError):
            found[file] = read_run(file.parent)
    return found


def read_run(folder: Path) -> Run:
    """The record in a run's folder. Raises UnreadableRecord and OSError."""
    try:
        return parse_run(_printable(unseal((folder / "run.json").read_bytes())))
    except DamagedFile as error:
        raise UnreadableRecord(f"run.json is damaged: {error}") from None


def parse_run(content: dict[str, Any]) -> Run:
    """A run from run.json's fields. Raises UnreadableRecord."""
    from pydantic import ValidationError

    found = content.get("format", "no format")
    if found != FORMAT:
        raise UnreadableRecord(f"run.json has {found!r} as its format, and this reads {FORMAT}")
    try:
        measured = {
            part: {k: v for k, v in (content.get(part) or {}).items() if v is not None}
            for part in ("model", "results")
        }
        run: Run = validator(Run).validate_python({**content, **measured})
        validator(Settings).validate_python(vars(run.settings))
        for moment in (run.started, run.ended):
            if moment is not None and datetime.fromisoformat(moment).tzinfo is None:
                raise UnreadableRecord(f"{moment} in run.json has no time zone")
        return run
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UnreadableRecord(f"{key} in run.json: {first['msg']}") from None
    except ValueError as error:
        raise UnreadableRecord(f"run.json: {error}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise UnreadableRecord(f"run.json lacks what its format asks for ({error})") from None


def read_asked(folder: Path) -> list[Asked]:
    """The distinct lines of asked.csv in a run's folder, in order; [] where it cannot be read.

    A line that is not whole, or has other columns, is left out.
    """
    header = list(columns(Asked))
    found: dict[Asked, None] = {}
    with contextlib.suppress(OSError, csv.Error):  # the latter where the last line is cut short
        text = _printable((folder / ASKED).read_bytes().decode(errors="replace"))
        lines = (f"{line}\n" for line in text.split("\n")[:-1])
        for row in csv.reader(lines, strict=True):
            if len(row) == len(header) and row != header:
                found[Asked(*row)] = None
    return list(found)


def _printable(value: Any) -> Any:
    """JSON without control characters, which no page and no terminal should be given."""
    match value:
        case str():
            return CONTROL_CHARACTERS.sub("\N{REPLACEMENT CHARACTER}", value)
        case list():
            return [_printable(entry) for entry in value]
        case dict():
            return {_printable(key): _printable(entry) for key, entry in value.items()}
    return value


def warm_steps(steps: int, resumed_at: Iterable[int] = ()) -> list[bool]:
    """Which steps count for speed: not the first ones of each start, unless there are no others."""
    cold = {start + i for start in (0, *resumed_at) for i in range(COLD_STEPS)}
    warm = [step not in cold for step in range(steps)]
    return warm if any(warm) else [True] * steps


def summarise(steps: Sequence[Step], resumed_at: Iterable[int], known: Results) -> Results:
    """The results that are `known`, with those that follow from the steps."""
    if not steps:
        return replace(known, steps=0)
    finite = [step.loss for step in steps if math.isfinite(step.loss)]
    times = [step.step_ms for step in steps]
    warm = warm_steps(len(steps), resumed_at)
    step_ms = statistics.median(ms for ms, counts in zip(times, warm, strict=True) if counts)
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
    """What two runs have in common whose losses may be compared, their settings and seed aside.

    The text, its held-out windows, the device and its name, code, torch and precision.
    """
    on, precisions = run.environment, run.products.precisions if run.products else ""
    text = run.data.sha256, run.data.windows_sha256
    return *text, on.device, on.device_name, run.code, on.torch, precisions


def speed_conditions(run: Run) -> tuple[Any, ...]:
    """What else they have in common where their speeds may be compared too.

    CPU threads, processes, sharding, and how matrix products are computed.
    """
    on, answers = run.environment, run.products.answers if run.products else ""
    return on.threads, on.processes, on.sharding, answers


def find_baseline(run: Run, experiment: Path) -> Run | None:
    """The newest finished baseline that a run may be compared with: its conditions, its seed."""
    alike = [
        other
        for other in read_runs(experiment).values()
        if other.stage.aim is Aim.baseline and other.status is Status.finished
        if other.ablation.is_plain and other.seed == run.seed
        if must_be_equal(other) == must_be_equal(run) and other.conditions == run.conditions
    ]
    return max(alike, key=lambda other: other.started, default=None)
