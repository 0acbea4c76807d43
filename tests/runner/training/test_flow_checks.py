"""Each flow check passes for a correct model and fails for the error that it tests for."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gpt2.config import Activation, Attention, GPTConfig, Init, Norm, Positions
from gpt2.model import GPT
from runner.observations import FlowCheck
from runner.training.flow_checks import CHECKS, check_flow

CONFIG = GPTConfig(
    name="flow", n_layer=2, n_head=2, n_embd=32, context_length=16, vocab_size=509,
    pad_vocab=False, norm=Norm.none, residual=False, attention=Attention.manual, init=Init.torch,
    gain=1.0, dropout=0.0, loss_chunk_tokens=None, positions=Positions.learned, qk_norm=False,
    activation=Activation.gelu, bias=True, zero_init=False, tie_word_embeddings=True,
    logit_softcap=None,
)  # fmt: skip
TOKENS = torch.arange(34).view(2, 17) * 7
BATCH = TOKENS[:, :-1], TOKENS[:, 1:]
_, FIRST_LOSS, CAUSALITY, GRADIENTS, LEARNING = CHECKS


def check(model: GPT, name: str) -> FlowCheck:
    return next(found for found in check_flow(model, *BATCH) if found.name == name)


@pytest.mark.parametrize("attention", list(Attention))
def test_the_plain_model_passes_all_five_and_is_not_changed(attention: Attention) -> None:
    model = GPT(replace(CONFIG, attention=attention), seed=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    results = list(check_flow(model, *BATCH))
    assert len(results) == 5
    assert all(found.passed for found in results), results
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(p.grad is None for p in model.parameters())


def test_dropout_is_no_fault_and_hides_none() -> None:
    model = GPT(replace(CONFIG, dropout=0.8, attention=Attention.flash), seed=1)
    assert all(found.passed for found in check_flow(model, *BATCH))
    assert all(module.training for module in model.modules())
    nn.init.zeros_(model.wte.weight)
    assert "no token changes the logits" in check(model, CAUSALITY).detail


def test_layers_behind_one_that_starts_at_zero_get_their_gradient_after_a_step() -> None:
    zero = replace(CONFIG, zero_init=True, residual=True, norm=Norm.layer, init=Init.gpt2)
    model = GPT(zero, seed=1)
    results = list(check_flow(model, *BATCH))
    assert all(found.passed for found in results), results
    model.h[0].attn.c_proj.register_forward_hook(lambda _, __, output: 0 * output)
    assert "attn.c_attn.weight" in check(model, GRADIENTS).detail


def test_a_leak_behind_a_layer_that_starts_at_zero_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gpt2.model.attention_weights", lambda q, k: (q @ k.mT).softmax(-1))
    zero = replace(CONFIG, zero_init=True, residual=True, norm=Norm.layer, init=Init.gpt2)
    assert "a later token changes" in check(GPT(zero, seed=1), CAUSALITY).detail


def blind(model: GPT) -> None:
    nn.init.zeros_(model.h[0].attn.c_proj.weight)


def spare(model: GPT) -> None:
    model.spare = nn.Parameter(torch.ones(3))


def with_loss(change: Callable[[Tensor], Tensor]) -> Callable[[GPT], object]:
    def changed(module: nn.Module, args: object, output: Any) -> Any:
        return output[0], output[1] if output[1] is None else change(output[1])

    return lambda model: model.register_forward_hook(changed)


@pytest.mark.parametrize(
    ("name", "change", "config", "detail"),
    [
        (CAUSALITY, None, {"norm": Norm.batch}, "batch norm"),
        (CAUSALITY, blind, {}, "no token changes"),
        (GRADIENTS, spare, {}, "spare"),
        (FIRST_LOSS, None, {"init": Init.gpt2, "norm": Norm.layer, "gain": 100.0}, "too high"),
        (FIRST_LOSS, with_loss(lambda loss: loss * 0.5), {}, "too low"),
        (LEARNING, with_loss(lambda loss: loss.detach() + 0 * loss), {}, "only"),
    ],
)
def test_a_fault_fails_its_check(
    name: str, change: Callable[[GPT], object] | None, config: dict[str, Any], detail: str
) -> None:
    model = GPT(replace(CONFIG, **config), seed=1)
    if change:
        change(model)
    found = check(model, name)
    assert not found.passed
    assert detail in found.detail


def test_a_parameter_that_one_sequence_does_not_use_gets_its_gradient_from_another() -> None:
    model = GPT(CONFIG, seed=1)
    spare(model)

    def routed(module: nn.Module, args: Any, output: Any) -> Any:
        loss = output[1]
        return output if loss is None or len(args[0]) < 2 else (None, loss + model.spare.sum())

    model.register_forward_hook(routed)
    assert check(model, GRADIENTS).passed


def test_attention_without_its_mask_fails_and_what_has_no_embedding_is_not_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.Tensor, "masked_fill", lambda scores, mask, value: scores)
    assert not check(GPT(CONFIG, seed=1), CAUSALITY).passed
    monkeypatch.setattr(GPT, "token_embedding", lambda model: None)
    found = check(GPT(CONFIG, seed=1), CAUSALITY)
    assert found.passed
    assert found.detail.startswith("not checked")
