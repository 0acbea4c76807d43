"""What acts in a run: every technique is applied, or not applied for a reason."""

import torch

from conf.schema import Autocast, Config, MatmulPrecision
from gpt2.config import Attention, GPTConfig
from runner.training.device import why_not_bf16, why_not_compile, why_not_flash, why_not_tf32


class Techniques:
    """What a run asks for, split into what acts and what does not, with the reason."""

    def __init__(self, config: Config, device: torch.device) -> None:
        self.applied: list[str] = []
        self.not_applied: dict[str, str] = {}
        model, train = config.model, config.train
        self._always(f"{model.init.name} initialisation", model.init.name != "torch")
        self._always(f"{model.norm.name} norm", model.norm.name != "none")
        self._always("residual stream", model.residual)
        if train.matmul_precision is MatmulPrecision.high:
            self.add("TF32", why_not_tf32(device))
        self.bf16 = train.autocast is Autocast.bf16 and self.add(
            "bf16 autocast", why_not_bf16(device)
        )
        self.compile = train.compile and self.add("torch.compile", why_not_compile(device))
        self._always(f"vocabulary padded to {model.padded_vocab_size:,}", model.pad_vocab)
        if model.attention is Attention.flash and isinstance(model, GPTConfig):
            dtype = torch.bfloat16 if self.bf16 else torch.float32
            heads = (model.n_head, train.context, model.n_embd)
            self.add("flash attention", why_not_flash(device, dtype, *heads))
        self._always(f"clipping at {train.clip_grad_norm}", train.clip_grad_norm is not None)
        self._always("decay on matrices only", train.decay_matrices_only)
        self._always("fused AdamW", train.fused)
        self._always(f"{train.schedule.name} schedule", train.schedule.name != "constant")
        if train.total_batch_tokens is not None:
            steps = train.grad_accum_steps
            alone = "one micro batch already holds the whole batch" if steps == 1 else None
            self.add(f"accumulation over {steps} micro batches", alone)

    def add(self, technique: str, why_not: str | None) -> bool:
        """Note a technique that the run asks for; true if it acts."""
        if why_not is None:
            self.applied.append(technique)
        else:
            self.withdraw(technique, why_not)
        return why_not is None

    def withdraw(self, technique: str, why_not: str) -> None:
        """Note that a technique does not act after all."""
        if technique in self.applied:
            self.applied.remove(technique)
        self.not_applied[technique] = why_not

    def _always(self, technique: str, asked_for: bool) -> None:
        if asked_for:
            self.applied.append(technique)
