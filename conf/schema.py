"""The types of the configuration, each with its range. Values are in the YAML beside this file.

Nothing here imports torch: a wrong key, type or value is refused before training starts.
"""

import functools
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, Lt, MinLen, Predicate

from gpt2.config import ModelConfig, PositiveFloat, PositiveInt


class Role(Enum):
    """What the value of a key is for. Every list of keys is made from the roles beside the types.

    If a section has a role, all keys below it have the same role.
    """

    losses = "decides losses: the settings of runs that are compared; the role of most keys"
    numbers = "decides other numbers of a run, and no loss"
    round = "tells the runs of one setting apart: the draws, and the moment"
    asked = "what is asked for; what follows from it is in other keys"
    name = "a name, or a file, which counts by its hash: kept in the record and never compared"
    command = "of one command on one machine: not kept in the record"


Seed = Annotated[int, Ge(0), Lt(2**63), Role.round]
Fraction = Annotated[float, Gt(0), Lt(1)]
Name = Annotated[str, Role.name]
NameOrNone = Annotated[str | None, Role.name]
LearningRate = Annotated[float, Gt(0), Lt(1e31)]  # AdamW divides it by 1 - beta


def is_folder_name(name: str) -> bool:
    """Whether a name is one folder's name, and not a path."""
    return name.isprintable() and name not in ("", ".", "..") and Path(name).name == name


class Autocast(Enum):
    """Matrix products with fp32 weights: in fp32, in bfloat16 if faster, or always in bfloat16."""

    none = "none"
    auto = "auto"
    bf16 = "bf16"


class MatmulPrecision(Enum):
    """fp32 matrix products: `highest` keeps all of fp32, `high` may use TF32 if it is faster."""

    highest = "highest"
    high = "high"


class CompileMode(Enum):
    """torch.compile's `mode`: reduce_overhead uses CUDA graphs, max_autotune tries more kernels."""

    default = "default"
    reduce_overhead = "reduce-overhead"
    max_autotune = "max-autotune-no-cudagraphs"


class CompileScope(Enum):
    """What torch.compile compiles: a GPT's blocks and its norm, head and loss, or a whole model."""

    blocks_and_head = "blocks_and_head"
    model = "model"


class Optimizer(Enum):
    """AdamW for all parameters, or Muon for the matrices of the blocks and AdamW for the rest."""

    adamw = "adamw"
    muon = "muon"


class Schedule(Enum):
    """The learning rate: constant; or linear warmup, and then half a cosine, or a late cooldown."""

    constant = "constant"
    cosine = "cosine"
    wsd = "wsd"


class Sharding(Enum):
    """On several processes: each has the whole model (DDP), or each a part of it (FSDP)."""

    none = "none"
    fsdp = "fsdp"


class Checkpoint(Enum):
    """Which weights a run keeps; `best`: the lowest held-out loss at a checkpoint or at the end."""

    none = "none"
    last = "last"
    best = "best"


class Logger(Enum):
    """Where a run's numbers also go, so that it can be watched, by the name of its package."""

    none = "none"
    tensorboard = "tensorboard"
    wandb = "wandb"


class Order(Enum):
    """The order in which a run sees its data: shuffled by the seed, or unchanged."""

    shuffled = "shuffled"
    in_order = "in_order"


@dataclass
class DataConf:
    """Where text comes from: a dataset of the Hugging Face hub, `path`, or a download from `url`.

    `path` is a file, folder or glob. `split` and `subset` select a part of a dataset. `column`
    holds the text of a dataset or of files of documents.
    """

    name: str
    path: NameOrNone
    url: NameOrNone
    sha256: NameOrNone
    dataset: NameOrNone
    subset: NameOrNone
    split: Name
    column: Name
    tokens: Annotated[PositiveInt | None, Role.name]  # how many are used at most; None: all
    order: Order
    held_out_fraction: Fraction


