"""A model of someone's own: made, tried out, and wrapped in what the loop asks of a model."""

import contextlib
import importlib
import inspect
import sys
import traceback
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from conf.errors import UsageError
from gpt2.config import CustomConfig, GPTConfig, ModelConfig
from gpt2.language_model import LanguageModel, in_depth
from gpt2.model import GPT
from runner.source import source_files
from runner.training.device import is_out_of_memory
from runner.training.state import seed_everything


def build_model(config: ModelConfig, seed: int) -> LanguageModel:
    """The configured model on the CPU, its parameters drawn from the seed and from nothing else.

    Raises UsageError for a custom model that cannot be made.
    """
    if isinstance(config, GPTConfig):
        return GPT(config, seed)
    assert isinstance(config, CustomConfig)
    values = {knob: getattr(config, knob) for knob in config.knobs}
    plain = {k: value.name if isinstance(value, Enum) else value for k, value in values.items()}
    arguments = {**config.arguments, **{config.knobs[k]: value for k, value in plain.items()}}
    shown = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    with _in_a_sentence(config.target, f"cannot be built with ({shown})"):
        seed_everything(seed)
        net = _load(config.target)(**arguments)
        if not isinstance(net, nn.Module):
            raise UsageError(
                f"model.target={config.target} returns {_kind(net)}, and not an nn.Module."
            )
        model = net if isinstance(net, LanguageModel) else Adapted(net, config)
        if any(map(is_lazy, (*model.parameters(), *model.buffers()))):
            with torch.no_grad():
                model.eval()(torch.zeros(2, 2, dtype=torch.int64))  # which gives them their shapes
            model.train()
        model.num_parameters()  # which fails for a lazy layer that is not used
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.layout is torch.strided and 0 in tensor.stride():
                tensor.data = tensor.data.contiguous()  # an expanded one could not be written to
    if not any(p.requires_grad for p in model.parameters()):
        raise UsageError(f"model.target={config.target} has no parameters to train.")
    return model


def try_out(
    model: LanguageModel,
    target: str,
    sequences: int,
    context: int,
    lengths: Sequence[int] = (),
    processes: int = 1,
) -> None:
    """Compute logits, loss and gradients of token ids (sequences, context), as training does.

    Logits also of one sequence of each of the `lengths` in tokens. Raises UsageError for a model
    that does not return them as it should, whose weights could not be kept, or that several
    processes cannot train.
    """
    unreadable = "has a state_dict that could not be read again"
    with _in_a_sentence(target, unreadable):
        kept = model.state_dict()
        for name, value in kept.items():
            if not isinstance(value, Tensor) or value.layout is not torch.strided:
                raise TypeError(f"{name} is no dense tensor; keep it in an attribute")
    batch = sequences, context
    for training, shape in ((False, batch), (True, batch), *((False, (1, n)) for n in lengths)):
        model.train(training)
        idx_BT = torch.zeros(shape, dtype=torch.int64)
        idx_BT[:, -1] = model.vocab_size - 1
        given = f"token ids of shape {shape} up to {model.vocab_size - 1:,}"
        if shape[1] > context:
            given += f", as in sampling (lower model.context_length={model.context_length})"
        if not training:
            with torch.no_grad(), _in_a_sentence(target, f"fails for {given}"):
                made = tuple(model(idx_BT)[0].shape)
            if made != (*shape, model.vocab_size):
                raise UsageError(
                    f"model.target={target} returns logits of shape {made} for {given}, and not "
                    f"{(*shape, model.vocab_size)}: logits for every token at every position."
                )
        if shape != batch:
            continue
        with _in_a_sentence(target, f"fails for {given}, with targets"):
            loss = model(idx_BT, idx_BT.clone())[1]
        if loss.dim() != 0:
            raise UsageError(
                f"model.target={target} returns a loss of shape {tuple(loss.shape)}, and not a "
                "scalar: the mean cross entropy of all tokens."
            )
        if not loss.requires_grad:
            raise UsageError(
                f"model.target={target} returns a loss that depends on no parameter: do not detach "
                "it, and do not compute it under no_grad."
            )
        with _in_a_sentence(target, f"has no gradient to train with for {given}"):
            loss.backward()
            if any(p.grad is not None and p.grad.is_sparse for p in model.parameters()):
                raise TypeError("AdamW takes no sparse gradients; build it with sparse=False")
    with _in_a_sentence(target, f"{unreadable}, as a forward pass changes its names or shapes"):
        model.load_state_dict(kept)
    unused = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    if processes > 1 and unused:
        raise UsageError(
            f"model.target={target} has parameters that get no gradient ({', '.join(unused[:3])}), "
            f"and {processes} processes wait for one of each: remove them, or train on one process."
        )
    if processes > 1 and model.mixes_positions():
        raise UsageError(
            f"model.target={target} has a batch norm, which takes its statistics from a whole "
            f"batch, of which each of the {processes} processes has a part; train on one process."
        )
    model.train().zero_grad(set_to_none=True)


