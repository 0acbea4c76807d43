"""torch.compile, applied to a part of the model or all of it before the first step."""

import os
import re
import warnings
from pathlib import Path

import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch.distributed.fsdp import FSDPModule

from conf.schema import CompileScope, TrainConf
from gpt2.model import GPT
from runner.training.device import is_out_of_memory, synchronise


def compile_model(
    model: GPT, train: TrainConf, micro_batch_size: int, autocast: torch.autocast
) -> str | None:
    """Compile what `train.compile_scope` names; None, or the reason why it failed.

    A forward and backward pass starts the compilation here and not in a step; weights and buffers
    keep their values. After a failure the model runs eagerly.
    """
    device = next(model.parameters()).device
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    idx_BT = torch.zeros(micro_batch_size, train.context, dtype=torch.int64, device=device)
    failure = None
    torch.compiler.reset()
    torch.compiler.set_stance("default")
    mode = train.compile_mode.value
    if train.compile_scope is CompileScope.model:
        model.compile(dynamic=False, mode=mode)
    else:
        for block in model.h:
            block.compile(dynamic=False, mode=mode)
    if train.compile_scope is CompileScope.blocks_and_head:
        model.loss = torch.compile(model.loss, dynamic=False, mode=mode)  # type: ignore[method-assign]
    compiling = True
    while compiling:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with autocast:
                    loss = _first_pass(model, idx_BT, train.compile_scope)
                loss.backward()  # type: ignore[no-untyped-call]
            compiling = False
        except Exception as error:  # compilers raise errors of any type, and none must end the run
            if is_out_of_memory(error):
                raise
            compiling = _removed(error)
            if not compiling:
                torch.compiler.set_stance("force_eager")
                message = " ".join(str(error).split())[:200]
                failure = f"compilation failed ({type(error).__name__}: {message})"
    model.zero_grad(set_to_none=True)
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    synchronise(device)
    return failure


def _removed(error: Exception) -> bool:
    """Whether a kernel that cannot be loaded was removed from the cache, to be compiled again.

    One is left half written where the compiler was ended.
    """
    named = re.search(r"(/\S+\.so)\b", str(error))
    kernel, cache = Path(named[1] if named else ""), os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    if not cache or not kernel.is_relative_to(cache) or not kernel.exists():
        return False
    kernel.unlink()
    torch.compiler.reset()
    return True


def cache_state() -> str:
    """warm if the compiler's cache held all kernels, else cold."""
    found = counters["inductor"]
    missed = found["fxgraph_cache_miss"] + found["fxgraph_cache_bypass"]
    return "warm" if found["fxgraph_cache_hit"] and not missed else "cold"


def _first_pass(model: GPT, idx_BT: Tensor, scope: CompileScope) -> Tensor:
    """A scalar computed by what is compiled, and by as little else as possible.

    A sharded model collects the weights of its norm and head when all of it is called.
    """
    if scope is CompileScope.model or isinstance(model, FSDPModule):
        # Two tensors, since what is compiled for one and the same is not used for two.
        return model(idx_BT, idx_BT.clone())[1]
    x_BTC = torch.zeros(*idx_BT.shape, model.config.n_embd, device=idx_BT.device)
    x_BTC.requires_grad_()
    # Two blocks, since under autocast the input of the second may have another dtype.
    for block in model.h[:2]:
        x_BTC = block(x_BTC)
    return x_BTC.sum() if scope is CompileScope.blocks else model.loss(x_BTC, idx_BT)
