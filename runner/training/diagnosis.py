"""Looks into a model: one sequence forward and backward, and what the step then changes.

An inspection leaves everything as it was: weights, buffers and gradients.
"""

import math
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt2.language_model import LanguageModel
from runner.observations import Inspection, Layer
from runner.training.state import same_buffers

# Entries of each parameter that are compared before and after a step, evenly spread over it.
COMPARED_ENTRIES = 4096
# A unit is constant if it varies less than this over the positions, relative to its size: the
# rounding of fp32.
CONSTANT = 1e-6

Gradients = dict[str, Tensor | None]  # of each parameter that needs one, by name


def inspect(
    model: LanguageModel, autocast: torch.autocast, step: int, idx_BT: Tensor, targets_BT: Tensor
) -> tuple[Inspection, Gradients]:
    """What a model makes of a micro batch's first sequence.

    Its loss is that of the first half of the positions, so that a gradient with respect to a later
    token shows that the model sees the future. `idx_BT` and `targets_BT` are int64 (B, T), on the
    model's device.
    """
    next_tokens = targets_BT[:, :-1] == idx_BT[:, 1:]
    look = Inspection(
        step,
        batch=f"{zlib.crc32(idx_BT.cpu().numpy().tobytes()):08x}",
        shifted=next_tokens.float().mean().item() if next_tokens.numel() else 1.0,
        copied=(targets_BT == idx_BT).float().mean().item(),
    )
    half = max(1, idx_BT.shape[1] // 2)
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    seen = Seen(idx_BT[:1].shape, model.vocab_size)
    with (
        same_buffers(model),
        torch.random.fork_rng(devices=[]),
        torch.compiler.set_stance("force_eager"),
        seen.hooked(model),
    ):
        with autocast:
            logits_TV = model(idx_BT[:1])[0][0, :half]
        loss = F.cross_entropy(logits_TV.float(), targets_BT[0, :half])
        wanted = *seen.embedded, *seen.outputs.values(), *parameters.values()
        gradients = iter(torch.autograd.grad(loss, wanted, allow_unused=True))
    embedded = [g for _ in seen.embedded if (g := next(gradients)) is not None]
    own = max((_largest(gradient[:, :half]) for gradient in embedded), default=math.nan)
    later = max((_largest(gradient[:, half:]) for gradient in embedded), default=math.nan)
    look.later = _finite(later / own if own else later)
    for name, output in seen.outputs.items():
        # The standard deviation over the positions, RMS over the channels.
        signal = _finite(output.detach().float().var(dim=1).mean().sqrt())
        gradient = next(gradients)
        rms = None if gradient is None else _finite(gradient.float().square().mean().sqrt())
        look.layers.append(Layer(name, signal, rms))
    look.dead_units = max(seen.dead, default=None)
    of_parameters: Gradients = dict(zip(parameters, gradients, strict=True))
    known = [gradient for gradient in of_parameters.values() if gradient is not None]
    look.grad_norm = _finite(torch.nn.utils.get_total_norm(known))
    return look, of_parameters


@dataclass
class Seen:
    """What the hooks of one forward pass keep."""

    shape: torch.Size  # (1, T) of the tokens
    vocab_size: int
    embedded: list[Tensor] = field(default_factory=list)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    dead: list[float] = field(default_factory=list)

    @contextmanager
    def hooked(self, model: LanguageModel) -> Iterator[None]:
        """Keep what the model's modules compute in this block."""
        with ExitStack() as hooks:
            for name, layer in model.layers().items():
                if not self._is_head(layer):
                    hooks.enter_context(layer.register_forward_hook(partial(self._signal, name)))
            for module in model.modules():
                if isinstance(module, nn.Embedding):
                    hooks.enter_context(module.register_forward_hook(self._embedding))
                elif isinstance(module, nn.Linear):
                    hook = module.register_forward_pre_hook(self._linear, with_kwargs=True)
                    hooks.enter_context(hook)
            yield

    def _is_head(self, module: nn.Module) -> bool:
        """Whether a module makes the logits: its input is then the last signal."""
        return isinstance(module, nn.Linear) and module.out_features >= self.vocab_size

    def _embedding(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        if output.shape[:-1] != self.shape:  # of the positions
            return output
        if not output.requires_grad:  # a frozen embedding
            output.requires_grad_()
        self.embedded.append(output)
        return output.clone()  # which the model may change in place

    def _signal(self, name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        while isinstance(output, tuple | list) and output:
            output = output[0]
        if isinstance(output, Tensor) and output.requires_grad and output.dim() == 3:
            self.outputs[name] = output

    def _linear(self, module: nn.Linear, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        units = args[0] if args else named["input"]
        if units.dim() > 1:  # with positions
            units_NC = units.detach().float().flatten(0, -2)
            constant_C = units_NC.std(dim=0) <= CONSTANT * units_NC.square().mean().sqrt()
            self.dead.append(constant_C.float().mean().item())
        if self._is_head(module) and not any(units is kept for kept in self.outputs.values()):
            self._signal("input of the head", module, args, units)


@dataclass
class Diagnosis:
    """The inspections of one model: `look` before a step, and `finish` after it."""

    model: LanguageModel
    trained: nn.Module  # what a step calls
    autocast: torch.autocast
    _before: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False)
    _weights: list[Tensor] = field(default_factory=list, init=False)
    _hooks: ExitStack = field(default_factory=ExitStack, init=False)

    def look(self, step: int, idx_BT: Tensor, targets_BT: Tensor) -> Inspection:
        """`inspect` a micro batch, and keep what the next step will be compared with."""
        self._hooks.close()
        look, gradients = inspect(self.model, self.autocast, step, idx_BT, targets_BT)
        for name, parameter in self.model.named_parameters():
            # Evenly spread, and where the gradient is largest.
            count, gradient = parameter.numel(), gradients.get(name)
            every = math.ceil(count / COMPARED_ENTRIES)
            places = torch.arange(0, count, every, device=parameter.device)
            largest = [] if gradient is None else [gradient.abs().argmax().view(1)]
            places = torch.cat([places, *largest])
            self._before[name] = places, parameter.detach().flatten()[places].float()
        self._hooks.enter_context(self.trained.register_forward_hook(self._weigh))
        return look

    def finish(self, look: Inspection, grad_norm: float) -> None:
        """Add what the step changed; `grad_norm` is its gradient's."""
        self._hooks.close()
        if self._weights:
            look.weight = _finite(torch.stack(self._weights).sum())
            self._weights = []
        ratios = []
        for name, parameter in self.model.named_parameters():
            places, before = self._before[name]  # the compared entries
            after = parameter.detach().flatten()[places].float()
            changed, weights = (after - before).norm(), before.norm()
            if changed == 0:
                look.frozen.append(name)
            if parameter.dim() > 1 and weights > 0:
                ratios.append(changed / weights)
        if ratios:
            look.update = _finite(torch.stack(ratios).median())
        look.step_norm = _finite(grad_norm)

    def _weigh(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """The hook of a step's forward pass: keeps what backward starts with at the loss."""
        if output[1] is not None:
            output[1].register_hook(self._weights.append)


def _largest(gradient: Tensor) -> float:
    return gradient.abs().max().item() if gradient.numel() else 0.0


def _finite(value: Tensor | float) -> float | None:
    return float(value) if math.isfinite(value) else None
