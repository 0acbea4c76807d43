"""torch.compile, applied to the transformer block before the first step."""

import time
import warnings

import torch
from rich.console import Console

from conf.schema import CompileMode
from gpt2.model import GPT
from runner.messages import warn
from runner.training.device import is_out_of_memory, synchronise
from runner.training.techniques import Techniques


def compile_blocks(
    model: GPT,
    sizes_BTC: tuple[int, int, int],
    autocast: torch.autocast,
    mode: CompileMode,
    techniques: Techniques,
    console: Console,
) -> float:
    """Compile the transformer block, once for all layers, and return the seconds it took.

    A forward and backward pass triggers compilation here and not in a step; it changes no
    weight. Where compilation fails the run continues eagerly.
    """
    started = time.perf_counter()
    device = next(model.parameters()).device
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    x_BTC = torch.zeros(sizes_BTC, device=device, requires_grad=True)
    torch.compiler.reset()
    torch.compiler.set_stance("default")
    for block in model.h:
        block.compile(dynamic=False, mode=mode.value)
    try:
        with warnings.catch_warnings(), autocast:
            warnings.simplefilter("ignore")
            # Two, since under autocast the second may be given another dtype than the first.
            for block in model.h[:2]:
                x_BTC = block(x_BTC)
            x_BTC.sum().backward()  # type: ignore[no-untyped-call]
    except Exception as error:  # whatever a compiler can raise: none of it may end the run
        if is_out_of_memory(error):
            raise
        torch.compiler.set_stance("force_eager")
        first_words = " ".join(str(error).split())[:200]
        reason = f"compilation failed ({type(error).__name__}: {first_words})"
        techniques.withdraw("torch.compile", reason)
        warn(console, f"torch.compile is not applied: {reason}.")
    model.zero_grad(set_to_none=True)
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    synchronise(device)
    return time.perf_counter() - started