class Adapted(LanguageModel):
    """An nn.Module of token ids (B, T) to logits (B, T, V) as a LanguageModel.

    It may return logits, (logits, loss), or an object with `logits` and `loss`. It is given targets
    where its forward has a parameter of this name; where it returns no loss for them, the loss is
    made from the logits.
    """

    def __init__(self, net: nn.Module, config: CustomConfig) -> None:
        super().__init__()
        self.net = net
        self.target = config.target
        self.vocab_size, self.context_length = config.vocab_size, config.context_length
        self.takes_targets = "targets" in inspect.signature(net.forward).parameters

    def forward(
        self, idx_BT: Tensor, targets_BT: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor | None]:
        if targets_BT is None:
            logits_BTV = self._logits(idx_BT)
            return logits_BTV if self.training else logits_BTV[..., : self.vocab_size], None
        targets = {"targets": targets_BT} if self.takes_targets else {}
        logits, loss = self._outputs(self.net(idx_BT, **targets))
        if loss is None:
            loss = F.cross_entropy(logits.flatten(0, 1).float(), targets_BT.flatten())
        return None, loss

    def _logits(self, idx_BT: Tensor) -> Tensor:
        logits, _ = self._outputs(self.net(idx_BT))
        # Some models compute only the last position's without targets.
        if self.takes_targets and logits.shape[1:2] != idx_BT.shape[1:]:
            logits, _ = self._outputs(self.net(idx_BT, targets=idx_BT))
        return logits

    def _outputs(self, found: Any) -> tuple[Any, Tensor | None]:
        """Logits, and the loss of a model that takes targets."""
        loss = None
        if isinstance(found, tuple | list):
            logits, loss = found[0], found[1] if len(found) > 1 else None
        elif isinstance(found, Tensor):
            logits = found
        else:
            logits, loss = getattr(found, "logits", None), getattr(found, "loss", None)
        if not isinstance(logits, Tensor) or logits.dim() != 3:
            shape = f" of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else ""
            raise UsageError(
                f"model.target={self.target} returns {_kind(found)}{shape}; return logits of shape "
                "(batch, time, vocabulary), (logits, loss), or an object with logits."
            )
        return logits, loss if self.takes_targets else None

    def layers(self) -> dict[str, nn.Module]:
        return in_depth(self.net)


# The source of each target that this process has imported.
_imported: dict[str, list[bytes]] = {}


def _load(target: str) -> Any:
    """What package.module:name is, imported again where its source has changed since."""
    module, _, name = target.partition(":")
    files = source_files(target)
    source = [file.read_bytes() for file in files]
    if _imported.setdefault(target, source) != source:
        for known, loaded in list(sys.modules.items()):
            if Path(getattr(loaded, "__file__", None) or "") in files:
                del sys.modules[known]
        importlib.invalidate_caches()
        _imported[target] = source
    found = importlib.import_module(module)
    if not hasattr(found, name):
        raise UsageError(f"model.target={target}: there is no {name} in {found.__file__}.")
    return getattr(found, name)


@contextlib.contextmanager
def _in_a_sentence(target: str, what: str) -> Iterator[None]:
    """Raise the errors of a model's own code as a UsageError that says where they come from."""
    try:
        yield
    except (UsageError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a script may even exit
        if is_out_of_memory(error):
            raise
        own = source_files(target)
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f" ({f.filename}, line {f.lineno})" for f in frames if Path(f.filename) in own]
        message = " ".join(str(error).split())[:300].rstrip(".")
        raise UsageError(
            f"model.target={target} {what}: {type(error).__name__}: {message}"
            f"{lines[-1] if lines else ''}."
        ) from error


def _kind(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
