"""Groups, verdicts, curves, speeds and claims, on synthetic records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

import reports
from reports.claims import Judgement, Ruling
from reports.compare import Group
from reports.curves import plateau, spikes
from reports.findings import Findings
from reports.read import Curve
from reports.statistics import Sample
from reports.verdicts import Outcome, Verdict
from tests.reports.conftest import ORDER, write_ladder, write_run

FIVE = (1, 2, 3, 4, 5)


def groups_of(*experiments: Path) -> list[Group]:
    return Findings.of(experiments).groups


def verdicts_of(experiment: Path) -> dict[str, Verdict]:
    return Findings.of([experiment]).verdicts[0]


def answer_of(experiment: Path) -> str:
    return " ".join(Findings.of([experiment]).answer)


def claims_of(experiment: Path) -> list[Judgement]:
    return Findings.of([experiment]).claims


def curve_of(loss: np.ndarray) -> Curve:
    return Curve(np.arange(float(len(loss))), loss, *[np.zeros(len(loss))] * 6)


def write_pair(experiment: Path, floors: list[float], stage: str = "step03", **given: Any) -> Path:
    """A baseline and a stage, a seed for each difference of its loss from the baseline's."""
    for seed, difference in enumerate(floors, 1):
        write_run(experiment, "step02", seed, floor=7.0 + 0.1 * seed, noise=0.001)
        write_run(experiment, stage, seed, floor=7.0 + 0.1 * seed + difference, **given)
    return experiment


def test_a_spike_is_found_once_and_a_falling_loss_has_none() -> None:
    loss = 6 + 5 * np.exp(-np.arange(50.0) / 8) + np.random.default_rng(2).normal(0, 0.02, 50)
    assert spikes(curve_of(loss)) == []
    loss[30:32] += 2.0
    assert spikes(curve_of(loss)) == [30]


def test_a_plateau_is_named_only_where_the_loss_falls_afterwards() -> None:
    noise = np.random.default_rng(3).normal(0, 0.01, 50)
    loss = np.concatenate([[10.9] * 25, np.linspace(10.9, 7, 25)]) + noise
    found = plateau(curve_of(loss))
    assert found is not None
    assert found.first <= 5
    assert 24 <= found.last <= 28
    assert found.loss == pytest.approx(10.9, abs=0.05)
    assert plateau(curve_of(loss[::-1].copy())) is None


def test_with_one_seed_nothing_is_claimed_and_the_interval_is_over_windows(
    tmp_path: Path,
) -> None:
    experiment = write_pair(tmp_path / "one", [-1.0], noise=0.1)
    loss = groups_of(experiment)[0].ladder[1].vs_previous.loss
    assert loss is not None
    assert (loss.over, loss.n) == (Sample.windows, 64)
    assert loss.low < -1.0 < loss.high
    # The windows' differences have a standard deviation of 0.1: two standard errors of 64.
    assert (loss.high - loss.low) / 2 == pytest.approx(1.96 * 0.1 / 8, rel=0.25)
    verdict = verdicts_of(experiment)["step03"]
    assert verdict.outcome is None
    assert verdict.tone == "none"
    assert "on this seed" in verdict.text
    said = answer_of(experiment)
    assert "One seed decides no loss and no speed" in said
    assert not {"lower", "higher", "lowered", "raised", "Take"} & set(said.split())


@pytest.mark.parametrize(
    ("differences", "outcome"),
    [
        ([-0.30, -0.32, -0.28, -0.31, -0.29], Outcome.lower),
        ([0.30, 0.32, 0.28, 0.31, 0.29], Outcome.higher),
        ([0.001, -0.002, 0.000, 0.002, -0.001], Outcome.equivalent),
        ([0.004, 0.005, 0.006, 0.005, 0.004], Outcome.equivalent),  # not zero, but too small
        ([0.0, 0.0, 0.0, 0.0, 0.0], Outcome.equivalent),
        ([-0.9, 0.5, -0.4, 0.8, -0.2], Outcome.inconclusive),
        ([-0.30, -0.32, -0.28, -0.31], Outcome.inconclusive),  # four seeds
    ],
)
def test_several_seeds_give_one_of_four_outcomes(
    tmp_path: Path, differences: list[float], outcome: Outcome
) -> None:
    verdict = verdicts_of(write_pair(tmp_path / "seeds", differences, noise=0.001))["step03"]
    assert verdict.outcome is outcome, verdict
    assert (verdict.seeds_needed is not None) <= (outcome is Outcome.inconclusive)


