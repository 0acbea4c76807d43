"""What a forward pass may change besides its outputs: the state of random numbers, and buffers.

A model may draw from Python's and NumPy's random numbers as well as from torch's.
"""

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def seed_everything(seed: int) -> None:
    """Seed all random numbers that a model may draw from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_state() -> dict[str, Tensor]:
    """The state of all random numbers, as tensors that a checkpoint can hold."""
    version, words, gauss = random.getstate()
    _, keys, *rest = np.random.get_state()
    # float64 holds the words, which are of 32 bits, exactly.
    python = [version, *words, math.nan if gauss is None else gauss]
    numbers = {"random.python": python, "random.numpy": [*keys, *rest]}
    state = {name: torch.tensor(each, dtype=torch.float64) for name, each in numbers.items()}
    for name, module in _generators().items():
        state[name] = module.get_rng_state()
    return state


def set_random_state(state: dict[str, Tensor]) -> None:
    """Draw on from a state that `random_state` gave; that of another accelerator is left out."""
    version, *words, gauss = state["random.python"].tolist()
    random.setstate((int(version), tuple(map(int, words)), None if math.isnan(gauss) else gauss))
    *keys, place, has_gauss, gauss = state["random.numpy"].tolist()
    words_of_32_bits = np.array(keys, dtype=np.uint32)
    np.random.set_state(("MT19937", words_of_32_bits, int(place), int(has_gauss), gauss))
    for name, module in _generators().items():
        if name in state:
            module.set_rng_state(state[name])


@contextmanager
def undisturbed(*models: nn.Module) -> Iterator[None]:
    """A block after which random numbers go on, and buffers are, as if it had not been there.

    A buffer that the block makes, as in a model's first forward pass, stays.
    """
    state = random_state()
    buffers = [
        (module, name, buffer)
        for model in models
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    copies = {buffer: buffer.clone() for _, _, buffer in buffers}  # one may be in two modules
    for module, name, buffer in buffers:
        setattr(module, name, copies[buffer])
    try:
        yield
    finally:
        for module, name, buffer in buffers:
            setattr(module, name, buffer)
        set_random_state(state)


def _generators() -> dict[str, Any]:
    """The modules of torch that hold a state: of the CPU and of the accelerator."""
    found: dict[str, Any] = {"random.cpu": torch}
    if accelerator := torch.accelerator.current_accelerator(check_available=True):
        found[f"random.{accelerator.type}"] = torch.get_device_module(accelerator)
    return found
