"""torch.compile, applied to a GPT's blocks and loss or to a whole model before the first step."""

import os
import re
import warnings
from pathlib import Path

import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch.distributed.fsdp import FSDPModule

from conf.schema import CompileScope, TrainConf
from gpt2.language_model import LanguageModel
from gpt2.model import GPT
from runner.training.device import is_out_of_memory, synchronise
from runner.training.state import same_buffers


def compile_model(
    model: LanguageModel, train: TrainConf, micro_batch_size: int, autocast: torch.autocast
) -> str | None:
    """Compile what `train.compile_scope` names; None, or the reason why it failed.

    A forward and backward pass starts the compilation here and not in a step; weights and buffers
    keep their values. After a failure the model runs eagerly.
    """
    device = next(model.parameters()).device
    idx_BT = torch.zeros(micro_batch_size, train.context, dtype=torch.int64, device=device)
    torch.compiler.reset()
    torch.compiler.set_stance("default")
    by_parts = isinstance(model, GPT) and train.compile_scope is CompileScope.blocks_and_head
    removed: set[Path] = set()
    failure: str | None = None
    while failure is None:
        try:
            if not removed:
                _compile(model, by_parts, train.compile_mode.value)
            with same_buffers(model), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with autocast:
                    loss = _loss(model, by_parts, idx_BT, train.loss_options)
                loss.backward()  # type: ignore[no-untyped-call]
            break
        except Exception as error:  # compilers raise errors of any type, and none must end the run
            if is_out_of_memory(error):
                raise
            if not _removed(error, removed):
                torch.compiler.set_stance("force_eager")
                message = " ".join(str(error).split())[:200]
                failure = f"compilation failed ({type(error).__name__}: {message})"
    model.zero_grad(set_to_none=True)
    synchronise(device)
    return failure


def _compile(model: LanguageModel, by_parts: bool, mode: str) -> None:
    """Compile a GPT's blocks, which share the code, and its norm, head and loss; or all at once."""
    if not by_parts:
        model.compile(dynamic=False, mode=mode)
        return
    assert isinstance(model, GPT)
    for block in model.h:
        block.compile(dynamic=False, mode=mode)
    model.loss = torch.compile(model.loss, dynamic=False, mode=mode)  # type: ignore[method-assign]


def _loss(
    model: LanguageModel, by_parts: bool, idx_BT: Tensor, options: dict[str, float]
) -> Tensor:
    """A loss computed by the compiled parts, and by as little else as possible."""
    # A sharded model collects the weights of its norm and head only if called as a whole.
    if not by_parts or isinstance(model, FSDPModule):
        # Two tensors, since code compiled for the same tensor twice is not used for two.
        loss: Tensor = model(idx_BT, idx_BT.clone(), **options)[1]
        return loss
    assert isinstance(model, GPT)
    x_BTC = torch.zeros(*idx_BT.shape, model.config.n_embd, device=idx_BT.device)
    x_BTC.requires_grad_()
    # Two blocks, since under autocast the input of the second may have another dtype.
    for block in model.h[:2]:
        x_BTC = block(x_BTC)
    return model.loss(x_BTC, idx_BT, **options)


def _removed(error: Exception, before: set[Path]) -> bool:
    """Whether a kernel that cannot be loaded was removed from the cache, to be compiled again.

    A compiler that was ended leaves a kernel half written. A removed kernel joins `before` and is
    not removed again: its folder may allow no loading at all.
    """
    named = re.search(r"(/\S+\.so)\b", str(error))
    kernel, cache = Path(named[1] if named else ""), os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    if not cache or not kernel.is_relative_to(cache) or kernel in before:
        return False
    try:
        kernel.unlink()
    except OSError:  # it is not there, or may not be changed
        return False
    before.add(kernel)
    torch.compiler.reset()
    return True


def cache_state() -> str:
    """warm if the compiler's cache held all kernels, else cold."""
    found = counters["inductor"]
    missed = found["fxgraph_cache_miss"] + found["fxgraph_cache_bypass"]
    return "warm" if found["fxgraph_cache_hit"] and not missed else "cold"
