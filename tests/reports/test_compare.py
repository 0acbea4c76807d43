"""Differences, noise, verdicts and claims, against closed forms, SciPy and known noise."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

import reports
from reports.claims import Judgement, judge
from reports.compare import Group, compare
from reports.read import Curve
from reports.sentences import answer
from reports.statistics import scatter, spikes, t_interval
from reports.verdicts import verdict
from tests.reports.conftest import write_ladder, write_run


def groups_of(*experiments: Path) -> list[Group]:
    return compare(reports.load(*experiments).found)


def claims_of(experiment: Path) -> list[Judgement]:
    return judge(groups_of(experiment))


def curve_of(loss: np.ndarray) -> Curve:
    return Curve(np.arange(float(len(loss))), loss, *[np.zeros(len(loss))] * 6)


def test_scatter_is_the_noise_and_not_the_trend() -> None:
    trend = np.exp(-np.arange(4000) / 900)
    noise = np.random.default_rng(0).normal(0, 0.05, 4000)
    assert scatter(trend) < 1e-5
    assert scatter(trend + noise) == pytest.approx(0.05, rel=0.05)
    assert math.isnan(scatter(np.ones(7)))


def test_the_t_interval_is_scipys() -> None:
    values = np.array([-0.31, -0.22, -0.4, -0.27])
    low, high, p = t_interval(values)
    expected = scipy.stats.ttest_1samp(values, 0)
    interval = expected.confidence_interval(0.95)
    assert (low, high, p) == pytest.approx((interval.low, interval.high, expected.pvalue))


def test_a_spike_is_found_once_and_a_falling_loss_has_none() -> None:
    loss = 6 + 5 * np.exp(-np.arange(50.0) / 8) + np.random.default_rng(2).normal(0, 0.02, 50)
    assert spikes(curve_of(loss)) == []
    loss[30:32] += 2.0
    assert spikes(curve_of(loss)) == [30]


def test_with_one_seed_a_difference_below_its_noise_is_not_significant(tmp_path: Path) -> None:
    experiment = tmp_path / "noisy"
    write_run(experiment, "step02", noise=0.1)
    write_run(experiment, "step03", floor=7.38, noise=0.1)
    write_run(experiment, "step04", floor=6.0, noise=0.1)
    group = groups_of(experiment)[0]
    _, small, large = group.ladder
    assert small.vs_previous.loss is not None
    assert not small.vs_previous.loss.significant
    assert verdict(small).text == "no significant difference in loss"
    assert large.vs_previous.loss is not None
    assert large.vs_previous.loss.lower
    said = " ".join(answer(group))
    assert "(step03) made no significant difference in loss" in said
    assert "With one seed" in said


def test_a_speed_stage_is_judged_on_speed_and_on_the_loss_it_left(tmp_path: Path) -> None:
    experiment = tmp_path / "speed"
    for stage in ("step02", "step05"):
        write_run(experiment, stage, floor=6.0)
    write_run(experiment, "step06", floor=6.0)
    write_run(experiment, "step07", floor=7.0)
    verdicts = {stage.name: verdict(stage) for stage in groups_of(experiment)[0].stages}
    assert verdicts["step06"].text == "faster, loss unchanged"
    assert verdicts["step06"].tone == "good"
    assert verdicts["step07"].text == "faster, but the loss rose"
    assert verdicts["step07"].tone == "bad"


def test_the_newest_finished_run_of_a_stage_counts(tmp_path: Path) -> None:
    experiment = tmp_path / "again"
    early, late = "2026-11-22T10:00:00+00:00", "2026-11-22T11:00:00+00:00"
    write_run(experiment, "step02", floor=8.0, started=early, label="seed1-old")
    write_run(experiment, "step02", floor=7.0, started=late, label="seed1-new")
    write_run(experiment, "step02", status="running", started="2026-11-22T12", label="seed1-now")
    assert groups_of(experiment)[0].stages[0].mean.held_out == pytest.approx(7.15)


@pytest.mark.parametrize(
    "condition",
    [
        {"data__sha256": "00"},
        {"conditions": {"scale.name": "cpu", "train.steps": 20}},
        {"environment__device_name": "another"},
        {"code": "another"},
        {"environment__torch": "1.0"},
        {"variant": ["train.weight_decay=0.5"]},
    ],
)
def test_runs_under_other_conditions_are_never_compared(
    tmp_path: Path, condition: dict[str, object]
) -> None:
    write_run(tmp_path / "mixed", "step02")
    write_run(tmp_path / "mixed", "step03", **condition)
    groups = groups_of(tmp_path / "mixed")
    assert len(groups) == 2
    assert all(stage.vs_previous.loss is None for group in groups for stage in group.stages)


def test_another_recipe_of_a_stage_is_never_averaged_with_the_usual_one(tmp_path: Path) -> None:
    experiment = tmp_path / "recipes"
    write_run(experiment, "step02")
    write_run(experiment, "step06", recipe="edited since", started="2026-11-21")
    write_run(experiment, "step06", seed=2)
    write_run(experiment, "step06", variant=["model.pad_vocab=false"], label="seed1-x")
    write_run(experiment, "step07", variant=["model.pad_vocab=false"], label="seed1-x")
    main, *apart = groups_of(experiment)
    assert [(stage.name, len(stage.runs)) for stage in main.stages] == [
        ("step02", 1),
        ("step06", 1),
        ("step07", 1),
    ]
    assert main.stages[1].newest.seed == 2
    assert {group.variant: [s.name for s in group.stages] for group in apart} == {
        "an earlier configuration": ["step06"],
        "model.pad_vocab=false": ["step06"],
    }


def test_speeds_are_compared_only_at_the_same_number_of_threads(tmp_path: Path) -> None:
    experiment = tmp_path / "threads"
    write_run(experiment, "step02")
    write_run(experiment, "step03", environment__threads=16)
    _, stage = groups_of(experiment)[0].ladder
    assert stage.vs_previous.loss is not None
    assert stage.vs_previous.speed is None


def test_a_claim_about_one_change_needs_a_pair_that_differs_in_it_alone(tmp_path: Path) -> None:
    experiment = write_ladder(tmp_path / "ladder")
    powers = claims_of(experiment)[1]
    assert powers.verdict == "not measured"
    assert powers.command == "python -m runner +stage=step06 model.pad_vocab=false"

    write_run(
        experiment, "step06", variant=["model.pad_vocab=false"], step_ms=440.0, label="seed1-x"
    )
    powers = claims_of(experiment)[1]
    assert powers.verdict == "smaller here"
    assert powers.measured.startswith("+10%")
    assert powers.command == ""


def test_the_claims_are_judged_on_the_records(tmp_path: Path) -> None:
    interval, _, attention, accumulation, log = claims_of(write_ladder(tmp_path / "ladder"))
    assert (interval.measured, interval.verdict) == ("[10.95, 7.21]", "held")
    assert attention.measured.startswith("405 ms to 334 ms")
    assert "8.0 times as long" in accumulation.measured
    assert accumulation.verdict == "held"
    assert log.claim == "Its run of 50 steps ends at a loss of 5.733."
    missing = claims_of(write_run(tmp_path / "one", "step07").parents[1])
    assert {claim.verdict for claim in missing} == {"not measured"}
    assert all(claim.command.startswith("python -m runner +stage=step") for claim in missing)


def test_without_a_baseline_the_answer_says_how_to_get_one(tmp_path: Path) -> None:
    write_run(tmp_path / "none", "step07")
    said = " ".join(answer(groups_of(tmp_path / "none")[0]))
    assert "No baseline has finished" in said
    assert "python -m runner +stage=step02" in said
