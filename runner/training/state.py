"""What a forward pass may depend on and change besides its inputs: random numbers and buffers."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


def seed_everything(seed: int) -> None:
    """Seed all random numbers that a model may draw: Python's, NumPy's and torch's."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """A block in which the model's dropout layers drop nothing; functions may still do so."""
    dropping = [m for m in model.modules() if isinstance(m, nn.Dropout) and m.training]
    for module in dropping:
        module.eval()
    try:
        yield
    finally:
        for module in dropping:
            module.train()


@contextmanager
def same_buffers(model: nn.Module) -> Iterator[None]:
    """A block that leaves the buffers of the model as they were before it."""
    buffers = [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False)
    ]
    copies = {buffer: buffer.clone() for _, _, buffer in buffers}  # one may be in two places
    for module, name, buffer in buffers:
        setattr(module, name, copies[buffer])
    try:
        yield
    finally:
        for module, name, buffer in buffers:
            setattr(module, name, buffer)
