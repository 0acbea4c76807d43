"""What a GPT-2 is made of: its sizes and the choices that the ladder switches."""

from dataclasses import dataclass
from enum import Enum


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


@dataclass
class GPTConfig:
    """One model. Sizes follow Radford et al. (2019), table 2; `name` is for people.

    `context_length` is the number of position embeddings, so the longest input in tokens;
    `pad_vocab` rounds the rows of the embedding up to the next multiple of 128. In training the
    logits of `loss_chunk_tokens` tokens exist at once, of all tokens where it is None.
    """

    name: str
    n_layer: int
    n_head: int
    n_embd: int
    context_length: int
    vocab_size: int
    pad_vocab: bool
    norm: Norm
    residual: bool
    attention: Attention
    init: Init
    gain: float
    loss_chunk_tokens: int | None

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the token embedding: 50,257 becomes 50,304 = 393 x 128 when padded."""
        return -(-self.vocab_size // 128) * 128 if self.pad_vocab else self.vocab_size
