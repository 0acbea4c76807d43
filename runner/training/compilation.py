"""torch.compile, applied to the transformer block before the first step."""

import warnings

import torch

from conf.schema import CompileMode
from gpt2.model import GPT
from runner.training.device import is_out_of_memory, synchronise


def compile_blocks(
    model: GPT, sizes_BT: tuple[int, int], autocast: torch.autocast, mode: CompileMode
) -> str | None:
    """Compile the transformer block, once for all layers; None, or the reason why it failed.

    A forward and backward pass starts the compilation here and not in a step; weights and buffers
    keep their values. After a failure the model runs eagerly.
    """
    device = next(model.parameters()).device
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    x_BTC = torch.zeros(*sizes_BT, model.config.n_embd, device=device, requires_grad=True)
    failure = None
    torch.compiler.reset()
    torch.compiler.set_stance("default")
    for block in model.h:
        block.compile(dynamic=False, mode=mode.value)
    try:
        with warnings.catch_warnings(), autocast:
            warnings.simplefilter("ignore")
            # Two, since under autocast the input of the second may have another dtype.
            for block in model.h[:2]:
                x_BTC = block(x_BTC)
            x_BTC.sum().backward()  # type: ignore[no-untyped-call]
    except Exception as error:  # compilers raise errors of any type, and none must end the run
        if is_out_of_memory(error):
            raise
        torch.compiler.set_stance("force_eager")
        message = " ".join(str(error).split())[:200]
        failure = f"compilation failed ({type(error).__name__}: {message})"
    model.zero_grad(set_to_none=True)
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    synchronise(device)
    return failure
