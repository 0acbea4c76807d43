"""The initial values of every parameter.

Each parameter has a generator seeded by the run's seed and its own name. So runs are paired: a
stage that adds layers, or 47 rows of padding, changes no other parameter's values.
"""

import hashlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from gpt2.config import GPTConfig, Init


def generator_for(seed: int, name: str) -> torch.Generator:
    """A CPU generator that depends only on the seed and the name."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))


@torch.no_grad()
def initialise(model: nn.Module, config: GPTConfig, seed: int) -> None:
    """Fill every parameter and buffer in place, by `config.init` scaled by `config.gain`.

    torch    as nn.Linear and nn.Embedding do by default: uniform within 1/sqrt(fan_in) for
             weights and biases, unit normal embeddings
    gpt2     normal with std 0.02, zero biases; with a residual stream the projections that write
             to it are scaled by 1/sqrt(2 n_layer) (Radford et al. 2019, section 2.3)
    xavier   Glorot and Bengio (2010), normal; zero biases, embeddings as for gpt2
    kaiming  He et al. (2015), normal, with the gain of ReLU in place of GELU's; the rest as xavier

    With `config.zero_init` the projections that end attention and MLP are zero under every scheme.
    """
    for prefix, module in model.named_modules():
        if isinstance(module, nn.Linear):
            _linear(module, prefix, config, seed)
        elif isinstance(module, nn.Embedding):
            std = (1.0 if config.init is Init.torch else 0.02) * config.gain
            for rows, generator in _parts(module.weight, prefix, prefix, config, seed):
                rows.normal_(0.0, std, generator=generator)
        elif hasattr(module, "reset_parameters"):
            module.reset_parameters()


def _linear(linear: nn.Linear, prefix: str, config: GPTConfig, seed: int) -> None:
    writes = prefix.endswith("c_proj")  # to the residual stream, if there is one
    weights = _parts(linear.weight, prefix, f"{prefix}.weight", config, seed)
    if linear.bias is not None:
        linear.bias.zero_()
    if config.zero_init and writes:
        linear.weight.zero_()
        return
    if config.init is Init.torch:
        bound = config.gain / math.sqrt(linear.in_features)
        for rows, generator in weights:
            rows.uniform_(-bound, bound, generator=generator)
        if linear.bias is not None:
            linear.bias.uniform_(-bound, bound, generator=generator_for(seed, f"{prefix}.bias"))
        return
    std = 0.02
    if config.init is Init.xavier:
        outputs = config.vocab_size if prefix == "lm_head" else linear.out_features
        std = math.sqrt(2 / (linear.in_features + outputs))
    elif config.init is Init.kaiming:
        std = nn.init.calculate_gain("relu") / math.sqrt(linear.in_features)
    elif config.residual and writes:
        std /= math.sqrt(2 * config.n_layer)
    for rows, generator in weights:
        rows.normal_(0.0, std * config.gain, generator=generator)


def _parts(
    weight: Tensor, prefix: str, name: str, config: GPTConfig, seed: int
) -> Iterator[tuple[Tensor, torch.Generator]]:
    """The rows of a weight with their generator, then those that pad the vocabulary with another.

    So padding does not change the vocabulary's values.
    """
    rows = config.vocab_size if prefix in ("wte", "lm_head") else len(weight)
    yield weight[:rows], generator_for(seed, name)
    yield weight[rows:], generator_for(seed, f"{prefix}.padding")