def test_holms_method_corrects_over_the_loss_and_stability_stages(tmp_path: Path) -> None:
    experiment = tmp_path / "family"
    scattered = [-0.1, -0.3, -0.15, -0.35, -0.02]
    for seed, difference in enumerate(scattered, 1):
        for number, stage in enumerate(ORDER[1:]):
            write_run(experiment, stage, seed, floor=9 + difference * number, noise=0.001)
    verdicts = verdicts_of(experiment)
    family = {"step03", "step04", "step05", "step08", "step09", "step10"}
    assert {name for name, verdict in verdicts.items() if verdict.outcome} == family
    alone = groups_of(experiment)[0].ladder[1].vs_previous.loss
    assert alone is not None
    assert alone.p == pytest.approx(scipy.stats.ttest_1samp(scattered, 0).pvalue)
    assert 0.03 < alone.p < 0.05
    assert all(verdicts[name].p == pytest.approx(6 * alone.p, rel=1e-6) for name in family)
    assert verdicts["step03"].outcome is Outcome.inconclusive


def test_a_seed_that_diverged_is_shown_and_rules_out_lower(tmp_path: Path) -> None:
    experiment = write_pair(tmp_path / "lost", [-0.3, -0.32, -0.28, -0.31, -0.29], noise=0.001)
    write_run(experiment, "step02", 6)
    write_run(experiment, "step03", 6, status="diverged", losses=[10.9, 9.0, float("nan")])
    verdict = verdicts_of(experiment)["step03"]
    assert verdict.outcome is Outcome.inconclusive
    assert "not every seed finished" in verdict.text
    assert "step03 seed 6 diverged" in verdict.text


def test_a_seed_that_diverged_below_rules_out_higher_and_equivalent(tmp_path: Path) -> None:
    for name, step, expected in (("up", 0.3, Outcome.inconclusive), ("down", -0.3, Outcome.lower)):
        experiment = write_pair(tmp_path / name, [step + 0.01 * i for i in range(5)], noise=0.001)
        write_run(experiment, "step02", 6, status="diverged", losses=[10.9, float("nan")])
        write_run(experiment, "step03", 6)
        verdict = verdicts_of(experiment)["step03"]
        assert verdict.outcome is expected
        assert "step02 seed 6 diverged" in verdict.text


def test_a_stage_is_compared_with_the_one_that_it_stands_on(tmp_path: Path) -> None:
    experiment = tmp_path / "parents"
    for seed in FIVE:
        for stage in ("step02", "step03", "step04"):
            write_run(experiment, stage, seed, noise=0.001)
        write_run(experiment, "step03b", seed, parent="step02", floor=6.9, noise=0.001)
        write_run(experiment, "step05", seed, floor=6.9, noise=0.001, status="diverged")
        write_run(experiment, "step08", seed, parent="step05", floor=6.8, noise=0.001)
    stages = {stage.name: stage for stage in groups_of(experiment)[0].ladder}
    others = {name: stage.vs_previous.other for name, stage in stages.items()}
    expected = {"step03": "step02", "step04": "step03", "step03b": "step02", "step08": "step04"}
    assert {name: others[name] for name in expected} == expected
    verdict = verdicts_of(experiment)["step08"]
    assert stages["step08"].vs_previous.skipped == ["step05"]
    assert verdict.outcome is None, "the change of step05 is in it, too"
    assert "not judged, because step05 did not finish" in verdict.text


def test_a_speed_stage_that_changes_the_loss_is_not_to_be_taken(tmp_path: Path) -> None:
    for name, floor in (("kept", 6.0), ("changed", 6.5)):
        for seed in FIVE:
            write_run(tmp_path / name, "step02", seed, floor=6.9)
            write_run(tmp_path / name, "step05", seed, floor=6.0)
            write_run(tmp_path / name, "step06", seed, floor=floor, parent="step05")
    assert "Take for speed TF32, compile, round numbers (step06)" in answer_of(tmp_path / "kept")
    said = answer_of(tmp_path / "changed")
    assert "Take for speed" not in said
    assert "its loss was not shown to be the same: +0.5" in said


def test_a_stage_with_more_tokens_is_not_to_be_taken_for_its_loss_at_equal_steps(
    tmp_path: Path,
) -> None:
    for seed in FIVE:
        for stage in ("step02", "step09", "step10"):
            write_run(tmp_path / "more", stage, seed, noise=0.001)
    said = answer_of(tmp_path / "more")
    assert "Take Gradient" not in said
    assert "at equal steps, with 8 times the tokens; at equal tokens its training loss" in said


