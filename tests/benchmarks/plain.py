"""A plain training script of GPT-2, as one writes it after Karpathy's "Let's reproduce GPT-2".

It does what the video's script does at its end: bf16 autocast, fused causal attention, a padded
vocabulary, AdamW with decay on matrices only and fused on CUDA, a clipped norm, warmup and cosine.
It is compiled on request, and it knows nothing of this project's model or loop.
"""

import math
import time
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
    model: PlainGPT,
    batches: Iterable[tuple[Tensor, Tensor]],
    device: torch.device,
    bf16: bool,
    *,
    compiled: bool,
    max_lr: float,
    min_lr: float,
    warmup_steps: int,
    max_steps: int,
    weight_decay: float,
    betas: tuple[float, float],
    clip: float,
) -> tuple[list[float], list[float]]:
    """Train on the batches, a step each; returns the seconds and the losses of the steps."""
    torch.set_float32_matmul_precision("high")
    model.to(device).train()
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    run = torch.compile(model) if compiled else model
    fused = device.type == "cuda"
    optimizer = torch.optim.AdamW(groups, lr=max_lr, betas=betas, eps=1e-8, fused=fused)

    def rate(step: int) -> float:
        if step < warmup_steps:
            return max_lr * (step + 1) / warmup_steps
        ratio = (step - warmup_steps) / (max_steps - warmup_steps)
        return min_lr + 0.5 * (1.0 + math.cos(math.pi * ratio)) * (max_lr - min_lr)

    seconds, losses = [], []
    for step, (idx, targets) in enumerate(batches):
        started = time.perf_counter()
        idx, targets = idx.to(device), targets.to(device)
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            _, loss = run(idx, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        optimizer.step()
        losses.append(loss.item())  # waits for the device, so the step's time is whole
        seconds.append(time.perf_counter() - started)
    return seconds, losses
