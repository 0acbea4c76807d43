"""The techniques of a run: each is applied, or not applied for a reason."""

import torch

from conf.schema import Autocast, Config, MatmulPrecision, Schedule
from gpt2.config import Attention, GPTConfig, Init, Norm
from runner.training.device import why_not_bf16, why_not_compile, why_not_flash, why_not_tf32


class Techniques:
    """What a configuration asks for: the techniques that are applied, and those that are not."""

    def __init__(self, config: Config, device: torch.device) -> None:
        model, train = config.model, config.train
        accumulation = f"accumulation over {train.grad_accum_steps} micro batches"
        asked_for = {
            f"{model.init.name} initialisation": model.init is not Init.torch,
            f"{model.norm.name} norm": model.norm is not Norm.none,
            "residual stream": model.residual,
            "TF32": train.matmul_precision is MatmulPrecision.high,
            "bf16 autocast": train.autocast is Autocast.bf16,
            "torch.compile": train.compile,
            f"vocabulary padded to {model.padded_vocab_size:,}": model.pad_vocab,
            "flash attention": model.attention is Attention.flash and isinstance(model, GPTConfig),
            f"clipping at {train.clip_grad_norm}": train.clip_grad_norm is not None,
            "decay on matrices only": train.decay_matrices_only,
            "fused AdamW": train.fused,
            f"{train.schedule.name} schedule": train.schedule is not Schedule.constant,
            accumulation: train.total_batch_tokens is not None,
        }
        why_not = {
            "TF32": why_not_tf32(device),
            "bf16 autocast": why_not_bf16(device),
            "torch.compile": why_not_compile(device),
        }
        self.bf16 = asked_for["bf16 autocast"] and why_not["bf16 autocast"] is None
        self.compile = asked_for["torch.compile"] and why_not["torch.compile"] is None
        if isinstance(model, GPTConfig) and asked_for["flash attention"]:
            dtype = torch.bfloat16 if self.bf16 else torch.float32
            heads = (model.n_head, train.context, model.n_embd)
            why_not["flash attention"] = why_not_flash(device, dtype, *heads)
        if train.grad_accum_steps == 1:
            why_not[accumulation] = "one micro batch is already the whole batch"
        self.not_applied = {name: why for name, why in why_not.items() if why and asked_for[name]}
        self.applied = [name for name in asked_for if asked_for[name] and not why_not.get(name)]

    def withdraw(self, technique: str, why_not: str) -> None:
        """Note that an applied technique failed."""
        self.applied.remove(technique)
        self.not_applied[technique] = why_not
