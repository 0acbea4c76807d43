"""Each flow check passes for a correct model and fails for the error that it tests for."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from gpt2.config import Attention, GPTConfig, Init, Norm
from gpt2.model import GPT
from runner.observations import FlowCheck
from runner.training.flow_checks import CHECKS, check_flow

CONFIG = GPTConfig(
    name="flow", n_layer=2, n_head=2, n_embd=32, context_length=16, vocab_size=50257,
    pad_vocab=False, norm=Norm.none, residual=False, attention=Attention.manual, init=Init.torch,
    gain=1.0, loss_chunk_tokens=None,
)  # fmt: skip
_, FIRST_LOSS, CAUSALITY, GRADIENTS, LEARNING = CHECKS


def checks(model: GPT) -> dict[str, FlowCheck]:
    tokens = torch.arange(34).view(2, 17) * 7
    return {check.name: check for check in check_flow(model, tokens[:, :-1], tokens[:, 1:])}


@pytest.mark.parametrize("attention", list(Attention))
def test_the_plain_model_passes_all_five_and_is_not_changed(attention: Attention) -> None:
    model = GPT(replace(CONFIG, attention=attention), seed=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    results = checks(model)
    assert len(results) == 5
    assert all(check.passed for check in results.values()), results
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(p.grad is None for p in model.parameters())


class Faulty(GPT):
    """A model of another configuration, or whose loss is changed."""

    def __init__(self, change: Any = None, **config: Any) -> None:
        super().__init__(replace(CONFIG, **config), seed=1)
        self.change = change

    def forward(self, idx_BT: Any, targets_BT: Any = None) -> Any:
        logits, loss = super().forward(idx_BT, targets_BT)
        return logits, self.change(loss) if self.change and loss is not None else loss


class Blind(Faulty):
    def __init__(self) -> None:
        super().__init__()
        nn.init.zeros_(self.h[0].attn.c_proj.weight)


class Spare(Faulty):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Parameter(torch.ones(3))


@pytest.mark.parametrize(
    ("name", "build", "detail"),
    [
        (CAUSALITY, partial(Faulty, norm=Norm.batch), "batch norm"),
        (CAUSALITY, Blind, "no token changes"),
        (GRADIENTS, Spare, "spare"),
        (FIRST_LOSS, partial(Faulty, init=Init.gpt2, norm=Norm.layer, gain=100.0), "too high"),
        (FIRST_LOSS, partial(Faulty, lambda loss: loss * 0.5), "too low"),
        (LEARNING, partial(Faulty, lambda loss: loss.detach() + 0 * loss), "only"),
    ],
)
def test_a_fault_fails_its_check(name: str, build: Callable[[], GPT], detail: str) -> None:
    check = checks(build())[name]
    assert not check.passed
    assert detail in check.detail


def test_attention_without_its_mask_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "masked_fill", lambda scores, mask, value: scores)
    assert not checks(GPT(CONFIG, seed=1))[CAUSALITY].passed


def test_what_has_no_embedding_is_not_checked_for_the_future(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(GPT, "token_embedding", lambda model: None)
    check = checks(GPT(CONFIG, seed=1))[CAUSALITY]
    assert check.passed
    assert check.detail.startswith("not checked")
