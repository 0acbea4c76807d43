"""Each flow check passes for a correct model and fails for the error that it tests for."""

from dataclasses import replace

import pytest
import torch

from gpt2.config import Attention, GPTConfig, Init, Norm
from gpt2.model import GPT
from runner.observations import FlowCheck
from runner.training.flow_checks import check_flow

CONFIG = GPTConfig(
    name="flow",
    n_layer=2,
    n_head=2,
    n_embd=32,
    context_length=16,
    vocab_size=50257,
    pad_vocab=False,
    norm=Norm.none,
    residual=False,
    attention=Attention.manual,
    init=Init.torch,
    gain=1.0,
    loss_chunk_tokens=None,
)


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


def test_batch_norm_fails_the_causality_check() -> None:
    check = checks(GPT(replace(CONFIG, norm=Norm.batch), seed=1))["no token sees the future"]
    assert not check.passed
    assert "batch norm" in check.detail


def test_attention_without_its_mask_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "masked_fill", lambda scores, mask, value: scores)
    assert not checks(GPT(CONFIG, seed=1))["no token sees the future"].passed


def test_a_model_that_ignores_its_input_fails() -> None:
    model = GPT(CONFIG, seed=1)
    torch.nn.init.zeros_(model.h[0].attn.c_proj.weight)
    check = checks(model)["no token sees the future"]
    assert not check.passed
    assert "no token changes" in check.detail


def test_a_parameter_that_gets_no_gradient_is_named() -> None:
    model = GPT(CONFIG, seed=1)
    model.spare = torch.nn.Parameter(torch.ones(3))
    check = checks(model)["every parameter gets a gradient"]
    assert not check.passed
    assert "spare" in check.detail


def test_a_wide_initialisation_and_a_leak_of_the_targets_have_different_messages() -> None:
    wide = checks(GPT(replace(CONFIG, init=Init.gpt2, norm=Norm.layer, gain=100.0), seed=1))
    check = wide["the first loss is near ln(vocabulary)"]
    assert not check.passed
    assert "too high" in check.detail

    class Cheat(GPT):
        def forward(self, idx_BT, targets_BT=None):  # type: ignore[no-untyped-def]
            logits, loss = super().forward(idx_BT, targets_BT)
            return logits, loss if loss is None else loss * 0.5

    check = checks(Cheat(CONFIG, seed=1))["the first loss is near ln(vocabulary)"]
    assert not check.passed
    assert "too low" in check.detail


def test_a_model_that_cannot_learn_fails() -> None:
    class Frozen(GPT):
        def forward(self, idx_BT, targets_BT=None):  # type: ignore[no-untyped-def]
            logits, loss = super().forward(idx_BT, targets_BT)
            return logits, loss if loss is None else loss + 0 * loss - (loss - loss.detach())

    assert not checks(Frozen(CONFIG, seed=1))["one small batch can be overfitted"].passed
