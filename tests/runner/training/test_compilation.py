"""What is compiled before the first step is what the steps use."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from conf.schema import CompileScope
from gpt2.model import GPT
from runner.training.compilation import compile_model
from tests.conftest import Settings

OFF = torch.autocast("cpu", torch.bfloat16, enabled=False)


@pytest.mark.parametrize(
    ("scope", "chunk"),
    [
        (CompileScope.blocks_and_head, "512"),
        (CompileScope.blocks_and_head, "null"),
        pytest.param(CompileScope.blocks, "null", marks=pytest.mark.slow),
        pytest.param(CompileScope.model, "null", marks=pytest.mark.slow),
    ],
)
def test_the_first_step_compiles_nothing_and_has_the_eager_gradients(
    settings: Settings, scope: CompileScope, chunk: str
) -> None:
    config = settings("+stage=step07", f"model.loss_chunk_tokens={chunk}")
    eager, compiled = GPT(config.model, seed=1), GPT(config.model, seed=1)
    assert compile_model(compiled, replace(config.train, compile_scope=scope), 2, OFF) is None
    idx, targets = torch.randint(50257, (2, 2, 32), generator=torch.Generator().manual_seed(1))
    try:
        losses = []
        for model, stance in ((eager, nullcontext()), (compiled, _no_compilation())):
            with stance:
                loss = model(idx, targets)[1]
                loss.backward()
            losses.append(loss)
        torch.testing.assert_close(*losses, atol=1e-5, rtol=1e-5)
        for a, b in zip(eager.parameters(), compiled.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-3)
    finally:
        torch.compiler.reset()


def _no_compilation() -> object:
    return torch.compiler.set_stance("fail_on_recompile")
