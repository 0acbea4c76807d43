"""A look measures what it says, changes nothing, and sees the faults that it is for."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt2.config import Norm
from gpt2.language_model import LanguageModel
from gpt2.model import GPT
from runner.observations import Inspection
from runner.training.diagnosis import Diagnosis, inspect
from tests.runner.conftest import Runs
from tests.runner.training.test_flow_checks import BATCH, CONFIG

HEALTHY = replace(CONFIG, norm=Norm.layer, residual=True)
FIRST_OF_MLP = ("h.1.mlp.c_fc.weight", "h.1.mlp.c_fc.bias")
NO_AUTOCAST = torch.autocast("cpu", enabled=False)


@pytest.fixture
def model() -> GPT:
    return GPT(HEALTHY, seed=1)


def look(model: LanguageModel, **changed: Tensor) -> Inspection:
    idx, targets = BATCH
    given = {"idx_BT": idx, "targets_BT": targets, **changed}
    return inspect(model, NO_AUTOCAST, 0, **given)[0]


def test_signal_and_gradient_are_those_of_the_layers(model: GPT) -> None:
    found = look(model)
    idx, targets = BATCH[0][:1], BATCH[1][0, :8]
    x = model.wte(idx) + model.wpe(torch.arange(16))
    outputs = []
    for block in model.h:
        x = block(x)
        outputs.append(x)
    outputs.append(model.ln_f(x))
    loss = F.cross_entropy((outputs[-1] @ model.wte.weight.T)[0, :8], targets)
    gradients = torch.autograd.grad(loss, [*outputs, *model.parameters()])
    assert [layer.name for layer in found.layers] == ["h.0", "h.1", "ln_f"]
    for layer, output, gradient in zip(found.layers, outputs, gradients, strict=False):
        over_positions = output[0].std(dim=0).square().mean().sqrt().item()
        assert layer.activation == pytest.approx(over_positions, rel=1e-4)
        rms = gradient.square().mean().sqrt().item()
        assert layer.gradient == pytest.approx(rms, rel=1e-3)
    norm = math.sqrt(sum(g.square().sum().item() for g in gradients[len(outputs) :]))
    assert found.grad_norm == pytest.approx(norm, rel=1e-4)


def test_a_look_changes_nothing() -> None:
    model = GPT(replace(HEALTHY, norm=Norm.batch), seed=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    draws = torch.get_rng_state()
    diagnosis = Diagnosis(model, model, NO_AUTOCAST)
    diagnosis.finish(diagnosis.look(0, *BATCH), 1.0)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(draws, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("norm", list(Norm))
def test_only_batch_norm_sees_the_future(norm: Norm) -> None:
    later = look(GPT(replace(HEALTHY, norm=norm), seed=1)).later
    assert later is not None
    assert (later > 0) == (norm is Norm.batch)


def test_dead_units_are_counted(model: GPT) -> None:
    assert look(model).dead_units == 0
    model.h[1].mlp.c_fc.bias.data[:32] = -50  # a quarter of 128
    assert look(model).dead_units == 0.25


@pytest.mark.parametrize(("left_out", "scale"), [((), 1), (FIRST_OF_MLP, 2)])
def test_the_update_is_that_of_the_step(model: GPT, left_out: tuple[str, ...], scale: int) -> None:
    """A step of SGD on two micro batches, of `scale` times their mean, without some parameters."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trained = [p for name, p in model.named_parameters() if name not in left_out]
    diagnosis = Diagnosis(model, model, NO_AUTOCAST)
    found = diagnosis.look(0, *BATCH)
    for _ in range(2):
        (scale * model(*BATCH)[1] / 2).backward()
    torch.optim.SGD(trained, lr=0.1).step()
    diagnosis.finish(found, 1.0)
    matrices = {name: p for name, p in model.named_parameters() if p.dim() > 1}
    ratios = [(p - before[name]).norm() / before[name].norm() for name, p in matrices.items()]
    middle = torch.stack(ratios).median().item()
    assert found.update == pytest.approx(middle, rel=0.05)  # matrices are compared in samples
    assert found.frozen == list(left_out)
    assert found.weight == pytest.approx(scale)


