"""A custom model: built, tried out, and wrapped as the loop needs it."""

import contextlib
import importlib.util
import inspect
import os
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from conf.errors import UsageError
from gpt2.config import CustomConfig, GPTConfig, ModelConfig
from gpt2.language_model import LanguageModel, in_depth, smoothing
from gpt2.model import GPT
from runner.source import read_source
from runner.training.device import is_out_of_memory
from runner.training.state import seed_everything

# The source of each target that this process has imported.
_imported: dict[str, list[bytes]] = {}


class Unfit(UsageError):
    """What is wrong with a custom model, as the end of a sentence."""


def build_model(config: ModelConfig, seed: int) -> LanguageModel:
    """The configured model on the CPU, its parameters drawn from the seed and from nothing else.

    Raises UsageError for a custom model that cannot be built.
    """
    if isinstance(config, GPTConfig):
        return GPT(config, seed)
    assert isinstance(config, CustomConfig)
    knobs = {argument: getattr(config, knob) for knob, argument in config.knobs.items()}
    plain = {name: v.name if isinstance(v, Enum) else v for name, v in knobs.items()}
    arguments = {**config.arguments, **plain}
    shown = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    with _in_a_sentence(config.target, f"cannot be built with ({shown})"):
        seed_everything(seed)
        net = _load(config.target)(**arguments)
        if not isinstance(net, nn.Module):
            raise Unfit(f"it returns {_kind(net)}, and not an nn.Module")
        model = net if isinstance(net, LanguageModel) else Adapted(net, config)
        tensors = (*model.parameters(), *model.buffers())
        if any(map(is_lazy, tensors)):
            with torch.no_grad():
                model.eval()(torch.zeros(2, 2, dtype=torch.int64))  # it gives them their shapes
            model.train()
        model.num_parameters()  # it fails for a lazy layer that is not used
        for tensor in tensors:
            if tensor.layout is torch.strided and 0 in tensor.stride():
                tensor.data = tensor.data.contiguous()  # an expanded one could not be written to
        if not any(p.requires_grad for p in model.parameters()):
            raise Unfit("it has no parameters to train")
    return model


def try_out(
    model: LanguageModel,
    target: str,
    sequences: int,
    context: int,
    lengths: Sequence[int] = (),
    processes: int = 1,
    loss_options: Mapping[str, float] | None = None,
) -> None:
    """Compute logits, loss and gradients of token ids (sequences, context), as training does.

    Also computes the logits of one sequence for each of `lengths`, in tokens. Raises UsageError if
    the model returns something else, if its weights could not be kept, or if several processes
    cannot train it.
    """
    with _in_a_sentence(target, "has a state_dict that could not be read again"):
        kept = model.state_dict()
        for name, value in kept.items():
            if not isinstance(value, Tensor) or value.layout is not torch.strided:
                raise Unfit(f"{name} is not a dense tensor; keep it in an attribute")
    batch = sequences, context
    for training, shape in ((False, batch), (True, batch), *((False, (1, n)) for n in lengths)):
        given = f"token ids of shape {shape} up to {model.vocab_size - 1:,}"
        if shape[1] > context:
            given += f", as in sampling (lower model.context_length={model.context_length})"
        with _in_a_sentence(target, f"fails for {given}"):
            idx_BT = torch.zeros(shape, dtype=torch.int64)
            idx_BT[:, -1] = model.vocab_size - 1
            options = (loss_options or {}) if shape == batch else None
            _try_pass(model.train(training), idx_BT, options)
    with _in_a_sentence(target, "changes its state_dict's names or shapes in a forward pass"):
        model.load_state_dict(kept)
    unused = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    with _in_a_sentence(target, "must be trained on one process"):
        if processes > 1 and unused:
            names = ", ".join(unused[:3])
            raise Unfit(
                f"some parameters get no gradient ({names}), and {processes} processes wait for it"
            )
        if processes > 1 and model.mixes_positions():
            raise Unfit("it has a batch norm, which takes its statistics from a whole batch")
    model.train().zero_grad(set_to_none=True)


def _try_pass(
    model: LanguageModel, idx_BT: Tensor, loss_options: Mapping[str, float] | None
) -> None:
    """Raises Unfit if the model returns something else than it should; None: without a loss."""
    if not model.training:
        with torch.no_grad():
            made = tuple(model(idx_BT)[0].shape)
        if made != (*idx_BT.shape, model.vocab_size):
            wanted = f"{(*idx_BT.shape, model.vocab_size)}: for every token at every position"
            raise Unfit(f"it returns logits of shape {made}, and not {wanted}")
    if loss_options is not None:
        loss = model(idx_BT, idx_BT.clone(), **loss_options)[1]
        if loss.dim() != 0:
            wanted = "a scalar: the mean cross entropy of all tokens"
            raise Unfit(f"it returns a loss of shape {tuple(loss.shape)}, and not {wanted}")
        if not loss.requires_grad:
            raise Unfit("it returns a loss that depends on no parameter; do not detach it")
        loss.backward()
        if any(p.grad is not None and p.grad.is_sparse for p in model.parameters()):
            raise Unfit("AdamW takes no sparse gradients; build it with sparse=False")


