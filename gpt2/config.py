"""The configuration of a GPT-2: its sizes, and the choices that the stages switch."""

from collections.abc import Collection
from dataclasses import dataclass, fields
from enum import Enum
from typing import Annotated, Any

from annotated_types import Ge, Gt, Lt


class Norm(Enum):
    """Normalisation before each sublayer and before the head."""

    none = "none"
    layer = "layer"
    rms = "rms"
    batch = "batch"


class Attention(Enum):
    """How causal attention is computed: written out, or one fused kernel."""

    manual = "manual"
    flash = "flash"


class Init(Enum):
    """The distribution that weights are drawn from before training."""

    torch = "torch"
    gpt2 = "gpt2"
    xavier = "xavier"
    kaiming = "kaiming"


class Positions(Enum):
    """How a token's place gets into the model: an embedding of it, or turned queries and keys."""

    learned = "learned"
    rotary = "rotary"


class Activation(Enum):
    """Between the two linear layers of the MLP."""

    gelu = "gelu"
    relu2 = "relu2"
    swiglu = "swiglu"


# GPT-2's tokens, `<|endoftext|>` included (Radford et al. 2019).
GPT2_TOKENS = 50257

PositiveInt = Annotated[int, Gt(0)]
PositiveFloat = Annotated[float, Gt(0), Lt(1e38)]  # in the range of fp32


@dataclass
class ModelConfig:
    """What every model has: a name, and the choices that the stages switch."""

    name: str
    context_length: PositiveInt  # the longest input, in tokens
    vocab_size: Annotated[int, Ge(GPT2_TOKENS)]
    pad_vocab: bool  # round the embedding rows up to a multiple of 128
    norm: Norm
    residual: bool
    attention: Attention
    init: Init
    gain: PositiveFloat
    dropout: Annotated[float, Ge(0), Lt(1)]  # share of values set to 0 in training
    loss_chunk_tokens: PositiveInt | None  # logits computed at a time in training; None: all
    positions: Positions
    qk_norm: bool  # RMS norm of each head's queries and keys
    activation: Activation
    bias: bool  # in linear layers and norms
    zero_init: bool  # the layers that write to the residual stream start at zero
    tie_word_embeddings: bool  # the head's weights are those of the token embedding
    logit_softcap: PositiveFloat | None  # logits stay between minus this and this; None: no cap

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the token embedding: 50,257 becomes 50,304 = 393 x 128 when padded."""
        return -(-self.vocab_size // 128) * 128 if self.pad_vocab else self.vocab_size


@dataclass
class GPTConfig(ModelConfig):
    """A GPT-2, with the sizes of Radford et al. (2019), table 2."""

    n_layer: PositiveInt
    n_head: PositiveInt
    n_embd: PositiveInt


@dataclass
class CustomConfig(ModelConfig):
    """A custom model, which `target`, package.module:name, returns for these arguments."""

    target: str
    arguments: Any  # by name
    knobs: Any  # key of ModelConfig -> the argument that gets its value


# What stages switch in a model. A custom model has those that its `knobs` name.
KNOBS = tuple(
    entry.name
    for entry in fields(ModelConfig)
    if entry.name not in ("name", "context_length", "vocab_size")
)


def inert(knobs: Collection[str]) -> list[str]:
    """The knobs that a model with only these lacks: their values have no effect on it."""
    return [knob for knob in KNOBS if knob not in knobs]