def test_targets_are_compared_with_the_input(model: GPT) -> None:
    idx, targets = BATCH
    right, same = look(model), look(model, targets_BT=idx)
    assert (right.shifted, right.copied) == (1.0, 0.0)
    assert (same.shifted, same.copied) == (0.0, 1.0)
    assert right.batch == same.batch != look(model, idx_BT=targets).batch
    alone = look(model, idx_BT=idx[:, :1], targets_BT=targets[:, :1])  # no next token to compare
    assert alone.shifted == 1.0


@pytest.mark.slow
def test_looks_see_a_model_that_is_compiled_as_a_whole(runs: Runs) -> None:
    """Their hooks are added after it was compiled, and again before a later step."""
    plain = ("+stage=step07", "train.steps=6", "evaluation.every=4")
    compiled, _ = runs(*plain, "train.compile_scope=model")
    eager, _ = runs(*plain, "train.compile=false")
    assert "torch.compile" in compiled.applied
    assert [look.step for look in compiled.looks] == [0, 4, 5]
    for found, expected in zip(compiled.looks, eager.looks, strict=True):
        assert len(found.layers) == 3
        for layer, same in zip(found.layers, expected.layers, strict=True):
            assert layer.activation == pytest.approx(same.activation, rel=1e-4)
            assert layer.gradient == pytest.approx(same.gradient, rel=1e-3)
        assert found.update == pytest.approx(expected.update, rel=1e-2)
        assert found.weight == expected.weight == 1.0


class Custom(LanguageModel):
    vocab_size, context_length = 50257, 16

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50257, 8)

    def forward(self, idx_BT: Tensor, targets_BT: Tensor | None = None) -> tuple[Tensor, None]:
        return self.logits(idx_BT), None


class InPlace(Custom):
    """A norm behind the blocks, as in many models, and an embedding that is changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(16, 8))
        self.blocks_of_it = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 50257)
        self.embedding.requires_grad_(False)

    def logits(self, idx_BT: Tensor) -> Tensor:
        x_BTC = self.embedding(idx_BT)
        x_BTC += self.places[: idx_BT.shape[1]]
        for block in self.blocks_of_it:
            x_BTC = x_BTC + block(x_BTC)
        return self.head(self.norm(x_BTC))


def test_the_last_signal_is_what_the_head_is_given() -> None:
    model = InPlace()
    found = look(model)
    names = ["blocks_of_it.0", "blocks_of_it.1", "input of the head"]
    assert [layer.name for layer in found.layers] == names
    x_TC = model.embedding(BATCH[0][0]) + model.places
    for block in model.blocks_of_it:
        x_TC = x_TC + block(x_TC)
    signal = model.norm(x_TC).std(dim=0).square().mean().sqrt().item()
    assert found.layers[-1].activation == pytest.approx(signal, rel=1e-4)
    assert found.later == 0.0


class Odd(Custom):
    """Layers that give tuples, indices and nothing; a linear layer called by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(8, 8, batch_first=True)
        self.unused = nn.Linear(8, 8)
        self.indices = nn.Flatten()
        self.head = nn.Linear(8, 50257)

    def logits(self, idx_BT: Tensor) -> Tensor:
        x_BTC = self.rnn(self.embedding(self.indices(idx_BT)))[0]
        return self.head(input=F.dropout(x_BTC, 0.5))


def test_a_model_of_another_kind_is_looked_into_as_far_as_it_can_be() -> None:
    model = Odd()
    draws = torch.get_rng_state()
    found = look(model)
    assert torch.equal(draws, torch.get_rng_state())
    assert [layer.name for layer in found.layers] == ["embedding", "rnn", "input of the head"]
    assert (found.later, found.dead_units) == (0.0, 0.0)
