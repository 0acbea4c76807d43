"""The types of the configuration. Values live in the YAML beside this file, and only there.

Nothing here imports torch: a wrong key or type is refused before training is thought of.
"""

import ctypes
import platform
import sys
from dataclasses import dataclass
from enum import Enum

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from platformdirs import user_cache_dir

from gpt2.config import GPTConfig


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
    held_out_fraction: float


@dataclass
class ScaleConf:
    """What a device can carry: sequences in a micro batch, tokens in a sequence.

    `total_batch_tokens` is what the accumulating stages sum up to a step; `flow_*` are the small
    sizes of step 1; `evaluation_tokens` is how much held-out text a run is judged on;
    `peak_seconds` is how long the machine's fastest matrix product is looked for;
    `loss_chunk_tokens` is how many tokens' logits are in memory at once, null for all.
    """

    name: str
    micro_batch_size: int
    context: int
    total_batch_tokens: int
    flow_micro_batch_size: int
    flow_context: int
    evaluation_tokens: int
    peak_seconds: float
    loss_chunk_tokens: int | None


class Aim(Enum):
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
    """A claim of the guide: its words, how it is judged, its numbers, and the key it is about."""

    text: str
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

    steps: int | None
    minutes: float | None


@dataclass
class TrainConf:
    """One run of the training loop. `total_batch_tokens: null` is one micro batch a step."""

    steps: int
    micro_batch_size: int
    context: int
    total_batch_tokens: int | None
    learning_rate: float
    schedule: Schedule
    warmup_steps: int
    min_lr_ratio: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    decay_matrices_only: bool
    fused: bool
    clip_grad_norm: float | None
    autocast: Autocast
    matmul_precision: MatmulPrecision
    compile: bool
    compile_mode: CompileMode
    flow_checks: bool
    checkpoint_every: CheckpointEvery


@dataclass
class EvaluationConf:
    """Held-out tokens that the finished model is judged on, the same for every stage.

    Its speed is judged by the fastest matrix product found in `peak_seconds`.
    """

    tokens: int
    peak_seconds: float


@dataclass
class SampleConf:
    """Text drawn from a model: `tokens` after `prompt`, from the `top_k` likeliest."""

    prompt: str
    tokens: int
    temperature: float
    top_k: int
    seed: int


@dataclass
class Config:
    """A run, whole."""

    experiment: str
    seed: int
    device: str
    checkpoint: Checkpoint
    force: bool
    output_dir: str
    cache_dir: str
    model: GPTConfig
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
    """The scale this machine's device suits, found without importing torch."""
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
    """The model a scale is meant for; `model=` on the command line comes first."""
    return "nano" if scale == "smoke" else "gpt2"


def register() -> None:
    """Make the types and the resolvers known to Hydra; may be called again."""
    store = ConfigStore.instance()
    store.store(name="config_schema", node=Config)
    store.store(name="sampler_schema", node=SamplerConfig)
    OmegaConf.register_new_resolver("device_scale", device_scale, replace=True)
    OmegaConf.register_new_resolver("scale_model", scale_model, replace=True)
    OmegaConf.register_new_resolver(
        "user_cache", lambda: user_cache_dir("gpt2-ladder"), replace=True
    )
