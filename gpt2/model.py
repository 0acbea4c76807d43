"""The GPT-2 of Radford et al. (2019), in which the parts that stages add or replace are optional.

Tensors carry their shape in their name: B batch, T time (tokens), C channels (n_embd),
H heads, D channels of a head, V vocabulary.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt2.config import Activation, Attention, GPTConfig, Norm, Positions
from gpt2.initialisation import initialise
from gpt2.language_model import LanguageModel, smoothing


class RMSNorm(nn.RMSNorm):
    """Zhang and Sennrich (2019), in the weight's dtype under autocast too, with Llama's epsilon."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))


class Rotary(nn.Module):
    """Rotary positions (Su et al. 2021): turns each pair of a head's channels by its position.

    As in Llama, channel i is paired with channel i + D / 2, and turns by 10,000^(-2i / D) a token.
    """

    cos: Tensor  # (T, D / 2)
    sin: Tensor

    def __init__(self, context_length: int, channels: int) -> None:
        super().__init__()
        for name in ("cos", "sin"):
            table = torch.empty(context_length, channels // 2)
            self.register_buffer(name, table, persistent=False)

    def reset_parameters(self) -> None:
        T, half = self.cos.shape
        angles_TD = torch.outer(torch.arange(T), 10_000.0 ** (-torch.arange(half) / half))
        self.cos.copy_(angles_TD.cos())
        self.sin.copy_(angles_TD.sin())

    def forward(self, x_BHTD: Tensor) -> Tensor:
        cos, sin = (table[: x_BHTD.shape[2]] for table in (self.cos, self.sin))
        a, b = x_BHTD.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def attention_weights(q_BHTD: Tensor, k_BHTD: Tensor) -> Tensor:
    """How much each token attends to itself and each earlier one: (B, H, T, T), rows sum to 1."""
    T, D = q_BHTD.shape[-2:]
    scores_BHTT = q_BHTD @ k_BHTD.transpose(-2, -1) / math.sqrt(D)
    future_TT = torch.ones(T, T, dtype=torch.bool, device=q_BHTD.device).triu(1)
    return scores_BHTT.masked_fill(future_TT, -math.inf).softmax(dim=-1)


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which a token sees itself and earlier tokens."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_head, channels = config.n_head, config.n_embd // config.n_head
        self.attention = config.attention
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)
        self.q_norm = RMSNorm(channels) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(channels) if config.qk_norm else nn.Identity()
        is_rotary = config.positions is Positions.rotary
        self.turn = Rotary(config.context_length, channels) if is_rotary else nn.Identity()
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x_BTC: Tensor) -> Tensor:
        B, T, C = x_BTC.shape
        q_BHTD, k_BHTD, v_BHTD = self.queries_keys_values(x_BTC)
        if self.attention is Attention.flash:
            share = self.drop.p if self.drop.training else 0.0
            y_BHTD = F.scaled_dot_product_attention(
                q_BHTD, k_BHTD, v_BHTD, dropout_p=share, is_causal=True
            )
        else:
            weights_BHTT = self.drop(attention_weights(q_BHTD, k_BHTD))
            y_BHTD = weights_BHTT.to(v_BHTD.dtype) @ v_BHTD
        return self.drop(self.c_proj(y_BHTD.transpose(1, 2).reshape(B, T, C)))

    def queries_keys_values(self, x_BTC: Tensor) -> tuple[Tensor, ...]:
        """The queries, keys and values of each head: (B, H, T, D)."""
        B, T, C = x_BTC.shape
        heads = (B, T, self.n_head, C // self.n_head)
        q_BHTD, k_BHTD, v_BHTD = (
            part.view(heads).transpose(1, 2) for part in self.c_attn(x_BTC).split(C, dim=2)
        )
        return self.turn(self.q_norm(q_BHTD)), self.turn(self.k_norm(k_BHTD)), v_BHTD


def squared_relu(x: Tensor) -> Tensor:
    """So et al. (2021), Primer."""
    return F.relu(x).square()


def swiglu(x: Tensor) -> Tensor:
    """Shazeer (2020): the first half of the channels, through SiLU, gates the second."""
    gate, value = x.chunk(2, dim=-1)
    return F.silu(gate) * value


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    Activation.gelu: partial(F.gelu, approximate="tanh"),  # GPT-2's form
    Activation.relu2: squared_relu,
    Activation.swiglu: swiglu,
}


class MLP(nn.Module):
    """Two linear layers, four times as wide between them.

    SwiGLU has a third matrix in `c_fc`. It is 8/3 times as wide, in multiples of 8, so that there
    are about as many parameters.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        is_gated = config.activation is Activation.swiglu
        width = 8 * max(1, round(config.n_embd / 3)) if is_gated else 4 * config.n_embd
        self.c_fc = nn.Linear(config.n_embd, 2 * width if is_gated else width)
        self.activation = ACTIVATIONS[config.activation]
        self.c_proj = nn.Linear(width, config.n_embd)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x_BTC: Tensor) -> Tensor:
        return self.drop(self.c_proj(self.activation(self.c_fc(x_BTC))))


class BatchNorm(nn.BatchNorm1d):
    """Batch norm over channels, which the guide's step 4 suggests.

    Its mean and variance are over the batch and all positions, so in training a token's output
    depends on later tokens and the training loss is too low. Layer norm has no such leak.
    """

    def forward(self, x_BTC: Tensor) -> Tensor:
        return super().forward(x_BTC.transpose(1, 2)).transpose(1, 2)


NORMS = {
    Norm.none: nn.Identity,
    Norm.layer: nn.LayerNorm,
    Norm.rms: RMSNorm,
    Norm.batch: BatchNorm,
}


class Block(nn.Module):
    """Attention, then the MLP, each after a norm and, with `residual`, added to its input."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.residual = config.residual
        self.ln_1 = NORMS[config.norm](config.n_embd)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = NORMS[config.norm](config.n_embd)
        self.mlp = MLP(config)

    def forward(self, x_BTC: Tensor) -> Tensor:
        if not self.residual:
            return self.mlp(self.ln_2(self.attn(self.ln_1(x_BTC))))
        x_BTC = x_BTC + self.attn(self.ln_1(x_BTC))
        return x_BTC + self.mlp(self.ln_2(x_BTC))


