"""The model against transformers' GPT-2, closed forms, and other configurations of itself."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, GPT2LMHeadModel

from gpt2.config import Activation, Attention, GPTConfig, Init, Norm, Positions
from gpt2.huggingface import to_huggingface
from gpt2.initialisation import generator_for
from gpt2.model import GPT

STEP05 = GPTConfig(
    name="small", n_layer=3, n_head=4, n_embd=64, context_length=48, vocab_size=50257,
    pad_vocab=False, norm=Norm.layer, residual=True, attention=Attention.manual, init=Init.gpt2,
    gain=1.0, dropout=0.0, loss_chunk_tokens=None, positions=Positions.learned, qk_norm=False,
    activation=Activation.gelu, bias=True, zero_init=False, tie_word_embeddings=True,
    logit_softcap=None,
)  # fmt: skip
STEP07 = replace(STEP05, attention=Attention.flash)
BASELINE = replace(STEP05, norm=Norm.none, residual=False, init=Init.torch)


def batch(seed: int = 0, shape: tuple[int, int] = (2, 24)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 50257, (shape[0], shape[1] + 1), generator=generator)
    return tokens[:, :-1], tokens[:, 1:]


@pytest.mark.parametrize(
    "config", [STEP05, STEP07, replace(STEP07, pad_vocab=True)], ids=["manual", "flash", "padded"]
)
def test_transformers_computes_our_logits_and_loss_from_our_weights(config: GPTConfig) -> None:
    # An initialisation in which no bias is zero.
    model = GPT(replace(config, init=Init.torch, gain=0.2), seed=3).eval()
    sizes = {"n_layer": 3, "n_head": 4, "n_embd": 64, "n_positions": 48, "vocab_size": 50257}
    reference = GPT2LMHeadModel(GPT2Config(**sizes)).eval()
    reference.load_state_dict(to_huggingface(model))
    idx, _ = batch()
    with torch.no_grad():
        theirs = reference(idx, labels=idx)
        torch.testing.assert_close(model(idx)[0], theirs.logits, atol=1e-4, rtol=0)
        ours = model(idx[:, :-1], idx[:, 1:])[1]
        torch.testing.assert_close(ours, theirs.loss, atol=1e-5, rtol=0)


def test_a_model_without_residual_has_no_hugging_face_equivalent() -> None:
    with pytest.raises(ValueError, match="residual"):
        to_huggingface(GPT(BASELINE, seed=1))


@pytest.mark.parametrize("norm", list(Norm))
@pytest.mark.parametrize("residual", [True, False])
def test_flash_attention_computes_what_manual_attention_does(norm: Norm, residual: bool) -> None:
    models = [GPT(replace(each, norm=norm, residual=residual), seed=1) for each in (STEP05, STEP07)]
    manual, flash = (model(*batch())[1] for model in models)
    torch.testing.assert_close(manual, flash, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("chunk", [3, 7, 512])
def test_the_loss_in_chunks_is_the_loss_with_all_its_gradients(chunk: int, training: bool) -> None:
    whole = GPT(replace(STEP07, pad_vocab=True), seed=1).train(training)
    chunked = GPT(replace(STEP07, pad_vocab=True, loss_chunk_tokens=chunk), seed=1).train(training)
    losses = [model(*batch())[1] for model in (whole, chunked)]
    torch.testing.assert_close(*losses)
    (sum(losses) / 3).backward()
    for expected, found in zip(whole.parameters(), chunked.parameters(), strict=True):
        torch.testing.assert_close(expected.grad, found.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("chunk", "padded"), [(None, False), (7, True)])
def test_label_smoothing_has_torchs_gradients_and_the_plain_loss(chunk: int, padded: bool) -> None:
    config = replace(STEP07, pad_vocab=padded, loss_chunk_tokens=chunk)
    plain, smoothed, reference = (GPT(config, seed=1) for _ in range(3))
    idx, targets = batch()
    loss = smoothed(idx, targets, label_smoothing=0.1)[1]
    assert loss.item() == pytest.approx(plain(idx, targets)[1].item(), rel=1e-6)
    loss.backward()
    # The padded rows are in the softmax, but no target has a share of them.
    shares = torch.full((targets.numel(), config.padded_vocab_size), 0.1 / 50257)
    shares[:, 50257:] = 0
    shares[torch.arange(targets.numel()), targets.flatten()] += 0.9
    torch.nn.functional.cross_entropy(reference(idx)[0].flatten(0, 1), shares).backward()
    for expected, found in zip(reference.parameters(), smoothed.parameters(), strict=True):
        torch.testing.assert_close(expected.grad, found.grad, atol=1e-6, rtol=1e-4)


def test_dropout_is_that_of_hugging_faces_gpt2_and_is_off_in_evaluation() -> None:
    model = GPT(replace(STEP05, dropout=0.3), seed=1)
    sizes = {"n_layer": 3, "n_head": 4, "n_embd": 64, "n_positions": 48, "vocab_size": 50257}
    shares = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.3)
    reference = GPT2LMHeadModel(GPT2Config(**sizes, **shares, attn_implementation="eager"))
    reference.load_state_dict(to_huggingface(model))
    idx, _ = batch()
    for training in (True, False):
        logits = []
        for each in (model.train(training), reference.train(training)):
            torch.manual_seed(5)
            out = each(idx)
            logits.append(out[0] if each is model else out.logits)
        torch.testing.assert_close(*logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(model(idx)[0], GPT(STEP05, seed=1).eval()(idx)[0])


def test_flash_attention_drops_as_large_a_share_as_attention_by_hand() -> None:
    torch.manual_seed(1)
    scales = []
    for config in (STEP05, STEP07):
        attn = GPT(replace(config, dropout=0.5), seed=1).h[0].attn
        x = torch.randn(64, 24, 64)
        attn.c_proj.weight.data = torch.eye(64)
        scales.append(attn(x).std().item() / attn.eval()(x).std().item())
    assert scales[0] == pytest.approx(scales[1], rel=0.05)


def test_padded_rows_have_no_logit_in_evaluation_and_little_weight_in_training() -> None:
    plain, padded = GPT(STEP07, seed=1), GPT(replace(STEP07, pad_vocab=True), seed=1)
    inputs = batch()
    assert padded(inputs[0])[0].shape[-1] == 50304 == 393 * 128
    # 47 more rows in a softmax of near-equal logits add about ln(50304 / 50257).
    difference = (padded(*inputs)[1] - plain(*inputs)[1]).item()
    assert difference == pytest.approx(math.log(50304 / 50257), rel=0.05)
    plain.eval(), padded.eval()
    assert padded(inputs[0])[0].shape[-1] == 50257
    torch.testing.assert_close(padded(*inputs)[1], plain(*inputs)[1])


@pytest.mark.parametrize(
    "change",
    [
        {"pad_vocab": True}, {"n_layer": 5}, {"norm": Norm.layer, "residual": True},
        {"norm": Norm.rms}, {"attention": Attention.flash}, {"positions": Positions.rotary},
        {"qk_norm": True}, {"activation": Activation.relu2}, {"bias": False},
        {"tie_word_embeddings": False}, {"logit_softcap": 30.0},
    ],
    ids=str,
)  # fmt: skip
def test_a_change_does_not_alter_the_values_of_shared_parameters(change: dict[str, Any]) -> None:
    before = GPT(BASELINE, seed=7).state_dict()
    after = GPT(replace(BASELINE, **change), seed=7).state_dict()
    assert before.keys() & after.keys()
    for name in before.keys() & after.keys():
        rows = min(len(before[name]), len(after[name]))
        assert torch.equal(before[name][:rows], after[name][:rows]), name


def test_seeds_and_names_give_different_draws() -> None:
    generators = [generator_for(seed, name) for seed in (1, 2) for name in ("a", "b")]
    assert len({tuple(torch.randn(64, generator=each).tolist()) for each in generators}) == 4


@pytest.mark.parametrize("init", list(Init))
def test_each_initialisation_has_the_spread_its_paper_states(init: Init) -> None:
    config = replace(STEP05, init=init, gain=2.0, n_embd=256)
    model = GPT(config, seed=1)
    weight = model.h[0].mlp.c_fc.weight
    fan_out, fan_in = weight.shape
    expected = {
        Init.torch: 1 / math.sqrt(3 * fan_in), Init.gpt2: 0.02,
        Init.xavier: math.sqrt(2 / (fan_in + fan_out)), Init.kaiming: math.sqrt(2 / fan_in),
    }[init]  # fmt: skip
    assert weight.std().item() == pytest.approx(2.0 * expected, rel=0.02)
    projection = model.h[0].mlp.c_proj.weight.std().item()
    if init is Init.gpt2:
        assert projection == pytest.approx(2.0 * 0.02 / math.sqrt(2 * config.n_layer), rel=0.02)
    if init is not Init.torch:
        assert not model.h[0].mlp.c_fc.bias.any()


def test_torch_initialisation_is_distributed_as_torchs_own_layers() -> None:
    model = GPT(replace(BASELINE, n_embd=256), seed=1)
    ours, theirs = model.h[0].mlp.c_fc, torch.nn.Linear(256, 1024)
    for mine, other in ((ours.weight, theirs.weight), (ours.bias, theirs.bias)):
        assert mine.abs().max().item() == pytest.approx(1 / 16, rel=0.02)
        assert mine.std().item() == pytest.approx(other.std().item(), rel=0.08)
    assert model.wpe.weight.std().item() == pytest.approx(1.0, rel=0.05)


def test_parameters_and_flops_are_those_of_openai_and_of_torchs_own_counter() -> None:
    """torch counts the matrix products of one forward and backward pass; ours are an estimate."""
    with torch.device("meta"):
        gpt2 = GPT(replace(STEP05, n_layer=12, n_head=12, n_embd=768, context_length=1024), seed=1)
    assert gpt2.num_parameters() == 124_439_808
    model = GPT(STEP05, seed=1)
    idx, targets = batch(shape=(2, 48))
    with FlopCounterMode(display=False) as counter:
        model(idx, targets)[1].backward()
    ours = model.flops_per_token(48) * idx.numel()
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.02)
