"""The types of the configuration, each with its range. Values are in the YAML beside this file.

Nothing here imports torch: a wrong key, type or value is refused before training starts.
"""

import ctypes
import math
import platform
import sys
from dataclasses import dataclass
from enum import Enum
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt, MinLen
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from platformdirs import user_cache_dir

from gpt2.config import GPTConfig, ModelConfig, PositiveFloat, PositiveInt

Seed = Annotated[int, Ge(0), Lt(2**63)]


class Autocast(Enum):
    """Precision of matrix products: fp32 throughout, or bfloat16 with fp32 weights."""

    none = "none"
    bf16 = "bf16"


class MatmulPrecision(Enum):
    """torch.set_float32_matmul_precision: `high` lets Ampere and later use TF32."""

    highest = "highest"
    high = "high"


class CompileMode(Enum):
    """torch.compile's `mode`: reduce_overhead uses CUDA graphs, max_autotune tries more kernels."""

    default = "default"
    reduce_overhead = "reduce-overhead"
    max_autotune = "max-autotune"


class Schedule(Enum):
    """The learning rate over a run: constant, or linear warmup and then half a cosine."""

    constant = "constant"
    cosine = "cosine"


class Checkpoint(Enum):
    """Which weights stay in the run's folder when it ends.

    `best` are those with the lowest held-out loss of all that were judged: at every checkpoint,
    and at the end.
    """

    none = "none"
    last = "last"
    best = "best"


@dataclass
class DataConf:
    """Where text comes from. `path` is a file, folder or glob; `url` is fetched if it is null."""

    name: str
    path: str | None
    url: str | None
    sha256: str | None
    held_out_fraction: Annotated[float, Gt(0), Lt(1)]


@dataclass
class ScaleConf:
    """What a device can carry, where only some stages ask for it; the rest a scale sets itself.

    `accumulate_to_tokens` is what the accumulating stages sum up to a step; `flow_*` are the
    small sizes of step 1.
    """

    name: str
    accumulate_to_tokens: int
    flow_micro_batch_size: int
    flow_context: int


class Aim(str, Enum):
    """What a stage is for, which is what a report judges it by."""

    flow = "flow"
    baseline = "baseline"
    loss = "loss"
    speed = "speed"
    stability = "stability"


class Measure(Enum):
    """How a claim is judged; the meaning of its `values`.

    interval      [worst, best] training loss
    speed_up      [times the tokens/s], brought by `change` alone
    step_ms       [before, after] milliseconds a step, brought by `change` alone
    accumulation  none: the step slows down and the loss falls
    last_loss     [training loss of the last step]
    """

    interval = "interval"
    speed_up = "speed_up"
    step_ms = "step_ms"
    accumulation = "accumulation"
    last_loss = "last_loss"


@dataclass
class Claim:
    """A claim of the guide: its words, the conditions it states, and how it is judged.

    `values` are its numbers and `change` is the key it is about, see Measure.
    """

    text: str
    conditions: str
    measure: Measure
    values: list[float]
    change: str | None


@dataclass
class StageConf:
    """What the guide says about a step; what the step changes is the rest of its overlay."""

    name: str
    title: str
    aim: Aim
    guide: str
    claims: list[Claim]


@dataclass
class CheckpointEvery:
    """How often a run writes down all it needs to go on: by steps, by minutes, by both or never."""

    steps: PositiveInt | None
    minutes: PositiveFloat | None


@dataclass
class TrainConf:
    """One run of the training loop. `total_batch_tokens: null` is one micro batch a step.

    `micro_batch_size` is in sequences, `context` is the tokens of a sequence.
    """

    steps: PositiveInt
    micro_batch_size: PositiveInt
    context: PositiveInt
    total_batch_tokens: PositiveInt | None
    learning_rate: PositiveFloat
    schedule: Schedule
    warmup_steps: Annotated[int, Ge(0)]
    min_lr_ratio: Annotated[float, Ge(0), Le(1)]
    betas: tuple[Annotated[float, Gt(0), Lt(1)], Annotated[float, Gt(0), Lt(1)]]
    eps: PositiveFloat
    weight_decay: Annotated[float, Ge(0), Lt(math.inf)]
    decay_matrices_only: bool
    fused: bool
    clip_grad_norm: PositiveFloat | None
    autocast: Autocast
    matmul_precision: MatmulPrecision
    compile: bool
    compile_mode: CompileMode
    flow_checks: bool
    checkpoint_every: CheckpointEvery

    @property
    def micro_batch_tokens(self) -> int:
        return self.micro_batch_size * self.context

    @property
    def grad_accum_steps(self) -> int:
        """Micro batches that make one optimizer step."""
        return (self.total_batch_tokens or self.micro_batch_tokens) // self.micro_batch_tokens


@dataclass
class EvaluationConf:
    """Held-out tokens that the finished model is evaluated on, the same for every stage.

    Its speed is compared with the fastest matrix product found in `peak_seconds`.
    """

    tokens: PositiveInt
    peak_seconds: PositiveFloat


@dataclass
class SampleConf:
    """Text drawn from a model: `tokens` after `prompt`, from the `top_k` likeliest."""

    prompt: Annotated[str, MinLen(1)]
    tokens: PositiveInt
    temperature: PositiveFloat
    top_k: PositiveInt
    seed: Seed


@dataclass
class Config:
    """A run, whole."""

    experiment: str
    seed: Seed
    device: str
    checkpoint: Checkpoint
    force: bool
    output_dir: str
    cache_dir: str
    model: ModelConfig
    data: DataConf
    scale: ScaleConf
    train: TrainConf
    evaluation: EvaluationConf
    sample: SampleConf
    stage: StageConf | None


@dataclass
class SamplerConfig:
    """The command that samples text from kept weights."""

    weights: str
    device: str
    sample: SampleConf


def device_scale() -> str:
    """The scale that suits this machine's device, found without importing torch."""
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return "mps"
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
        count = ctypes.c_int(0)
        if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0:
            return "cuda" if count.value > 0 else "cpu"
    except OSError:
        pass
    return "cpu"


def scale_model(scale: str | None) -> str:
    """The model that a scale is meant for; `model=` on the command line has precedence."""
    return "nano" if scale == "smoke" else "gpt2"


def register() -> None:
    """Register the types and the resolvers with Hydra; may be called again."""
    store = ConfigStore.instance()
    store.store(name="config_schema", node=Config)
    store.store(name="sampler_schema", node=SamplerConfig)
    store.store(group="model/type", name="gpt2", node=GPTConfig)
    OmegaConf.register_new_resolver("device_scale", device_scale, replace=True)
    OmegaConf.register_new_resolver("scale_model", scale_model, replace=True)
    OmegaConf.register_new_resolver(
        "user_cache", lambda: user_cache_dir("gpt2-ladder"), replace=True
    )