def test_runs_of_a_single_step_make_a_report(tmp_path: Path) -> None:
    for stage in ("step02", "step03", "step08"):
        write_run(tmp_path / "brief", stage, steps=1)
    assert "Gradient clipping" in reports.write_report([tmp_path / "brief"]).read_text("utf-8")


def test_a_control_of_other_seeds_is_no_control(tmp_path: Path) -> None:
    write_run(tmp_path / "control", "step09")
    write_run(tmp_path / "control", "step10")
    write_run(tmp_path / "control", "step09", 7, steps=400, all_steps=400)
    assert Findings.of([tmp_path / "control"]).control is None


@pytest.mark.parametrize("moment", ["2026-11-24T00:00:00", "yesterday"])
def test_a_record_without_a_moment_is_a_problem_and_not_a_crash(
    tmp_path: Path, moment: str
) -> None:
    write_run(tmp_path / "odd", "step02")
    write_run(tmp_path / "odd", "step03", ended=moment)
    (problem,) = reports.load(tmp_path / "odd").problems
    assert "step03" in problem
    assert moment in problem


def test_a_difference_that_changes_its_sign_depends_on_when_you_stop(tmp_path: Path) -> None:
    experiment = tmp_path / "stops"
    at = np.arange(50.0)
    plain = 10.9 - 0.05 * at
    crossing = plain + np.where(at < 40, 0.4, -0.4)
    for seed in FIVE:
        noise = np.random.default_rng(seed).normal(0, 0.01, 50)
        write_run(experiment, "step02", seed, losses=plain + noise, floor=8.4, noise=0.001)
        write_run(experiment, "step03", seed, losses=crossing + noise, floor=8.0, noise=0.001)
        write_run(experiment, "step04", seed, losses=crossing - 0.5 + noise, floor=7.5, noise=0.001)
    verdicts = verdicts_of(experiment)
    assert verdicts["step03"].outcome is Outcome.inconclusive
    assert "depends on when you stop: +0.4" in verdicts["step03"].text
    assert verdicts["step04"].outcome is Outcome.lower
    assert "Initialisation (step03) depends on when you stop" in answer_of(experiment)
    page = reports.write_report([experiment])
    assert (page.parent / "figures" / "stop-3-1.png").exists()


def test_a_speed_is_claimed_only_from_interleaved_rounds_of_a_free_machine(tmp_path: Path) -> None:
    def write(name: str, seeds: tuple[int, ...], **given: Any) -> str:
        for seed in seeds:
            write_run(tmp_path / name, "step05", seed, floor=6.0)
            started = {"started": f"2026-12-0{seed}T00:00:00+00:00"} if given.get("late") else {}
            shaped = {key: value for key, value in given.items() if key != "late"}
            write_run(tmp_path / name, "step06", seed, floor=6.0, **shaped, **started)
        return verdicts_of(tmp_path / name)["step06"].text

    assert write("five", FIVE) == "faster; loss within 0.02"
    assert "not decided (one round of the 5 that decide)" in write("one", (1,))
    assert "the rounds were not interleaved" in write("stage by stage", FIVE, late=True)
    assert "runs were interrupted" in write("resumed", FIVE, resumed_at=[20])
    beside = {"ended": "2026-12-01T00:00:00+00:00"}
    assert "runs shared the machine" in write("at once", FIVE, **beside)


def test_repeats_count_for_speed_and_never_as_seeds(tmp_path: Path) -> None:
    for repeat in FIVE:
        write_run(tmp_path / "repeats", "step05", repeat=repeat, floor=6.0)
        write_run(tmp_path / "repeats", "step06", repeat=repeat, floor=6.0)
    stage = groups_of(tmp_path / "repeats")[0].ladder[1]
    assert len(stage.runs) == 1
    assert len(stage.rounds) == 5
    assert stage.vs_previous.speed is not None
    assert stage.vs_previous.speed.estimate.n == 5
    assert stage.vs_previous.speed.faster
    assert stage.vs_previous.loss is not None
    assert stage.vs_previous.loss.over is Sample.windows


def test_a_busy_machine_is_noticed(tmp_path: Path) -> None:
    experiment = tmp_path / "busy"
    write_run(experiment, "step02")
    write_run(experiment, "step03")
    assert Findings.of([experiment]).disturbed == ""
    write_run(experiment, "step03", results__flops_after=4e11)
    said = Findings.of([experiment]).disturbed
    assert "busy or throttled during 1 of 2 runs" in said
    assert "step03" in said
    assert "50% of the best measured" in said
    assert "busy or throttled" in reports.write_report([experiment]).read_text("utf-8")


