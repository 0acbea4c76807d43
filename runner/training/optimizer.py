"""The optimizers and their learning rate, as a stage configures them."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from conf.errors import UsageError
from conf.schema import Optimizer, Schedule, TrainConf
from gpt2.language_model import LanguageModel


def build_optimizers(model: LanguageModel, train: TrainConf) -> list[torch.optim.Optimizer]:
    """AdamW, or Muon for the matrices of the model's blocks and AdamW for all else.

    Together they have the state of every parameter that needs a gradient, as a checkpoint needs it.
    Raises UsageError if Muon is asked for and there are no such matrices.
    """
    parameters = list(model.parameters())
    if train.optimizer is Optimizer.adamw:
        return [_adamw(parameters, train)]
    embeddings = {m.weight for m in model.modules() if isinstance(m, nn.Embedding)}
    inside = [p for block in model.blocks() for p in block.parameters() if p.requires_grad]
    matrices = {p: None for p in inside if p.dim() == 2 and p not in embeddings}
    if not matrices:
        raise UsageError(
            "train.optimizer=muon trains the matrices of a model's blocks, and this model names "
            "none to train: subclass LanguageModel and define blocks(), or give "
            "train.optimizer=adamw."
        )
    # With this factor an update is as large as AdamW's, whose rate and decay then suit both (Liu et
    # al. 2025, Muon is Scalable for LLM Training, section 2.2).
    muon = torch.optim.Muon(
        [*matrices],
        lr=train.learning_rate,
        weight_decay=train.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    for p in matrices:
        muon.state[p] = {"momentum_buffer": torch.zeros_like(p)}
    return [muon, _adamw([p for p in parameters if p not in matrices], train)]


def _adamw(parameters: Sequence[Tensor], train: TrainConf) -> torch.optim.AdamW:
    """AdamW; with `decay_matrices_only`, biases and norms are in a group without decay."""
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
    """The rate of a step counted from 0: linear warmup, then what leads down to the floor.

    The warmup's first step has 1/warmup_steps of the peak, and the last step of the run has the
    floor.

    cosine  half a cosine (Loshchilov and Hutter 2017, equation 5, without restarts)
    wsd     the peak, and in the last steps 1 - sqrt(progress) (Haegele et al. 2024, section 3)
    """
    if train.schedule is Schedule.constant:
        return train.learning_rate
    if step < train.warmup_steps:
        return train.learning_rate * (step + 1) / train.warmup_steps
    begin = train.warmup_steps
    if train.schedule is Schedule.wsd:
        begin = max(begin, train.steps - train.cooldown_steps)
    progress = max(0, step + 1 - begin) / max(1, train.steps - begin)
    if train.schedule is Schedule.wsd:
        part = 1 - math.sqrt(progress)
    else:
        part = 0.5 * (1 + math.cos(math.pi * progress))
    return train.learning_rate * (train.min_lr_ratio + (1 - train.min_lr_ratio) * part)
