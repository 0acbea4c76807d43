"""The optimizers and their groups, and the schedules against torch's and transformers' own."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from transformers import get_wsd_schedule

from gpt2.model import GPT
from runner.training.optimizer import build_optimizers, learning_rate
from tests.conftest import Settings


def test_the_schedule_is_torchs_linear_warmup_then_cosine(settings: Settings) -> None:
    train = settings("+stage=step09").train
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=train.learning_rate)
    warmup = LinearLR(optimizer, start_factor=0.1, total_iters=9)
    floor = train.learning_rate * train.min_lr_ratio
    cosine = CosineAnnealingLR(optimizer, T_max=40, eta_min=floor)
    schedule = SequentialLR(optimizer, [warmup, cosine], milestones=[9])
    rates = []
    for _ in range(train.steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert [learning_rate(step, train) for step in range(50)] == pytest.approx(rates, rel=1e-6)
    assert (max(rates), rates[-1]) == pytest.approx((6e-3, 6e-4))


def test_a_run_shorter_than_its_warmup_has_positive_rates(settings: Settings) -> None:
    train = settings("+stage=step09").train
    for steps, warmup in ((1, 10), (10, 10), (11, 10), (3, 0)):
        short = replace(train, steps=steps, warmup_steps=warmup)
        assert all(0 < learning_rate(step, short) <= 6e-3 for step in range(steps))


def test_only_matrices_decay_from_step_9_on(settings: Settings) -> None:
    config = settings("+stage=step09")
    model = GPT(config.model, config.seed)
    (adamw,) = build_optimizers(model, config.train)
    decayed, spared = adamw.param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert {p.dim() for p in decayed["params"]} == {2}
    assert {p.dim() for p in spared["params"]} == {1}
    assert len(decayed["params"]) + len(spared["params"]) == len(list(model.parameters()))


def test_the_baselines_optimizer_has_torchs_defaults_and_a_constant_rate(
    settings: Settings,
) -> None:
    config = settings("+stage=step02")
    model = GPT(config.model, config.seed)
    (ours,) = build_optimizers(model, config.train)
    assert ours.defaults == torch.optim.AdamW(model.parameters(), lr=3e-3).defaults
    assert len(ours.param_groups) == 1
    assert {learning_rate(step, config.train) for step in range(50)} == {3e-3}


def test_the_late_cooldown_is_that_of_transformers(settings: Settings) -> None:
    train = settings("+stage=wsd").train
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=train.learning_rate)
    schedule = get_wsd_schedule(
        optimizer, num_warmup_steps=10, num_stable_steps=30, num_decay_steps=10,
        decay_type="1-sqrt", min_lr_ratio=0.1,
    )  # fmt: skip
    theirs = []
    for _ in range(train.steps):
        optimizer.step()
        schedule.step()  # theirs begins with a step at its lowest rate
        theirs.append(optimizer.param_groups[0]["lr"])
    ours = [learning_rate(step, train) for step in range(train.steps)]
    # Our warmup begins at zero, as that of the cosine does, and theirs at the floor.
    assert ours[9:] == pytest.approx(theirs[9:])
    assert ours[:10] == pytest.approx([6e-3 * (step + 1) / 10 for step in range(10)])
    assert (ours[39], ours[-1]) == pytest.approx((6e-3, 6e-4))
    for steps, warmup in ((1, 10), (10, 10), (11, 10), (3, 0)):
        short = replace(train, steps=steps, warmup_steps=warmup)
        assert all(0 < learning_rate(step, short) <= 6e-3 for step in range(steps))
        if steps > warmup:
            assert learning_rate(steps - 1, short) == pytest.approx(6e-4)


def orthogonal(matrix: Tensor) -> Tensor:
    """Jordan et al. (2024): five steps of Newton and Schulz, in the matrix's own dtype."""
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / x.norm()
    for _ in range(5):
        product = x @ x.T
        x = 3.4445 * x + (-4.7750 * product + 2.0315 * product @ product) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def test_muon_takes_its_own_steps_on_matrices_of_blocks_and_adamw_on_all_else(
    settings: Settings,
) -> None:
    config = settings("+stage=muon")
    model = GPT(config.model, config.seed)
    muon, adamw = build_optimizers(model, config.train)
    trained = {p: name for name, p in model.named_parameters()}
    names = [trained[p] for group in muon.param_groups for p in group["params"]]
    parts = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert names == [f"h.{layer}.{part}.weight" for layer in (0, 1) for part in parts]
    assert len(names) + sum(len(g["params"]) for g in adamw.param_groups) == len(trained)
    assert [group["weight_decay"] for group in adamw.param_groups] == [0.1, 0.0]

    generator = torch.Generator().manual_seed(1)
    momentum = {p: torch.zeros_like(p) for group in muon.param_groups for p in group["params"]}
    for step in range(3):
        for group in muon.param_groups:
            group["lr"] = rate = 1e-3 * (step + 1)
        before = {p: p.detach().clone() for p in momentum}
        for p in momentum:
            p.grad = torch.randn(p.shape, generator=generator)
        muon.step()
        for p, kept in momentum.items():
            kept.lerp_(p.grad, 0.05)
            update = p.grad.lerp(kept, 0.95)
            factor = rate * 0.2 * math.sqrt(max(p.shape))
            decayed = before[p] * (1 - rate * 0.1)
            moved = (decayed - p.detach()) / factor
            exact = orthogonal(update.double())
            assert (moved.double() - exact).norm() < 0.03 * exact.norm()
            # In bf16, with the products in the order of torch's own.
            x = update.bfloat16()
            x = x.T if p.shape[0] > p.shape[1] else x
            x = x / x.norm()
            for _ in range(5):
                product = x @ x.T
                product = torch.addmm(product, product, product, beta=-4.7750, alpha=2.0315)
                x = torch.addmm(x, product, x, beta=3.4445)
            x = x.T if p.shape[0] > p.shape[1] else x
            assert torch.equal(decayed.add(x, alpha=-factor), p.detach())