class GPT(LanguageModel):
    """A decoder-only transformer. Its head has the token embedding's weights, unless it is untied.

    Parameters are drawn by `initialise` from `seed` and their own names, on the CPU. Dropout acts
    where it did in GPT-2: on the embeddings, the attention weights, and what each block adds.
    """

    def __init__(self, config: GPTConfig, seed: int) -> None:
        super().__init__()
        self.config = config
        self.vocab_size, self.context_length = config.vocab_size, config.context_length
        with torch.device("meta"):
            self.wte = nn.Embedding(config.padded_vocab_size, config.n_embd)
            self.wpe, self.lm_head = None, None
            if config.positions is Positions.learned:
                self.wpe = nn.Embedding(config.context_length, config.n_embd)
            if not config.tie_word_embeddings:
                self.lm_head = nn.Linear(config.n_embd, config.padded_vocab_size, bias=False)
            self.drop = nn.Dropout(config.dropout)
            self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
            self.ln_f = NORMS[config.norm](config.n_embd)
        self.to_empty(device="cpu")
        initialise(self, config, seed)
        for module in () if config.bias else self.modules():
            if hasattr(module, "bias"):
                module.register_parameter("bias", None)

    def forward(
        self, idx_BT: Tensor, targets_BT: Tensor | None = None, label_smoothing: float = 0.0
    ) -> tuple[Tensor | None, Tensor | None]:
        """Logits in the head's dtype, or with targets the mean cross entropy in nats per token.

        `idx_BT` and `targets_BT` are int64 token ids below `vocab_size`. With targets the logits
        are None: nothing else needs them, and they are most of a step's memory.
        """
        x_BTC = self.wte(idx_BT)
        if self.wpe is not None:
            x_BTC = x_BTC + self.wpe(torch.arange(idx_BT.shape[1], device=idx_BT.device))
        x_BTC = self.drop(x_BTC)
        for block in self.h:
            x_BTC = block(x_BTC)
        if targets_BT is None:
            return self._capped(F.linear(self.ln_f(x_BTC), self._head_weight())), None
        return None, self.loss(x_BTC, targets_BT, label_smoothing)

    def loss(self, x_BTC: Tensor, targets_BT: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """The mean cross entropy of the last block's output, computed by the norm and the head."""
        x_NC, targets_N = self.ln_f(x_BTC).flatten(0, 1), targets_BT.flatten()
        chunk, cap = self.config.loss_chunk_tokens, self.config.logit_softcap
        # Older versions of torch have no chunked loss. It ignores autocast and would stay in fp32,
        # so it is not used under autocast. If this function is compiled, its temporaries are fused
        # away. It caps no logits, and label smoothing needs all of them: docs/tried.md.
        chunked = chunk is not None and cap is None and hasattr(nn, "LinearCrossEntropyOptions")
        if chunked and not label_smoothing and not torch.is_autocast_enabled(x_NC.device.type):
            # In chunks the logits fit into the processor's cache.
            options = nn.LinearCrossEntropyOptions(batch_chunk_size=chunk, chunking_method=None)
            return F.linear_cross_entropy(x_NC, self._head_weight(), targets_N, options=options)
        logits_NV = self._capped(F.linear(x_NC, self._head_weight()).float())
        loss = F.cross_entropy(logits_NV, targets_N)
        if label_smoothing:
            loss = loss + smoothing(logits_NV, targets_N, label_smoothing, self.vocab_size)
        return loss

    def _capped(self, logits: Tensor) -> Tensor:
        """Logits that tanh keeps within the cap, if there is one (Gemma 2, section 2)."""
        cap = self.config.logit_softcap
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def _head_weight(self) -> Tensor:
        """The head's weights (V, C): in training all rows, in evaluation without the padded ones.

        So in training padded rows are in the softmax, but never a target; in evaluation they have
        no probability. Even a slice of all rows would copy the whole gradient in training.
        """
        rows_VC = (self.lm_head or self.wte).weight
        return rows_VC if self.training else rows_VC[: self.config.vocab_size]

    def flops_per_token(self, context: int) -> float:
        """Floating-point operations of forward and backward for one token.

        6 N + 12 n_layer n_embd T, with N the parameters used in matrix products (PaLM, Chowdhery et
        al. 2022, appendix B): all but the position embeddings, and without the token embedding if
        the head has its own weights. Dropout is no product.
        """
        read = [self.wpe, self.wte if self.lm_head else None]
        looked_up = sum(embedding.weight.numel() for embedding in read if embedding)
        matrix_parameters = self.num_parameters() - looked_up
        return 6 * matrix_parameters + 12 * self.config.n_layer * self.config.n_embd * context

    def token_embedding(self) -> nn.Module:
        return self.wte

    def layers(self) -> dict[str, nn.Module]:
        return {**{f"h.{i}": block for i, block in enumerate(self.h)}, "ln_f": self.ln_f}

    def blocks(self) -> list[nn.Module]:
        return list(self.h)
