"""AdamW and its learning rate, as a stage configures them."""

import math
from typing import Any

import torch
from torch import nn

from conf.schema import Schedule, TrainConf


def build_optimizer(model: nn.Module, train: TrainConf) -> torch.optim.AdamW:
    """AdamW; with `decay_matrices_only`, biases and norms are in a group without decay."""
    parameters = list(model.parameters())
    matrices = [p for p in parameters if p.dim() >= 2 or not train.decay_matrices_only]
    vectors = [p for p in parameters if p.dim() < 2 and train.decay_matrices_only]
    groups: list[dict[str, Any]] = [{"params": matrices, "weight_decay": train.weight_decay}]
    if vectors:
        groups.append({"params": vectors, "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(
        groups,
        lr=train.learning_rate,
        betas=train.betas,
        eps=train.eps,
        # None lets torch choose the implementation.
        fused=True if train.fused else None,
    )
    # As AdamW makes them at its first step; a checkpoint needs them of all parameters.
    for p in filter(lambda p: p.requires_grad, parameters):
        step = torch.tensor(0.0, device=p.device if train.fused else "cpu")
        moments = {key: torch.zeros_like(p) for key in ("exp_avg", "exp_avg_sq")}
        optimizer.state[p] = {"step": step, **moments}
    return optimizer


def learning_rate(step: int, train: TrainConf) -> float:
    """The rate of a step counted from 0: linear warmup, then half a cosine down to the floor.

    Loshchilov and Hutter (2017), equation 5, without restarts. The warmup's first step has
    1/warmup_steps of the peak, and the last step of the run has the floor.
    """
    if train.schedule is Schedule.constant:
        return train.learning_rate
    if step < train.warmup_steps:
        return train.learning_rate * (step + 1) / train.warmup_steps
    progress = (step - train.warmup_steps + 1) / max(1, train.steps - train.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return train.learning_rate * (train.min_lr_ratio + (1 - train.min_lr_ratio) * cosine)
