"""The techniques of a run: each is applied, or not applied for a reason."""

import torch

from conf.schema import Autocast, Config, MatmulPrecision, Optimizer, Schedule
from gpt2.config import Activation, Attention, CustomConfig, GPTConfig, Init, Norm, Positions
from runner.products import BF16, TF32, Products
from runner.training.device import attention_kernel, why_not_compile

# cuDNN's kernel is flash attention too; PyTorch's "efficient" one is another algorithm.
FLASH_KERNELS = ("flash", "cudnn")


class Techniques:
    """What a configuration asks for: the techniques that are applied, and those that are not."""

    def __init__(self, config: Config, device: torch.device, products: Products) -> None:
        model, train = config.model, config.train
        accumulation = f"accumulation over {train.grad_accum_steps} micro batches"
        padding = f"vocabulary padded to {model.padded_vocab_size:,}"
        initialisation, norm = f"{model.init.name} initialisation", f"{model.norm.name} norm"
        dropout = f"dropout of {model.dropout:g}"
        positions, activation = f"{model.positions.name} positions", f"{model.activation.name} MLP"
        cap = f"logits capped at {model.logit_softcap}"
        asked_for = {
            initialisation: model.init is not Init.torch,
            norm: model.norm is not Norm.none,
            "residual stream": model.residual,
            TF32: train.matmul_precision is MatmulPrecision.high,
            BF16: train.autocast is not Autocast.none,
            "torch.compile": train.compile,
            padding: model.pad_vocab,
            "flash attention": model.attention is Attention.flash,
            dropout: model.dropout > 0,
            positions: model.positions is not Positions.learned,
            "norm of queries and keys": model.qk_norm,
            activation: model.activation is not Activation.gelu,
            "no biases": not model.bias,
            "projections that start at zero": model.zero_init,
            "untied head": not model.tie_word_embeddings,
            cap: model.logit_softcap is not None,
            f"clipping at {train.clip_grad_norm}": train.clip_grad_norm is not None,
            f"label smoothing of {train.label_smoothing:g}": train.label_smoothing > 0,
            "Muon": train.optimizer is Optimizer.muon,
            "decay on matrices only": train.decay_matrices_only,
            "fused AdamW": train.fused,
            f"{train.schedule.name} schedule": train.schedule is not Schedule.constant,
            accumulation: train.total_batch_tokens is not None,
        }
        why_not = {"torch.compile": why_not_compile(device)}
        forced = train.autocast is Autocast.bf16
        acts = products.bf16.flops and not products.bf16.exact
        if not (products.bf16_is_faster or (forced and acts)):
            why_not[BF16] = products.why_not(products.bf16)
        self.bf16 = asked_for[BF16] and BF16 not in why_not
        if self.bf16:
            why_not[TF32] = "bf16 autocast computes all matrix products already"
        elif not products.tf32_is_faster:
            why_not[TF32] = products.why_not(products.high)
        tf32 = asked_for[TF32] and TF32 not in why_not
        self.fp32_setting = "high" if tf32 else products.fp32_setting
        self.compile = asked_for["torch.compile"] and why_not["torch.compile"] is None
        self.attention_kernel: str | None = None
        if isinstance(model, GPTConfig) and asked_for["flash attention"]:
            dtype = torch.bfloat16 if self.bf16 else torch.float32
            width = model.n_embd // model.n_head
            shape = model.n_head, train.context, width
            kernel = attention_kernel(device, dtype, shape, model.dropout)
            self.attention_kernel = kernel
            if kernel not in FLASH_KERNELS:
                heads = f"{str(dtype).removeprefix('torch.')} heads of {width}"
                heads += " with dropout" if model.dropout else ""
                why_not["flash attention"] = f"no flash kernel takes {heads} here: {kernel} is used"
        if train.grad_accum_steps == 1:
            why_not[accumulation] = "one micro batch is already the whole batch"
        if isinstance(model, CustomConfig):
            of_knobs = {
                "init": initialisation, "norm": norm, "residual": "residual stream",
                "pad_vocab": padding, "attention": "flash attention", "dropout": dropout,
                "positions": positions, "qk_norm": "norm of queries and keys",
                "activation": activation, "bias": "no biases",
                "zero_init": "projections that start at zero",
                "tie_word_embeddings": "untied head", "logit_softcap": cap,
            }  # fmt: skip
            lacks = {
                name: f"{model.target} has no knob {knob}"
                for knob, name in of_knobs.items()
                if knob not in model.knobs
            }
            why_not |= lacks
        self.not_applied = {name: why for name, why in why_not.items() if why and asked_for[name]}
        self.applied = [name for name in asked_for if asked_for[name] and not why_not.get(name)]

    def withdraw(self, technique: str, why_not: str) -> None:
        """Note that an applied technique failed."""
        self.applied.remove(technique)
        self.not_applied[technique] = why_not
