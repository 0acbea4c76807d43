"""The optimizer's groups and the schedule against torch's own schedulers."""

from dataclasses import replace

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from gpt2.model import GPT
from runner.training.optimizer import build_optimizer, learning_rate
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
    decayed, spared = build_optimizer(model, config.train).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert {p.dim() for p in decayed["params"]} == {2}
    assert {p.dim() for p in spared["params"]} == {1}
    assert len(decayed["params"]) + len(spared["params"]) == len(list(model.parameters()))


def test_the_baselines_optimizer_has_torchs_defaults_and_a_constant_rate(
    settings: Settings,
) -> None:
    config = settings("+stage=step02")
    model = GPT(config.model, config.seed)
    ours = build_optimizer(model, config.train)
    assert ours.defaults == torch.optim.AdamW(model.parameters(), lr=3e-3).defaults
    assert len(ours.param_groups) == 1
    assert {learning_rate(step, config.train) for step in range(50)} == {3e-3}
