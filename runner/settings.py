"""A composed configuration, typed and checked: every mistake in it is found before torch loads."""

import math
import os
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from conf.schema import Config
from conf.errors import UsageError


def read_settings(cfg: DictConfig) -> Config:
    """The typed configuration. Raises UsageError that names the key, its value and what to do."""
    config = OmegaConf.to_object(cfg)
    assert isinstance(config, Config)
    train, model = config.train, config.model
    for key, value in {
        "train.steps": train.steps,
        "train.micro_batch_size": train.micro_batch_size,
        "train.context": train.context,
        "train.learning_rate": train.learning_rate,
        "train.eps": train.eps,
        "train.clip_grad_norm": train.clip_grad_norm,
        "train.total_batch_tokens": train.total_batch_tokens,
        "train.checkpoint_every.steps": train.checkpoint_every.steps,
        "train.checkpoint_every.minutes": train.checkpoint_every.minutes,
        "evaluation.tokens": config.evaluation.tokens,
        "evaluation.peak_seconds": config.evaluation.peak_seconds,
        "model.n_layer": model.n_layer,
        "model.n_head": model.n_head,
        "model.n_embd": model.n_embd,
        "model.context_length": model.context_length,
        "model.gain": model.gain,
        "model.loss_chunk_tokens": model.loss_chunk_tokens,
        "sample.tokens": config.sample.tokens,
        "sample.temperature": config.sample.temperature,
        "sample.top_k": config.sample.top_k,
    }.items():
        if value is not None and not 0 < value < math.inf:
            raise UsageError(f"{key}={value}: give a number above zero.")
    for key, value in {
        "seed": config.seed,
        "sample.seed": config.sample.seed,
        "train.warmup_steps": train.warmup_steps,
        "train.weight_decay": train.weight_decay,
    }.items():
        if not 0 <= value < 2**63:
            raise UsageError(f"{key}={value}: give zero or a positive number.")
    for key, value in {
        "train.min_lr_ratio": train.min_lr_ratio,
        "train.betas[0]": train.betas[0],
        "train.betas[1]": train.betas[1],
        "data.held_out_fraction": config.data.held_out_fraction,
    }.items():
        if not 0 <= value <= 1 or (value in (0, 1) and key != "train.min_lr_ratio"):
            raise UsageError(f"{key}={value}: give a number between 0 and 1.")
    if not config.experiment.isprintable() or Path(config.experiment).name != config.experiment:
        raise UsageError(
            f"experiment={config.experiment!r}: give a plain name; output_dir says where it lies."
        )
    if model.vocab_size < 50257:
        raise UsageError(
            f"model.vocab_size={model.vocab_size}: GPT-2's tokens need 50,257 or more rows."
        )
    if model.n_embd % model.n_head:
        raise UsageError(
            f"model.n_embd={model.n_embd} cannot be split among model.n_head={model.n_head} heads; "
            "make it a multiple."
        )
    if train.context > model.context_length:
        raise UsageError(
            f"train.context={train.context} is longer than the model's "
            f"model.context_length={model.context_length}; lower the one or raise the other."
        )
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError(
            "WORLD_SIZE is set, and training on several processes is not supported yet; "
            "start one process with python -m runner."
        )
    if not config.sample.prompt:
        raise UsageError("sample.prompt is empty; give a word to start from.")
    grad_accum_steps(config)
    return config


def grad_accum_steps(config: Config) -> int:
    """How many micro batches make one optimizer step. Raises UsageError if it is not whole."""
    train = config.train
    micro = train.micro_batch_size * train.context
    if train.total_batch_tokens is None:
        return 1
    steps, rest = divmod(train.total_batch_tokens, micro)
    if rest:
        nearest = [n * micro for n in (steps, steps + 1) if n > 0]
        raise UsageError(
            f"train.total_batch_tokens={train.total_batch_tokens} is not divisible by "
            f"micro batch x context = {train.micro_batch_size} x {train.context} = {micro} tokens; "
            f"the nearest that are: {' and '.join(map(str, nearest))}."
        )
    return steps
