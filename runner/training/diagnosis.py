"""Looks into a model: one sequence forward and backward, and what the step then changes.

A look leaves everything as it was: weights, buffers and gradients.
"""

import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gpt2.language_model import LanguageModel
from gpt2.model import CausalSelfAttention, attention_weights
from runner.record import Layer, Look
from runner.training.state import same_buffers

# Entries of each parameter that are compared before and after a step, evenly spread over it.
COMPARED_ENTRIES = 4096
# A unit is constant where it varies by less over the positions, in relation to its size: the
# rounding of fp32.
CONSTANT = 1e-6


@dataclass
class Seen:
    """What the hooks of one forward pass keep."""

    shape: torch.Size  # (1, T) of the tokens
    embedded: list[Tensor] = field(default_factory=list)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    dead: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)

    def embedding(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        if output.shape[:-1] != self.shape:  # of the positions
            return output
        if not output.requires_grad:  # a frozen embedding
            output.requires_grad_()
        self.embedded.append(output)
        return output.clone()  # which the model may change in place

    def layer(self, name: str) -> Any:
        """The hook of one of the model's layers."""

        def keep(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            while isinstance(output, tuple | list) and output:
                output = output[0]
            self._keep(name, output)

        return keep

    def head(self, module: nn.Linear, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        """The hook of a linear layer that makes logits: what it is given is the last signal."""
        signal = _input(args, named)
        if not any(signal is output for output in self.outputs.values()):
            self._keep("input of the head", signal)

    def _keep(self, name: str, signal: Any) -> None:
        if isinstance(signal, Tensor) and signal.requires_grad and signal.dim() == 3:
            self.outputs[name] = signal

    def linear(self, module: nn.Linear, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        units = _input(args, named)
        if units.dim() < 2:  # without positions
            return
        units_NC = units.detach().float().flatten(0, -2)
        constant_C = units_NC.std(dim=0) <= CONSTANT * units_NC.square().mean().sqrt()
        self.dead.append(constant_C.float().mean().item())

    @torch.no_grad()
    def attention(self, module: CausalSelfAttention, args: tuple[Any, ...], _: Tensor) -> None:
        q_BHTD, k_BHTD, _v = module.queries_keys_values(args[0])
        # The first position attends to itself alone.
        weights_BHTT = attention_weights(q_BHTD, k_BHTD)[..., 1:, :].float()
        entropy_BHT = torch.special.entr(weights_BHTT).sum(dim=-1)
        uniform_T = torch.arange(2, 2 + entropy_BHT.shape[-1], device=entropy_BHT.device).log()
        self.entropies.append((entropy_BHT / uniform_T).mean().item())


class Diagnosis:
    """The looks into one model: `look` before a step, and `finish` after it."""

    def __init__(self, model: LanguageModel, trained: nn.Module, autocast: torch.autocast) -> None:
        self.model = model
        self.trained = trained  # what a step calls
        self.autocast = autocast
        self._places: dict[str, Tensor] = {}
        self._before: dict[str, Tensor] = {}
        self._tokens = 0
        self._weights: list[Tensor] = []
        self._hook: RemovableHandle | None = None

    def look(self, step: int, idx_BT: Tensor, targets_BT: Tensor) -> Look:
        """Look at what the model makes of a micro batch's first sequence.

        Its loss is that of the first half of the positions, so that a gradient with respect to a
        later token shows that the model sees the future. `idx_BT` and `targets_BT` are int64
        (B, T), on the model's device.
        """
        self._stop_weighing()
        next_tokens = targets_BT[:, :-1] == idx_BT[:, 1:]
        shifted = next_tokens.float().mean().item() if next_tokens.numel() else 1.0
        copied = (targets_BT == idx_BT).float().mean().item()
        batch = f"{zlib.crc32(idx_BT.cpu().numpy().tobytes()):08x}"
        found = Look(step, batch=batch, shifted=shifted, copied=copied)
        half = max(1, idx_BT.shape[1] // 2)
        parameters = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        seen = Seen(idx_BT[:1].shape)
        with (
            same_buffers(self.model),
            torch.random.fork_rng(devices=[]),
            torch.compiler.set_stance("force_eager"),
            _hooked(self.model, seen),
        ):
            with self.autocast:
                logits_TV = self.model(idx_BT[:1])[0][0, :half]
            loss = F.cross_entropy(logits_TV.float(), targets_BT[0, :half])
            wanted = *seen.embedded, *seen.outputs.values(), *parameters.values()
            gradients = iter(torch.autograd.grad(loss, wanted, allow_unused=True))
        embedded = [g for _ in seen.embedded if (g := next(gradients)) is not None]
        later = max((_largest(gradient[:, half:]) for gradient in embedded), default=math.nan)
        own = max((_largest(gradient[:, :half]) for gradient in embedded), default=math.nan)
        found.later = _finite(later / own if own else later)
        for name, output in seen.outputs.items():
            found.layers.append(Layer(name, _signal(output), _rms(next(gradients))))
        found.dead_units = max(seen.dead, default=None)
        found.attention_entropy = _finite(min(seen.entropies, default=math.nan))
        named = dict(zip(parameters, gradients, strict=True))
        known = [gradient for gradient in named.values() if gradient is not None]
        found.grad_norm = _finite(torch.nn.utils.get_total_norm(known))
        self._places = {n: _places(p, named.get(n)) for n, p in self.model.named_parameters()}
        self._before = self._entries()
        self._tokens = half
        self._hook = self.trained.register_forward_hook(self._weigh)
        return found

    def finish(self, look: Look, grad_norm: float, tokens: int) -> None:
        """Add what the step changed; `grad_norm` is of its gradient, of so many `tokens`."""
        self._stop_weighing()
        if self._weights:
            look.weight = _finite(torch.stack(self._weights).sum())
            self._weights = []
        after = self._entries()
        ratios = []
        for name, parameter in self.model.named_parameters():
            changed, weights = (after[name] - self._before[name]).norm(), self._before[name].norm()
            if changed == 0:
                look.frozen.append(name)
            if parameter.dim() > 1 and weights > 0:
                ratios.append(changed / weights)
        if ratios:
            look.update = _finite(torch.stack(ratios).median())
        look.step_norm = _finite(grad_norm)
        look.noise_tokens = noise_tokens(look.grad_norm, self._tokens, look.step_norm, tokens)

    def _weigh(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """The hook of a step's forward pass: keeps what backward starts with at the loss."""
        if output[1] is not None:
            output[1].register_hook(self._weights.append)

    def _stop_weighing(self) -> None:
        if self._hook:
            self._hook.remove()

    def _entries(self) -> dict[str, Tensor]:
        """The compared entries of each parameter."""
        named = self.model.named_parameters()
        return {n: p.detach().flatten()[self._places[n]].float() for n, p in named}


@contextmanager
def _hooked(model: LanguageModel, seen: Seen) -> Iterator[None]:
    """Give what the model's modules compute to `seen`."""
    heads = {
        module
        for module in model.modules()
        if isinstance(module, nn.Linear) and module.out_features >= model.vocab_size
    }
    layers = {name: layer for name, layer in model.layers().items() if layer not in heads}
    hooks = [layer.register_forward_hook(seen.layer(name)) for name, layer in layers.items()]
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            hooks.append(module.register_forward_hook(seen.embedding))
        elif isinstance(module, nn.Linear):
            hooks.append(module.register_forward_pre_hook(seen.linear, with_kwargs=True))
            if module in heads:
                hooks.append(module.register_forward_pre_hook(seen.head, with_kwargs=True))
        elif isinstance(module, CausalSelfAttention):
            hooks.append(module.register_forward_hook(seen.attention))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def noise_tokens(
    small_norm: float | None, small: int, large_norm: float | None, large: int
) -> float | None:
    """The tokens in a batch at which the noise in its gradient is as long as the gradient.

    From the norms of the gradients of a small and a large batch, in tokens: the simple noise scale
    of McCandlish et al. (2018), appendix A.1. None where the two norms tell nothing.
    """
    if small_norm is None or large_norm is None or small >= large:
        return None
    gradient = (large * large_norm**2 - small * small_norm**2) / (large - small)
    noise = (small_norm**2 - large_norm**2) / (1 / small - 1 / large)
    return noise / gradient if gradient > 0 and noise > 0 else None


def _input(args: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
    """What a linear layer is called with."""
    tensor: Tensor = args[0] if args else named["input"]
    return tensor


def _places(parameter: Tensor, gradient: Tensor | None) -> Tensor:
    """Where a parameter is compared: evenly spread, and where its gradient is largest."""
    count = parameter.numel()
    places = torch.arange(0, count, math.ceil(count / COMPARED_ENTRIES), device=parameter.device)
    return places if gradient is None else torch.cat([places, gradient.abs().argmax().view(1)])


def _signal(output: Tensor) -> float | None:
    """The standard deviation of (1, T, C) over the positions, RMS over the channels."""
    return _finite(output.detach().float().var(dim=1).mean().sqrt())


def _rms(gradient: Tensor | None) -> float | None:
    return None if gradient is None else _finite(gradient.float().square().mean().sqrt())


def _largest(gradient: Tensor) -> float:
    return gradient.abs().max().item() if gradient.numel() else 0.0


def _finite(value: Tensor | float) -> float | None:
    return float(value) if math.isfinite(value) else None
