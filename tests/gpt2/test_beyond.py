"""What stages beyond the guide change in the model, against transformers and written out."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import (
    LlamaMLP,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
)
from transformers.models.qwen3.configuration_qwen3 import Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention

from gpt2.config import Activation, Attention, Init, Norm, Positions
from gpt2.huggingface import ACTIVATIONS, to_huggingface
from gpt2.model import GPT, MLP, RMSNorm, Rotary
from tests.gpt2.test_model import STEP05, STEP07, batch

ROTARY = replace(STEP07, positions=Positions.rotary)
UNTIED = replace(STEP07, tie_word_embeddings=False, pad_vocab=True)


def test_rotary_positions_are_those_of_llama() -> None:
    turn = Rotary(48, 16)
    turn.reset_parameters()
    q, k = torch.randn(2, 2, 4, 24, 16, generator=torch.Generator().manual_seed(1))
    config = LlamaConfig(hidden_size=64, num_attention_heads=4, max_position_embeddings=48)
    cos, sin = LlamaRotaryEmbedding(config)(q, torch.arange(24)[None])
    theirs = apply_rotary_pos_emb(q, k, cos, sin)
    torch.testing.assert_close((turn(q), turn(k)), theirs, atol=1e-6, rtol=1e-6)


def test_rotary_attention_depends_on_distance_alone_and_there_is_no_other_position() -> None:
    attn = GPT(ROTARY, seed=1).h[0].attn
    x = torch.randn(1, 1, 64).expand(1, 40, 64)
    q, k, _ = attn.queries_keys_values(x)
    scores = (q @ k.transpose(-2, -1))[0, 0]
    for distance in (0, 3, 20):
        along = scores.diagonal(-distance)
        torch.testing.assert_close(along, along[:1].expand_as(along), atol=1e-6, rtol=1e-4)
    assert not torch.allclose(scores[30, 30], scores[30, 10], atol=1e-4)
    assert not [name for name in GPT(ROTARY, seed=1).state_dict() if "wpe" in name]


def test_attention_with_normalised_queries_and_keys_is_qwen3s() -> None:
    config = Qwen3Config(
        hidden_size=64, num_attention_heads=4, num_key_value_heads=4, head_dim=16,
        attention_bias=True, rms_norm_eps=1e-6, rope_theta=10_000.0, attn_implementation="eager",
    )  # fmt: skip
    theirs = Qwen3Attention(config, layer_idx=0)
    turning = replace(ROTARY, qk_norm=True, init=Init.torch, attention=Attention.manual)
    ours = GPT(turning, seed=1).h[0].attn
    for norm in (ours.q_norm, ours.k_norm):
        nn.init.normal_(norm.weight, 1.0, 0.2)
    state = ours.state_dict()
    for name in ("weight", "bias"):
        parts = zip("qkv", state[f"c_attn.{name}"].chunk(3), strict=True)
        state |= {f"{part}_proj.{name}": value for part, value in parts}
        state[f"o_proj.{name}"] = state.pop(f"c_proj.{name}")
        del state[f"c_attn.{name}"]
    theirs.load_state_dict({"o_proj.bias": torch.zeros(64), **state})
    x = torch.randn(2, 24, 64)
    angles = LlamaRotaryEmbedding(config)(x, torch.arange(24)[None])
    mask = torch.full((24, 24), -math.inf).triu(1)[None, None]
    torch.testing.assert_close(ours(x), theirs(x, angles, mask)[0], atol=1e-5, rtol=1e-5)


def test_rms_norm_is_llamas_and_stays_in_fp32_under_autocast() -> None:
    ours, theirs = RMSNorm(16), LlamaRMSNorm(16, eps=1e-6)
    x = 1e-3 * torch.randn(4, 16)  # so small that the epsilon counts
    torch.testing.assert_close(ours(x), theirs(x))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(ours(x.bfloat16()), ours(x.bfloat16().float()))


def test_swiglu_is_llamas_mlp_and_has_about_as_many_parameters() -> None:
    for width in (64, 128, 768):
        config = replace(STEP07, n_embd=width, activation=Activation.swiglu)
        ours, plain = MLP(config), MLP(replace(config, activation=Activation.gelu))
        hidden = ours.c_proj.in_features
        theirs = LlamaMLP(LlamaConfig(hidden_size=width, intermediate_size=hidden, mlp_bias=True))
        for name in ("weight", "bias"):
            gate, up = getattr(ours.c_fc, name).detach().chunk(2)
            setattr(theirs.gate_proj, name, nn.Parameter(gate))
            setattr(theirs.up_proj, name, nn.Parameter(up))
            setattr(theirs.down_proj, name, getattr(ours.c_proj, name))
        x = torch.randn(3, width)
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-6, rtol=1e-5)
        ours_count, plain_count = (sum(p.numel() for p in m.parameters()) for m in (ours, plain))
        assert ours_count == pytest.approx(plain_count, rel=0.03)


def test_the_capped_loss_is_written_out_whatever_the_pieces_and_the_smoothing() -> None:
    capped = replace(UNTIED, logit_softcap=2.0, init=Init.torch, loss_chunk_tokens=7)
    model, plain = GPT(capped, seed=1), GPT(replace(capped, logit_softcap=None), seed=1)
    idx, targets = batch()
    expected = 2.0 * torch.tanh(plain(idx)[0] / 2.0)
    torch.testing.assert_close(model(idx)[0], expected)
    assert model(idx)[0].abs().max() < 2.0
    loss = F.cross_entropy(expected.flatten(0, 1), targets.flatten())
    torch.testing.assert_close(model(idx, targets)[1], loss)
    torch.testing.assert_close(model(idx, targets, label_smoothing=0.1)[1], loss)


def test_an_untied_head_has_its_own_weights_and_padded_rows_without_a_token() -> None:
    model, plain = GPT(UNTIED, seed=1), GPT(replace(UNTIED, pad_vocab=False), seed=1)
    assert model.lm_head.weight.shape == (50304, 64)
    assert not torch.equal(model.lm_head.weight, model.wte.weight)
    assert torch.equal(model.lm_head.weight[:50257], plain.lm_head.weight)
    glorot = [GPT(replace(each.config, init=Init.xavier), seed=1) for each in (model, plain)]
    assert torch.equal(glorot[0].lm_head.weight[:50257], glorot[1].lm_head.weight)
    assert model.lm_head.weight[50257:].std().item() == pytest.approx(0.02, rel=0.05)
    inputs = batch()
    assert model(inputs[0])[0].shape[-1] == 50304
    model.eval(), plain.eval()
    assert model(inputs[0])[0].shape[-1] == 50257
    torch.testing.assert_close(model(*inputs)[1], plain(*inputs)[1])
    model.train()(*inputs)[1].backward()
    assert model.lm_head.weight.grad.any()
    assert model.wte.weight.grad[inputs[0]].any()
    assert not model.wte.weight.grad[50257:].any()


@pytest.mark.parametrize("norm", list(Norm))
def test_without_biases_there_is_none_and_nothing_else_changes(norm: Norm) -> None:
    config = replace(STEP07, norm=norm)
    model, plain = GPT(replace(config, bias=False), seed=1), GPT(config, seed=1)
    assert [name for name, _ in model.named_parameters() if "bias" in name] == []
    without = {name for name, _ in plain.named_parameters() if "bias" not in name}
    assert {name for name, _ in model.named_parameters()} == without
    # GPT-2's biases start at zero, so the untrained models are the same.
    torch.testing.assert_close(model(*batch())[1], plain(*batch())[1])


@pytest.mark.parametrize("init", list(Init))
def test_projections_that_start_at_zero_leave_the_residual_stream_alone(init: Init) -> None:
    model = GPT(replace(STEP07, zero_init=True, init=init), seed=1)
    outputs: list[Tensor] = []
    for module in (model.drop, model.h[-1]):
        module.register_forward_hook(lambda _, __, output: outputs.append(output))
    model(batch()[0])
    assert torch.equal(*outputs)
    assert model.h[0].mlp.c_fc.weight.any()


@pytest.mark.parametrize(
    "change",
    [
        {"positions": Positions.rotary}, {"tie_word_embeddings": False}, {"bias": False},
        {"activation": Activation.swiglu}, {"qk_norm": True, "norm": Norm.rms},
    ],
    ids=str,
)  # fmt: skip
def test_flops_are_those_of_torchs_own_counter(change: dict[str, Any]) -> None:
    model = GPT(replace(STEP05, **change), seed=1)
    idx, targets = batch(shape=(2, 48))
    with FlopCounterMode(display=False) as counter:
        model(idx, targets)[1].backward()
    ours = model.flops_per_token(48) * idx.numel()
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.02)


@pytest.mark.parametrize(
    "change", [{"activation": Activation.relu2}, {"tie_word_embeddings": False}], ids=str
)
def test_transformers_computes_what_its_gpt2_can_hold(change: dict[str, Any]) -> None:
    config = replace(STEP05, **change, init=Init.torch, gain=0.2, pad_vocab=True)
    model = GPT(config, seed=3).eval()
    reference = GPT2LMHeadModel(
        GPT2Config(
            n_layer=3, n_head=4, n_embd=64, n_positions=48, vocab_size=50257,
            activation_function=ACTIVATIONS[config.activation],
            tie_word_embeddings=config.tie_word_embeddings,
        )
    ).eval()  # fmt: skip
    reference.load_state_dict(to_huggingface(model))
    idx, _ = batch()
    torch.testing.assert_close(model(idx)[0], reference(idx).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ({"positions": Positions.rotary, "qk_norm": True}, "positions and plain queries and keys"),
        ({"norm": Norm.rms}, "layer norm"), ({"bias": False}, "biases"),
        ({"activation": Activation.swiglu}, "gate"), ({"logit_softcap": 30.0}, "cap"),
    ],
    ids=str,
)  # fmt: skip
def test_what_hugging_faces_gpt2_cannot_hold_is_named(change: dict[str, Any], missing: str) -> None:
    with pytest.raises(ValueError, match=missing):
        to_huggingface(GPT(replace(STEP07, **change), seed=1))
