"""What runs are compared with, and the verdicts that follow, on synthetic records."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

import reports
from reports.formats import code
from reports.report import Report
from reports.speed import Doubt, Pace
from reports.statistics import Sample, mean_difference
from reports.verdicts import Kind, Outcome, Reason, Tone, decide
from tests.reports.conftest import FIVE, ORDER, RULES, SAY, Lab, names, question

LOWER = [-0.30, -0.32, -0.28, -0.31, -0.29]
SMALL = [0.001, -0.002, 0.000, 0.002, -0.001]
LOST = {"status": "diverged", "losses": [10.9, 9.0, float("nan")]}


def test_with_one_seed_nothing_is_claimed_and_the_interval_is_over_windows(lab: Lab) -> None:
    lab.run("step02", floor=7.0, noise=0.001)
    lab.run("step03", floor=6.0, noise=0.1)
    stage, verdict, _ = lab.stage("step03")
    loss, answer = stage.versus.loss, lab.report.answer
    assert (loss.over, loss.n) == (Sample.windows, 64)
    assert loss.low < -1.0 < loss.high
    # The windows' differences have a standard deviation of 0.1: two standard errors of 64.
    assert (loss.high - loss.low) / 2 == pytest.approx(1.96 * 0.1 / 8, rel=0.25)
    assert (verdict.kind, verdict.outcome, verdict.tone) == (Kind.one_seed, None, Tone.none)
    assert (answer.decides, answer.claims_speed) == (False, False)


@pytest.mark.parametrize(
    ("differences", "lost", "outcome", "reason"),
    [
        (LOWER, "", Outcome.lower, None),
        (-np.array(LOWER), "", Outcome.higher, None),
        (SMALL, "", Outcome.equivalent, None),
        ([0.004, 0.005, 0.006, 0.005, 0.004], "", Outcome.equivalent, None),  # not zero, but small
        ([0.0] * 5, "", Outcome.equivalent, None),
        ([-0.9, 0.5, -0.4, 0.8, -0.2], "", Outcome.inconclusive, Reason.spread),
        (LOWER[:4], "", Outcome.inconclusive, Reason.few),
        (LOWER[:4], "after", Outcome.inconclusive, Reason.lost),
        (LOWER, "after", Outcome.inconclusive, Reason.lost),
        (-np.array(LOWER), "after", Outcome.higher, None),
        (SMALL, "after", Outcome.inconclusive, Reason.lost),
        (LOWER, "before", Outcome.lower, None),
        (-np.array(LOWER), "before", Outcome.inconclusive, Reason.lost),
        (SMALL, "before", Outcome.inconclusive, Reason.lost),
    ],
)
def test_seeds_give_one_of_four_outcomes_and_a_lost_one_rules_out_what_it_may_have_made(
    differences: Sequence[float], lost: str, outcome: Outcome, reason: Reason | None
) -> None:
    loss = mean_difference(np.array(differences), RULES)
    assert decide(loss, (lost == "before", lost == "after"), RULES) == (outcome, reason)


def test_a_seed_that_diverged_is_named_on_either_side(lab: Lab) -> None:
    lab.stages(step02=7.0, step03=6.7, step04=6.4)
    lab.run("step03", 6)
    for stage in ("step02", "step04"):
        lab.run(stage, 6, **LOST)
    for name, lost, outcome, reason in (
        ("step03", "step02", Outcome.lower, None),
        ("step04", "step04", Outcome.inconclusive, Reason.lost),
    ):
        _, verdict, said = lab.stage(name)
        assert (verdict.outcome, verdict.reason, verdict.seeds_needed) == (outcome, reason, None)
        assert said.endswith(f"but {lost} seed 6 diverged")


def test_seeds_are_paired_and_averaged(lab: Lab) -> None:
    for seed, shift in ((1, 0.0), (2, 0.3), (3, -0.3)):
        lab.run("step02", seed, floor=7.0 + shift)
        lab.run("step03", seed, floor=6.0 + shift + 0.01 * seed)
    lab.run("step03", 4, floor=9.58)  # without a baseline
    table = reports.stages(lab.path).set_index("stage")
    assert table.held_out["step03"] == pytest.approx((3 * 6.02 + 9.58) / 4 + 0.15)
    assert table.reference_loss_value["step03"] == pytest.approx(-0.98)
    # Student's t for three paired differences -0.99, -0.98, -0.97: 4.303 x 0.01 / sqrt(3).
    low = table.reference_loss_low["step03"]
    assert low == pytest.approx(-0.98 - 4.3027 * 0.01 / np.sqrt(3), rel=1e-3)


def test_holms_method_corrects_over_the_loss_and_stability_stages(lab: Lab) -> None:
    scattered = [-0.1, -0.3, -0.15, -0.35, -0.02]
    for seed, difference in enumerate(scattered, 1):
        for number, stage in enumerate(ORDER[1:]):
            lab.run(stage, seed, floor=9 + difference * number, noise=0.001)
    report = lab.report
    family = {name: found for name, found in report.verdicts.items() if found.outcome}
    assert {*family} == {"step03", "step04", "step05", "step08", "step09", "step10"}
    alone = report.main.stages[1].versus.loss.p
    assert alone == pytest.approx(scipy.stats.ttest_1samp(scattered, 0).pvalue)
    assert 0.03 < alone < 0.05
    for verdict in family.values():
        assert verdict.p == pytest.approx(6 * alone, rel=1e-6)
    assert family["step03"].outcome is Outcome.inconclusive
    assert family["step03"].seeds_needed is not None


def test_a_stage_is_compared_with_the_one_that_it_stands_on(lab: Lab) -> None:
    lab.stages(step02=7.4, step03=6.5, step04=6.15, step06=6.0)
    lab.seeds("branch", 6.9, parent="step02")
    lab.seeds("step05", **LOST)
    report = lab.report
    compared = [(s.name, s.against, s.versus.loss) for s in report.main.ladder if s.versus.loss]
    assert [(*both, pytest.approx(loss.value)) for *both, loss in compared] == [
        ("step03", "step02", -0.9), ("step04", "step03", -0.35), ("branch", "step02", -0.5),
    ]  # fmt: skip
    assert [n for n, v in report.verdicts.items() if v.kind is Kind.no_reference] == ["step06"]


def test_runs_of_the_stage_below_elsewhere_change_no_difference(lab: Lab, tmp_path: Path) -> None:
    lab.stages((1, 2, 3), step02=None, step03=7, step04=6)
    before = lab.report.main.stages[2].versus.loss
    assert before.n == 3
    lab.run("step03", 4, floor=5.0)
    lab.run("step03", 1, floor=5.0, typed={"train.eps": 1e-7}, at=50)
    Lab(tmp_path / "other").run("step03", 1, floor=5.0, at=55)
    assert Report([lab.path, tmp_path / "other"]).main.stages[2].versus.loss == before


def test_why_a_stage_is_compared_with_none_is_said_with_the_command(lab: Lab) -> None:
    ends = {"step05": "failed", "step07": "diverged", "step09": "interrupted", "step08": "running"}
    lab.stages((1, 2), step02=None, step04=None, step06=None, step10=None)
    lab.seeds("after", None, (1, 2), parent="step07")
    lab.seeds("later", None, (1, 2), parent="step08")
    for stage, status in ends.items():
        lab.seeds(stage, None, (1, 2), status=status, losses=[10.9, 9.0])
    for name, below, ended in (
        ("step04", "step03", "was never run"), ("step06", "step05", "failed"),
        ("after", "step07", "diverged"), ("step10", "step09", "did not reach the end"),
        ("later", "step08", "had not ended when this was written"),
    ):  # fmt: skip
        _, verdict, said = lab.stage(name)
        assert (verdict.kind, verdict.outcome) == (Kind.no_reference, None)
        command = f"; train it with {code(f'python -m runner -m +stage={below} seed=1,2')}"
        assert said == f"not compared, {below} {ended}{command if below != 'step08' else ''}"
    report = lab.report
    unfinished = {s.stage: s.arm.status.value for s in report.main.stages if not s.arm.finished}
    assert unfinished == ends
    assert {report.verdicts[stage].kind for stage in ends} == {Kind.unfinished}


def test_a_run_that_failed_before_its_windows_were_known_is_in_the_ladder(lab: Lab) -> None:
    lab.run("step02")
    unknown: dict[str, Any] = {"losses": [], "data__windows_sha256": None}
    lab.run("step03", status="failed", message="No memory.", **unknown)
    report, (_, verdict, said) = lab.report, lab.stage("step03")
    assert names(report.main.stages) == ["step02", "step03"]
    assert (verdict.kind, verdict.tone, said) == (Kind.unfinished, Tone.bad, "failed, No memory.")
    assert report.apart == []


def test_a_step_without_effect_on_a_custom_model_is_no_test_of_the_family(lab: Lab) -> None:
    inert = ["model.init", "model.gain"]
    step02, step03, step04 = (question(s, inert=inert) for s in ("step02", "step03", "step04"))
    for seed, difference in zip(FIVE, LOWER, strict=True):
        floor = 7 + 0.1 * seed
        lab.run("step02", seed, floor=floor, asked=[step02, step03])
        lab.run("step04", seed, floor=floor + difference, asked=[step04])
    same, verdict, _ = lab.stage("step03")
    assert (same.same_as, same.versus.loss, verdict.kind) == ("step02", None, Kind.same)
    stage, verdict, _ = lab.stage("step04")
    assert stage.versus.loss.value == pytest.approx(-0.3)
    assert verdict.p == stage.versus.loss.p, "it is the only test"
    assert verdict.outcome is Outcome.lower


def test_an_outcome_is_decided_at_the_end_and_names_the_step_from_which_it_holds(lab: Lab) -> None:
    at = np.arange(50.0)
    plain = 10.9 - 0.05 * at
    crossing = plain + np.where(at < 40, 0.4, -0.4)
    for seed in FIVE:
        noise = np.random.default_rng(seed).normal(0, 0.01, 50)
        for stage, losses, floor in (
            ("step02", plain, 8.4),
            ("step03", crossing, 8.0),
            ("step04", crossing - 0.5, 7.5),  # lower all the time
            ("step05", plain - 0.5, 7.5),  # crosses too, but what it ends at is the same
        ):
            lab.run(stage, seed, losses=losses + noise, floor=floor)
    found = lab.report.verdicts
    assert {n: (v.outcome, v.holds_from) for n, v in found.items() if v.outcome} == {
        "step03": (Outcome.lower, 40), "step04": (Outcome.lower, None),
        "step05": (Outcome.equivalent, None),
    }  # fmt: skip
    _, verdict, said = lab.stage("step03")
    assert (verdict.tone, said) == (
        Tone.good,
        "take it, −0.400 (−0.400 to −0.400) at the end, worse before optimizer step 40",
    )


@pytest.mark.parametrize(
    ("seeds", "given", "doubt", "said"),
    [
        (FIVE, {}, None, "take it, 2.40× the tokens/s (2.40 to 2.40) at the same loss"),
        ((1,), {}, Doubt.few, "only 1 of at least 5 rounds"),
        (FIVE, {"at": 24 * 60}, Doubt.apart, "the rounds were not interleaved"),
        (FIVE, {"resumed_at": [20]}, Doubt.interrupted, "runs were interrupted"),
        (FIVE, {"ended": "2026-12-01T00:00:00+00:00"}, Doubt.shared, "runs shared the machine"),
        (FIVE, {"process__host": "another"}, Doubt.hosts, "runs were on different hosts"),
    ],
)
def test_a_speed_is_claimed_only_from_interleaved_rounds_of_a_free_machine(
    lab: Lab, seeds: tuple[int, ...], given: dict[str, Any], doubt: Doubt | None, said: str
) -> None:
    for stage, more in {"step05": {}, "step06": given}.items():
        lab.seeds(stage, 6.0, seeds, **more)
    stage, _, text = lab.stage("step06")
    assert stage.versus.speed.doubt is doubt
    assert stage.versus.speed.pace is (Pace.undecided if doubt else Pace.faster)
    assert said in text


def test_repeats_count_for_speed_and_never_as_seeds(lab: Lab) -> None:
    for stage in ("step05", "step06"):
        for repeat in FIVE:
            lab.run(stage, repeat=repeat, floor=6.0)
    arm, versus = lab.stage("step06")[0].arm, lab.stage("step06")[0].versus
    assert (len(arm.runs), len(arm.rounds)) == (1, 5)
    assert (versus.speed.estimate.n, versus.speed.pace) == (5, Pace.faster)
    assert versus.loss.over is Sample.windows


def test_speeds_are_compared_only_at_the_same_number_of_threads(lab: Lab) -> None:
    lab.run("step02")
    lab.run("step03", environment__threads=16)
    versus = lab.stage("step03")[0].versus
    assert (versus.loss.value, versus.speed) == (pytest.approx(-0.9), None)


def test_a_busy_machine_is_noticed(lab: Lab) -> None:
    lab.stages([1], step02=None, step03=None)
    assert lab.report.busy == []
    slow = lab.run("step03", results__flops_after=4e11)
    assert lab.report.busy == [f"lab/step03/{slow.name}"]
    assert "busy or throttled during 1 of 2 runs" in SAY("ladder", lab.report)


def test_accumulation_is_compared_at_equal_tokens_too(lab: Lab) -> None:
    lab.stages(step09=None, step10=None)
    stage, verdict, said = lab.stage("step10")
    at, steps = stage.versus.at_tokens, reports.load(lab.path).steps
    assert (stage.versus.times_the_tokens, at.tokens) == (8, 50 * 256)
    below, above = (steps[steps.stage == stage] for stage in ("step09", "step10"))
    # At 12,800 tokens step10 has taken 6 steps; step09 is at its last ones.
    expected = above[above.step == 5].loss.mean() - below[below.step >= 45].loss.mean()
    assert at.loss.value == pytest.approx(expected)
    assert expected > 0
    assert (verdict.outcome, verdict.tone) == (Outcome.lower, Tone.even)
    assert said.startswith(
        "costs tokens, −0.240 (−0.240 to −0.240) at equal steps, with 8 times the tokens; +2.6"
    )


def test_the_newest_finished_run_of_a_stage_counts(lab: Lab) -> None:
    for label, floor, at, status in (
        ("old", 8.0, 0, "finished"), ("new", 7.0, 60, "finished"), ("now", 6.0, 90, "running"),
    ):  # fmt: skip
        lab.run(floor=floor, label=label, at=at, status=status)
    assert lab.report.main.stages[0].arm.mean("held_out") == pytest.approx(7.15)


def test_runs_under_other_conditions_are_never_compared(lab: Lab) -> None:
    lab.run("step02")
    conditions: list[dict[str, Any]] = [
        {"data__sha256": "00"}, {"data__windows_sha256": "00"}, {"typed": {"train.steps": 20}},
        {"environment__device_name": "another"}, {"code": "another"},
        {"environment__torch": "1.0"}, {"typed": {"train.weight_decay": 0.5}},
    ]  # fmt: skip
    for number, condition in enumerate(conditions):
        lab.run(f"own{number}", parent="step02", **condition)
    report = lab.report
    assert [each.versus.loss for each in report.comparisons] == [None] * 8
    assert len(report.groups) == 8
    assert report.apart == report.groups[1:]


@pytest.mark.parametrize("below", ["as it is", "edited too"])
def test_a_stage_as_it_was_before_its_overlay_was_edited_is_no_part_of_the_ladder(
    lab: Lab, below: str
) -> None:
    lab.stages(step02=7.0, step03=7.3)
    reference = question("step03").reference if below == "as it is" else "of another step02"
    earlier = replace(question("step03", inert=["model.gain"]), reference=reference)
    for seed in FIVE:
        lab.run("step03", seed, floor=6.7 + 0.01 * seed, asked=[earlier], label=f"{seed}", at=1)
    report = lab.report
    assert names(report.main.stages) == ["step02", "step03"]
    assert report.main.stages[1].versus.loss.value == pytest.approx(0.3)
    assert report.verdicts["step03"].outcome is Outcome.higher
    (apart,) = report.apart
    assert names(apart.stages) == ["step03"]