def test_accumulation_is_compared_at_equal_tokens_and_with_its_control(tmp_path: Path) -> None:
    experiment = tmp_path / "control"
    write_run(experiment, "step09")
    write_run(experiment, "step10")
    versus = groups_of(experiment)[0].ladder[1].vs_previous
    assert versus.at_tokens is not None
    assert versus.at_tokens.spent == 50 * 256
    curves = [reports.load(experiment).steps.query(f"stage == '{s}'") for s in ("step09", "step10")]
    # At 12,800 tokens step10 has taken 6 steps; step09 is at its last ones.
    expected = curves[1].loss.iloc[5] - curves[0].loss.iloc[-5:].mean()
    assert versus.at_tokens.loss.value == pytest.approx(expected)
    assert Findings.of([experiment]).control is None

    write_run(experiment, "step09", steps=400, all_steps=400, label="seed1-long")
    control = Findings.of([experiment]).control
    assert control is not None
    assert control.other == "step09"
    assert control.loss is not None


def test_the_newest_finished_run_of_a_stage_counts(tmp_path: Path) -> None:
    experiment = tmp_path / "again"
    early, late = "2026-11-22T10:00:00+00:00", "2026-11-22T11:00:00+00:00"
    write_run(experiment, "step02", floor=8.0, started=early, label="seed1-old")
    write_run(experiment, "step02", floor=7.0, started=late, label="seed1-new")
    write_run(
        experiment,
        "step02",
        status="running",
        started="2026-11-22T12:00:00+00:00",
        label="seed1-now",
    )
    assert groups_of(experiment)[0].stages[0].mean.held_out == pytest.approx(7.15)


@pytest.mark.parametrize(
    "condition",
    [
        {"data__sha256": "00"},
        {"steps": 20, "all_steps": 20},
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
    write_run(experiment, "step06", recipe="edited since", started="2026-11-21T00:00:00+00:00")
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
    assert powers.verdict is Ruling.not_measured
    alone = "'without=[],[step06:model.pad_vocab]'"
    assert powers.command == f"python -m runner -m repeat=2,3,4,5,6 +stage=step06 {alone}"

    def write(gain: float) -> Judgement:
        for repeat in range(2, 7):
            write_run(experiment, "step06", repeat=repeat)
            variant = {"variant": ["model.pad_vocab=false"], "label": f"seed1-{repeat}-x"}
            variant["started"] = f"2026-11-{22 + repeat}T02:07:00+00:00"
            step_ms = 400 * gain * (1 + 0.01 * (repeat - 4))
            write_run(experiment, "step06", repeat=repeat, step_ms=step_ms, **variant)
        return claims_of(experiment)[1]

    powers = write(1.1)
    assert powers.verdict is Ruling.contradicted
    assert powers.measured.startswith("+10%")
    assert powers.command == ""
    assert write(1.3).verdict is Ruling.supported


def test_the_claims_are_judged_on_the_records(tmp_path: Path) -> None:
    experiment = write_ladder(tmp_path / "ladder")
    interval, _, attention, accumulation, log = claims_of(experiment)
    assert (interval.measured, interval.verdict) == ("[10.95, 7.21]", Ruling.not_comparable)
    assert attention.measured.startswith("405 ms to 334 ms")
    assert attention.verdict is Ruling.not_decided
    assert attention.command.startswith("python -m runner -m repeat=2,3,4,5,6 +stage=step07")
    assert "8.0 times as long" in accumulation.measured
    assert "at equal tokens" in accumulation.measured
    assert accumulation.verdict is Ruling.not_decided
    assert log.claim == "Its run of 50 steps ends at a loss of 5.733."
    assert log.verdict is Ruling.not_comparable
    write_ladder(experiment, FIVE, noise=0.001)
    _, _, attention, accumulation, _ = claims_of(experiment)
    assert attention.verdict is Ruling.contradicted, "1.21 times is not 1.35"
    assert accumulation.verdict is Ruling.supported
    missing = claims_of(write_run(tmp_path / "one", "step07").parents[1])
    assert {claim.verdict for claim in missing} == {Ruling.not_measured}
    assert all("+stage=step" in claim.command for claim in missing)


def test_without_a_baseline_the_answer_says_how_to_get_one(tmp_path: Path) -> None:
    write_run(tmp_path / "none", "step07")
    said = answer_of(tmp_path / "none")
    assert "No baseline has finished" in said
    assert "python -m runner +stage=step02" in said