@dataclass
class ScaleConf:
    """Sizes that only some stages use; a scale's YAML sets the others in their own groups."""

    name: str
    learning_rate: LearningRate  # up to step08; it suits the scale's model
    peak_learning_rate: LearningRate  # from step09 on, with warmup and decay
    accumulate_to_tokens: PositiveInt  # batch of a step with gradient accumulation
    flow_micro_batch_size: PositiveInt
    flow_context: PositiveInt


class Aim(str, Enum):
    """What a stage is for; a report judges it by this."""

    flow = "flow"
    baseline = "baseline"
    loss = "loss"
    speed = "speed"
    stability = "stability"


@dataclass
class StageConf:
    """What the guide says about a step; the rest of the overlay is the step's changes.

    `claims` are the speed-ups that it names, each by the configuration key that causes it. `guide`
    is the source of a stage `beyond` the guide.
    """

    name: str
    title: str
    aim: Aim
    guide: str
    claims: dict[str, float]
    beyond: bool = False  # not a step of the guide: it has no place on the ladder


@dataclass
class PlanConf:
    """What a plan asks; its sweeper's parameters define its runs.

    `reference` changes what the plan's runs are compared with: the same run with these overrides,
    which replace the plan's own. A null removes one.
    """

    title: str = ""  # default: the file's name
    question: str = ""
    reference: dict[str, Any] | None = None


@dataclass
class RecipeConf:
    """A published long run; its file chooses a stage and sets the rest."""

    name: str
    title: str


@dataclass
class CheckpointEvery:
    """How often a run writes a checkpoint: by steps, by minutes, by both, or never."""

    steps: PositiveInt | None
    minutes: PositiveFloat | None


@dataclass
class TrainConf:
    """The training loop and its optimizer."""

    steps: PositiveInt
    micro_batch_size: PositiveInt  # in sequences
    context: Annotated[int, Ge(2)]  # tokens of a sequence; a token alone has no context
    total_batch_tokens: PositiveInt | None  # of an optimizer step; None: one micro batch
    learning_rate: LearningRate
    schedule: Schedule
    warmup_steps: Annotated[int, Ge(0)]
    min_lr_ratio: Annotated[float, Ge(0), Le(1)]
    cooldown_fraction: Annotated[float | None, Gt(0), Le(1)]  # of the steps; of schedule=wsd
    optimizer: Optimizer
    betas: tuple[Fraction, Fraction]
    eps: PositiveFloat
    weight_decay: Annotated[float, Ge(0), Lt(1e38)]
    decay_matrices_only: bool
    fused: bool
    clip_grad_norm: PositiveFloat | None
    label_smoothing: Annotated[float, Ge(0), Lt(1)]  # of the gradients; losses are reported plain
    autocast: Autocast
    matmul_precision: MatmulPrecision
    compile: bool
    compile_scope: CompileScope
    compile_mode: CompileMode
    flow_checks: bool
    checkpoint_every: Annotated[CheckpointEvery, Role.name]
    sharding: Annotated[Sharding, Role.name]
    # A process that does not answer for so long ends the run.
    timeout_minutes: Annotated[PositiveFloat, Role.name]

    @property
    def micro_batch_tokens(self) -> int:
        return self.micro_batch_size * self.context

    @property
    def grad_accum_steps(self) -> int:
        """Micro batches that make one optimizer step."""
        return (self.total_batch_tokens or self.micro_batch_tokens) // self.micro_batch_tokens

    @property
    def cooldown_steps(self) -> int:
        """The last steps, in which `schedule=wsd` lowers the rate."""
        return max(1, round((self.cooldown_fraction or 0) * self.steps))

    @property
    def loss_options(self) -> dict[str, float]:
        """What a model is given for its training loss; many custom ones take no label smoothing."""
        return {"label_smoothing": self.label_smoothing} if self.label_smoothing else {}

    def share(self, processes: int) -> tuple[int, int]:
        """Sequences per micro batch and micro batches per step, in each process."""
        sequences = self.micro_batch_size * self.grad_accum_steps // processes
        sizes = range(self.micro_batch_size, 0, -1)
        micro_batch_size = next(size for size in sizes if sequences % size == 0)
        return micro_batch_size, sequences // micro_batch_size