class Adapted(LanguageModel):
    """An nn.Module of token ids (B, T) to logits (B, T, V) as a LanguageModel.

    It may return logits, (logits, loss), or an object with `logits` and `loss`. It is given targets
    if its forward has a parameter of this name. If it returns no loss for them, the loss is
    computed from the logits.
    """

    def __init__(self, net: nn.Module, config: CustomConfig) -> None:
        super().__init__()
        self.net = net
        self.vocab_size, self.context_length = config.vocab_size, config.context_length
        self.takes_targets = "targets" in inspect.signature(net.forward).parameters

    def forward(
        self, idx_BT: Tensor, targets_BT: Tensor | None = None, label_smoothing: float = 0.0
    ) -> tuple[Tensor | None, Tensor | None]:
        if targets_BT is None:
            logits, _ = self._outputs(self.net(idx_BT))
            # Without targets, some models compute only the last position's.
            if self.takes_targets and logits.shape[1] != idx_BT.shape[1]:
                logits, _ = self._outputs(self.net(idx_BT, targets=idx_BT))
            return logits if self.training else logits[..., : self.vocab_size], None
        targets = {"targets": targets_BT} if self.takes_targets else {}
        logits, loss = self._outputs(self.net(idx_BT, **targets))
        if loss is None or not self.takes_targets:
            loss = F.cross_entropy(logits.flatten(0, 1).float(), targets_BT.flatten())
        if label_smoothing:
            loss = loss + smoothing(logits, targets_BT, label_smoothing, self.vocab_size)
        return None, loss

    def _outputs(self, outputs: Any) -> tuple[Tensor, Tensor | None]:
        """Logits, and the loss if there is one."""
        if isinstance(outputs, tuple | list):
            logits, loss = outputs[0], outputs[1] if len(outputs) > 1 else None
        elif isinstance(outputs, Tensor):
            logits, loss = outputs, None
        else:
            logits, loss = getattr(outputs, "logits", None), getattr(outputs, "loss", None)
        if not isinstance(logits, Tensor) or logits.dim() != 3:
            shape = f" of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else ""
            raise Unfit(
                f"it returns {_kind(outputs)}{shape}; return logits of shape (batch, time, "
                "vocabulary), (logits, loss), or an object with logits"
            )
        return logits, loss

    def layers(self) -> dict[str, nn.Module]:
        return in_depth(self.net)


def _load(target: str) -> Any:
    """The object package.module:name, imported again if its source has changed since."""
    module, _, name = target.partition(":")
    files = read_source(target).files
    source = [file.read_bytes() for file in files]
    # What was imported before it was first trained may have been edited since.
    edited = target not in _imported and _may_be_older_in_memory(files)
    if _imported.setdefault(target, source) != source or edited:
        if module == "__main__":  # which has names of what was imported before
            raise Unfit("what it imports may have changed since; start Python again")
        for known, loaded in list(sys.modules.items()):
            if Path(getattr(loaded, "__file__", None) or "") in files:
                del sys.modules[known]
        for file in files:  # bytecode of the same second and size counts as that of the new text
            with contextlib.suppress(OSError):  # a folder that is not the user's
                Path(importlib.util.cache_from_source(file)).unlink()
        importlib.invalidate_caches()
        _imported[target] = source
    imported = importlib.import_module(module)
    if not hasattr(imported, name):
        raise Unfit(f"there is no {name} in {imported.__file__}")
    return getattr(imported, name)


def _may_be_older_in_memory(files: Sequence[Path]) -> bool:
    """Whether a file is newer than this process, which has imported it."""
    loaded = {getattr(module, "__file__", None) for module in [*sys.modules.values()]}
    began = 0.0  # if it is not known
    with contextlib.suppress(OSError):
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        began = time.time() - age
    return any(str(file) in loaded and file.stat().st_mtime > began for file in files)


@contextlib.contextmanager
def _in_a_sentence(target: str, what: str) -> Iterator[None]:
    """Raise the errors of a model's own code as a UsageError that says where they come from."""
    try:
        yield
    except Unfit as error:
        raise UsageError(f"model.target={target} {what}: {error}.") from None
    except (UsageError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a script may even exit
        if is_out_of_memory(error):
            raise
        own = read_source(target).files
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f" ({f.filename}, line {f.lineno})" for f in frames if Path(f.filename) in own]
        message = " ".join(str(error).split())[:300].rstrip(".")
        message += lines[-1] if lines else ""
        raise UsageError(
            f"model.target={target} {what}: {type(error).__name__}: {message}."
        ) from error


def _kind(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
