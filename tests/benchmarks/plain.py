"""A plain training script of GPT-2, as one writes it after Karpathy's "Let's reproduce GPT-2".

It does what the video's script does at its end: bf16 autocast, fused causal attention, a padded
vocabulary, AdamW with decay on matrices only and fused on CUDA, a clipped norm, warmup and cosine.
It is compiled on request, and it knows nothing of this project's model or loop.
"""

import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Batches = Iterable[tuple[Tensor, Tensor]]
Steps = tuple[list[float], list[float]]


class CausalSelfAttention(nn.Module):
    """Multi-head attention through PyTorch's fused kernel."""

    def __init__(self, n_embd: int, n_head: int) -> None:
        super().__init__()
        self.n_head = n_head
        self.c_attn = nn.Linear(n_embd, 3 * n_embd)
        self.c_proj = nn.Linear(n_embd, n_embd)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = self.c_attn(x).split(C, dim=2)
        q = q.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        k = k.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        v = v.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).contiguous().view(B, T, C))


class MLP(nn.Module):
    """Two linear layers with the tanh form of GELU between."""

    def __init__(self, n_embd: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(n_embd, 4 * n_embd)
        self.gelu = nn.GELU(approximate="tanh")
        self.c_proj = nn.Linear(4 * n_embd, n_embd)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.gelu(self.c_fc(x)))


class Block(nn.Module):
    """Attention and the MLP, each behind a layer norm and added to the residual stream."""

    def __init__(self, n_embd: int, n_head: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(n_embd)
        self.attn = CausalSelfAttention(n_embd, n_head)
        self.ln_2 = nn.LayerNorm(n_embd)
        self.mlp = MLP(n_embd)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class PlainGPT(nn.Module):
    """GPT-2 with its head tied to the token embedding."""

    def __init__(
        self, n_layer: int, n_head: int, n_embd: int, context_length: int, vocab_size: int
    ) -> None:
        super().__init__()
        self.wte = nn.Embedding(vocab_size, n_embd)
        self.wpe = nn.Embedding(context_length, n_embd)
        self.h = nn.ModuleList(Block(n_embd, n_head) for _ in range(n_layer))
        self.ln_f = nn.LayerNorm(n_embd)
        self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, idx: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        x = self.wte(idx) + self.wpe(torch.arange(idx.shape[1], device=idx.device))
        for block in self.h:
            x = block(x)
        logits = self.lm_head(self.ln_f(x))
        return logits, F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))


def train_plain(
    model: PlainGPT, batches: Batches, device: torch.device, bf16: bool, compiled: bool, train: Any
) -> Steps:
    """Train on the batches, a step each, with the numbers of a runner's configuration."""
    torch.set_float32_matmul_precision("high")
    model.to(device).train()
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": train["weight_decay"]},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    fused = device.type == "cuda"
    betas = tuple(train["betas"])
    optimizer = torch.optim.AdamW(groups, betas=betas, eps=1e-8, fused=fused)
    run = torch.compile(model) if compiled else model

    def before_step(step: int) -> None:
        torch.nn.utils.clip_grad_norm_(parameters, train["clip_grad_norm"])
        for group in optimizer.param_groups:
            # All steps are in the warmup, so that the cosine after it is left out.
            group["lr"] = train["learning_rate"] * (step + 1) / max(1, train["warmup_steps"])

    return timed_steps(lambda *batch: run(*batch)[1], optimizer, batches, device, bf16, before_step)


def timed_steps(
    loss_of: Callable[[Tensor, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    device: torch.device,
    bf16: bool,
    before_step: Callable[[int], None] = lambda step: None,
) -> Steps:
    """A plain PyTorch loop; returns the seconds and the losses of the steps."""
    seconds, losses = [], []
    for step, (idx, targets) in enumerate(batches):
        started = time.perf_counter()
        idx, targets = idx.to(device), targets.to(device)
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = loss_of(idx, targets)
        loss.backward()
        before_step(step)
        optimizer.step()
        losses.append(loss.item())  # waits for the device, so the step's time is whole
        seconds.append(time.perf_counter() - started)
    return seconds, losses