@dataclass
class EvaluationConf:
    """The evaluations, at the end and during training, and the measurement of FLOP/s."""

    tokens: PositiveInt  # held-out tokens, in windows of train.context
    # Steps between two evaluations; None: only at the end.
    every: Annotated[PositiveInt | None, Role.numbers]
    samples: Annotated[bool, Role.numbers]
    hellaswag: NameOrNone  # the file of its items
    hellaswag_items: Annotated[PositiveInt | None, Role.numbers]  # None: all
    # For the matrix products measured before the steps, and for those after them.
    peak_seconds: Annotated[PositiveFloat, Role.numbers]

    def is_due(self, steps: int) -> bool:
        """Whether the model is evaluated after so many steps."""
        return self.every is not None and steps % self.every == 0


@dataclass
class StatisticsConf:
    """How a difference in loss is decided: docs/statistics.md explains each."""

    confidence: Fraction  # of every interval; one minus it is the error rate of the family
    margin: Annotated[float, Ge(0), Lt(1e31)]  # a smaller difference in loss does not matter
    minimum_seeds: Annotated[int, Ge(2)]  # fewer decide no outcome


@dataclass
class LogsConf(StatisticsConf):
    """The statistics of the report on logs; None asks no such question."""

    target: PositiveFloat | None  # a loss: whether each arm's mean is below it
    improvement: PositiveFloat | None  # whether each arm is lower than the first by more than it


@dataclass
class ReportConf(StatisticsConf):
    """The statistics of the report on experiments."""

    margin: PositiveFloat  # nats/token
    minimum_rounds: Annotated[int, Ge(2)]  # fewer interleaved rounds decide nothing about speed
    resamples: Annotated[int, Ge(100)]  # bootstrap samples of the held-out windows
    busy: Fraction  # a machine this much slower than at its best was busy or throttled


@dataclass
class SampleConf:
    """Text drawn from a model: `tokens` after `prompt`, each from the `top_k` most likely."""

    prompt: Annotated[str, MinLen(1)]
    tokens: PositiveInt
    temperature: Annotated[float, Ge(1e-6), Lt(1e38)]
    top_k: PositiveInt
    seed: Seed


@dataclass
class LoggerConf:
    """The logger by which a run is watched; its settings are beside its name."""

    name: Logger


@dataclass
class Config:
    """The whole configuration of a run."""

    experiment: Annotated[str, Predicate(is_folder_name), Role.name]
    seed: Seed
    repeat: Annotated[PositiveInt, Role.round]
    device: Annotated[str, Role.numbers]
    checkpoint: Annotated[Checkpoint, Role.name]
    force: Annotated[bool, Role.name]
    quiet: Annotated[bool, Role.command]
    output_dir: Annotated[str, Role.command]
    cache_dir: Annotated[str, Role.command]
    model: ModelConfig
    data: DataConf
    scale: ScaleConf
    train: TrainConf
    evaluation: EvaluationConf
    sample: Annotated[SampleConf, Role.numbers]
    report: Annotated[ReportConf, Role.command]
    logger: Annotated[LoggerConf, Role.command]
    dry_run: Annotated[bool, Role.command]
    diagnose: Annotated[bool, Role.name]
    stage: Annotated[StageConf | None, Role.asked]
    without: Annotated[list[str], Role.asked]
    plus: Annotated[list[str], Role.asked]
    plan: Annotated[PlanConf | None, Role.command]
    recipe: Annotated[RecipeConf | None, Role.name]


@dataclass
class SamplerConfig:
    """The command that samples text from kept weights."""

    weights: str
    device: str
    sample: SampleConf


@dataclass
class ExporterConfig:
    """The command that writes kept weights in the format of Hugging Face's transformers."""

    weights: str
    folder: str


@functools.cache
def validator(kind: type) -> Any:
    """Pydantic's TypeAdapter of a type with ranges, made once."""
    from pydantic import TypeAdapter  # its import takes as long as showing the ladder

    return TypeAdapter(kind)
