"""What runs are compared with, and the verdicts that follow, on synthetic records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

import reports
from conf.errors import UsageError
from reports.compare import Comparison
from reports.formats import code
from reports.report import Report
from reports.rules import read_rules
from reports.speed import Doubt, Pace
from reports.statistics import Sample
from reports.verdicts import Kind, Outcome, Reason, Tone, Verdict
from reports.wording import words
from runner.record import Status
from tests.reports.conftest import FIVE, ORDER, question, write_run, write_stages

SAY = words(read_rules())
LOWER = [-0.30, -0.32, -0.28, -0.31, -0.29]
LOST = {"status": "diverged", "losses": [10.9, 9.0, float("nan")]}

Judged = tuple[Comparison, Verdict, str]  # with the verdict in words


def judged(*experiments: Path) -> dict[str, Judged]:
    """The stages of the main ladder by name."""
    report = Report(experiments)
    verdicts = ((s, report.verdicts[s.name]) for s in report.main.stages)
    say = words(report.rules)
    return {s.name: (s, v, say("verdict", s, v)) for s, v in verdicts}


def write_pair(experiment: Path, differences: list[float], **given: Any) -> Path:
    """A baseline and step03, a seed for each difference of its loss from the baseline's."""
    for seed, difference in enumerate(differences, 1):
        write_run(experiment, "step02", seed, floor=7.0 + 0.1 * seed, noise=0.001)
        write_run(experiment, "step03", seed, floor=7.0 + 0.1 * seed + difference, **given)
    return experiment


def loss_of(found: Judged) -> float:
    assert found[0].versus.loss is not None
    return found[0].versus.loss.value


def test_with_one_seed_nothing_is_claimed_and_the_interval_is_over_windows(tmp_path: Path) -> None:
    report = Report([write_pair(tmp_path / "one", [-1.0], noise=0.1)])
    loss, verdict = report.main.stages[1].versus.loss, report.verdicts["step03"]
    assert loss is not None
    assert (loss.over, loss.n) == (Sample.windows, 64)
    assert loss.low < -1.0 < loss.high
    # The windows' differences have a standard deviation of 0.1: two standard errors of 64.
    assert (loss.high - loss.low) / 2 == pytest.approx(1.96 * 0.1 / 8, rel=0.25)
    assert (verdict.kind, verdict.outcome, verdict.tone) == (Kind.one_seed, None, Tone.none)
    answer = report.answer
    assert (answer.decides, answer.claims_speed) == (False, False)
    assert (
        answer.advice["lower"]
        == answer.advice["higher"]
        == answer.advice["faster"]
        == answer.advice["undecided"]
        == []
    )


@pytest.mark.parametrize(
    ("differences", "outcome", "reason"),
    [
        (LOWER, Outcome.lower, None),
        ([0.30, 0.32, 0.28, 0.31, 0.29], Outcome.higher, None),
        ([0.001, -0.002, 0.000, 0.002, -0.001], Outcome.equivalent, None),
        ([0.004, 0.005, 0.006, 0.005, 0.004], Outcome.equivalent, None),  # not zero, but too small
        ([0.0, 0.0, 0.0, 0.0, 0.0], Outcome.equivalent, None),
        ([-0.9, 0.5, -0.4, 0.8, -0.2], Outcome.inconclusive, Reason.spread),
        (LOWER[:4], Outcome.inconclusive, Reason.few),
    ],
)
def test_several_seeds_give_one_of_four_outcomes(
    tmp_path: Path, differences: list[float], outcome: Outcome, reason: Reason | None
) -> None:
    _, verdict, _ = judged(write_pair(tmp_path / "seeds", differences, noise=0.001))["step03"]
    assert (verdict.outcome, verdict.reason) == (outcome, reason)
    assert (verdict.seeds_needed is not None) <= (outcome is Outcome.inconclusive)


def test_seeds_are_paired_and_averaged(tmp_path: Path) -> None:
    for seed, shift in ((1, 0.0), (2, 0.3), (3, -0.3)):
        write_run(tmp_path / "seeds", "step02", seed, floor=7.0 + shift)
        write_run(tmp_path / "seeds", "step03", seed, floor=6.0 + shift + 0.01 * seed)
    write_run(tmp_path / "seeds", "step03", 4, floor=9.58)  # without a baseline
    table = reports.stages(tmp_path / "seeds").set_index("stage")
    assert table.held_out["step03"] == pytest.approx((3 * 6.02 + 9.58) / 4 + 0.15)
    assert table.reference_loss_value["step03"] == pytest.approx(-0.98)
    # Student's t for three paired differences -0.99, -0.98, -0.97: 4.303 x 0.01 / sqrt(3).
    low = table.reference_loss_low["step03"]
    assert low == pytest.approx(-0.98 - 4.3027 * 0.01 / np.sqrt(3), rel=1e-3)


def test_holms_method_corrects_over_the_loss_and_stability_stages(tmp_path: Path) -> None:
    scattered = [-0.1, -0.3, -0.15, -0.35, -0.02]
    for seed, difference in enumerate(scattered, 1):
        for number, stage in enumerate(ORDER[1:]):
            floor = 9 + difference * number
            write_run(tmp_path / "family", stage, seed, floor=floor, noise=0.001)
    found = judged(tmp_path / "family")
    family = {"step03", "step04", "step05", "step08", "step09", "step10"}
    assert {name for name, (_, verdict, _) in found.items() if verdict.outcome} == family
    alone = found["step03"][0].versus.loss
    assert alone is not None
    assert alone.p == pytest.approx(scipy.stats.ttest_1samp(scattered, 0).pvalue)
    assert 0.03 < alone.p < 0.05
    for name in family:
        assert found[name][1].p == pytest.approx(6 * alone.p, rel=1e-6)
    assert found["step03"][1].outcome is Outcome.inconclusive


@pytest.mark.parametrize(
    ("lost", "difference", "expected"),
    [
        ("step03", -0.3, Outcome.inconclusive),
        ("step03", 0.3, Outcome.higher),
        ("step03", 0.0, Outcome.inconclusive),
        ("step02", -0.3, Outcome.lower),
        ("step02", 0.3, Outcome.inconclusive),
        ("step02", 0.0, Outcome.inconclusive),
    ],
)
def test_a_seed_that_diverged_is_named_and_rules_out_what_it_may_have_made(
    tmp_path: Path, lost: str, difference: float, expected: Outcome
) -> None:
    scatter = 0.01 if difference else 0.001
    differences = [difference + scatter * i for i in range(5)]
    experiment = write_pair(tmp_path / "lost", differences, noise=0.001)
    for stage in ("step02", "step03"):
        write_run(experiment, stage, 6, **(LOST if stage == lost else {}))
    _, verdict, said = judged(experiment)["step03"]
    ruled_out = expected is Outcome.inconclusive
    assert (verdict.outcome, verdict.reason) == (expected, Reason.lost if ruled_out else None)
    assert said.endswith(f"but {lost} seed 6 diverged")


def test_a_stage_is_compared_with_the_one_that_it_stands_on(tmp_path: Path) -> None:
    experiment = write_stages(tmp_path / "parents", step02=7.4, step03=6.5, step04=6.15, step06=6.0)
    for seed in FIVE:
        write_run(experiment, "branch", seed, parent="step02", floor=6.9 + 0.01 * seed)
        write_run(experiment, "step05", seed, **LOST)
    report = Report([experiment])
    compared = {
        s.name: (s.against, s.versus.loss.value) for s in report.main.ladder if s.versus.loss
    }
    assert compared == {
        "step03": ("step02", pytest.approx(-0.9)), "step04": ("step03", pytest.approx(-0.35)),
        "branch": ("step02", pytest.approx(-0.5)),
    }  # fmt: skip
    assert [stage.name for stage in report.answer.advice["no_reference"]] == ["step06"]


def test_runs_of_the_stage_below_elsewhere_change_no_difference(tmp_path: Path) -> None:
    experiment = write_stages(tmp_path / "named", (1, 2, 3), step02=None, step03=7, step04=6)
    before = judged(experiment)["step04"][0].versus.loss
    assert before is not None
    assert before.n == 3
    write_run(experiment, "step03", 4, floor=5.0)
    write_run(experiment, "step03", 1, floor=5.0, typed={"train.eps": 1e-7}, at=50)
    write_run(tmp_path / "other", "step03", 1, floor=5.0, at=55)
    assert judged(experiment, tmp_path / "other")["step04"][0].versus.loss == before


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("", "was never run"),
        ("failed", "failed"),
        ("diverged", "diverged"),
        ("interrupted", "did not reach the end"),
        ("running", "had not ended when this was written"),
    ],
)
def test_why_a_stage_is_compared_with_none_is_said_with_the_command(
    tmp_path: Path, status: str, said: str
) -> None:
    experiment = write_stages(tmp_path / "none", (1, 2), step02=None, step04=None)
    for seed in (1, 2) if status else ():
        write_run(experiment, "step03", seed, status=status, losses=[10.9, 9.0])
    found = judged(experiment)
    _, verdict, text = found["step04"]
    assert (verdict.kind, verdict.outcome) == (Kind.no_reference, None)
    command = f"; train it with {code('python -m runner -m +stage=step03 seed=1,2')}"
    assert text == f"not compared: step03 {said}{command if status != 'running' else ''}"
    unfinished = Report([experiment]).answer.unfinished
    assert [*unfinished] == ([Status(status)] if status else [])
    assert not status or found["step03"][1].kind is Kind.unfinished


def test_a_run_that_failed_before_its_windows_were_known_is_in_the_ladder(tmp_path: Path) -> None:
    write_run(tmp_path / "early", "step02")
    unknown: dict[str, Any] = {"losses": [], "data__windows_sha256": None}
    write_run(tmp_path / "early", "step03", status="failed", message="No memory.", **unknown)
    report, found = Report([tmp_path / "early"]), judged(tmp_path / "early")
    assert [*found] == ["step02", "step03"]
    _, verdict, said = found["step03"]
    assert (verdict.kind, verdict.tone, said) == (Kind.unfinished, Tone.bad, "failed: No memory.")
    assert [stage.name for stage in report.answer.unfinished[Status.failed]] == ["step03"]
    assert report.apart == []


def test_a_step_without_effect_on_a_custom_model_is_no_test_of_the_family(tmp_path: Path) -> None:
    inert = ["model.init", "model.gain"]
    step02, step03, step04 = (question(s, inert=inert) for s in ("step02", "step03", "step04"))
    for seed, difference in zip(FIVE, LOWER, strict=True):
        floor = 7 + 0.1 * seed
        write_run(tmp_path / "own", "step02", seed, floor=floor, asked=[step02, step03])
        write_run(tmp_path / "own", "step04", seed, floor=floor + difference, asked=[step04])
    found = judged(tmp_path / "own")
    same, verdict, _ = found["step03"]
    assert (same.same_as, same.versus.loss, verdict.kind) == ("step02", None, Kind.same)
    assert loss_of(found["step04"]) == pytest.approx(-0.3)
    stage, verdict, _ = found["step04"]
    assert stage.versus.loss is not None
    assert verdict.p == stage.versus.loss.p, "it is the only test"
    assert verdict.outcome is Outcome.lower


def test_an_outcome_is_decided_at_the_end_and_names_the_step_from_which_it_holds(
    tmp_path: Path,
) -> None:
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
            write_run(tmp_path / "end", stage, seed, losses=losses + noise, floor=floor)
    found = judged(tmp_path / "end")
    assert {n: (v.outcome, v.holds_from) for n, (_, v, _) in found.items() if v.outcome} == {
        "step03": (Outcome.lower, 40), "step04": (Outcome.lower, None),
        "step05": (Outcome.equivalent, None),
    }  # fmt: skip
    _, verdict, said = found["step03"]
    assert (verdict.tone, said) == (Tone.good, "lower loss from step 40 on; higher before")


@pytest.mark.parametrize(
    ("seeds", "given", "doubt", "said"),
    [
        (FIVE, {}, None, "faster; loss within 0.02"),
        ((1,), {}, Doubt.few, "one round of the 5 that decide"),
        (FIVE, {"late": True}, Doubt.apart, "the rounds were not interleaved"),
        (FIVE, {"resumed_at": [20]}, Doubt.interrupted, "runs were interrupted"),
        (FIVE, {"ended": "2026-12-01T00:00:00+00:00"}, Doubt.shared, "runs shared the machine"),
        (FIVE, {"process__host": "another"}, Doubt.hosts, "runs were on different hosts"),
    ],
)
def test_a_speed_is_claimed_only_from_interleaved_rounds_of_a_free_machine(
    tmp_path: Path, seeds: tuple[int, ...], given: dict[str, Any], doubt: Doubt | None, said: str
) -> None:
    late = given.pop("late", False)
    for seed in seeds:
        write_run(tmp_path / "speed", "step05", seed, floor=6.0)
        at = 60 * 24 + seed if late else None
        write_run(tmp_path / "speed", "step06", seed, floor=6.0, at=at, **given)
    stage, _, text = judged(tmp_path / "speed")["step06"]
    assert stage.versus.speed is not None
    assert stage.versus.speed.doubt is doubt
    assert stage.versus.speed.pace is (Pace.undecided if doubt else Pace.faster)
    assert said in text


def test_repeats_count_for_speed_and_never_as_seeds(tmp_path: Path) -> None:
    for repeat in FIVE:
        write_run(tmp_path / "repeats", "step05", repeat=repeat, floor=6.0)
        write_run(tmp_path / "repeats", "step06", repeat=repeat, floor=6.0)
    stage, _, _ = judged(tmp_path / "repeats")["step06"]
    assert (len(stage.arm.runs), len(stage.arm.rounds)) == (1, 5)
    assert stage.versus.speed is not None
    assert (stage.versus.speed.estimate.n, stage.versus.speed.pace) == (5, Pace.faster)
    assert stage.versus.loss is not None
    assert stage.versus.loss.over is Sample.windows


def test_speeds_are_compared_only_at_the_same_number_of_threads(tmp_path: Path) -> None:
    write_run(tmp_path / "threads", "step02")
    write_run(tmp_path / "threads", "step03", environment__threads=16)
    found = judged(tmp_path / "threads")["step03"]
    assert loss_of(found) == pytest.approx(-0.9)
    assert found[0].versus.speed is None


def test_a_busy_machine_is_noticed(tmp_path: Path) -> None:
    experiment = write_stages(tmp_path / "busy", [1], step02=None, step03=None)
    assert Report([experiment]).busy == []
    slow = write_run(experiment, "step03", results__flops_after=4e11)
    report = Report([experiment])
    assert report.busy == [f"busy/step03/{slow.name}"]
    assert "busy or throttled during 1 of 2 runs" in SAY("busy", report)


def test_accumulation_is_compared_at_equal_tokens_too(tmp_path: Path) -> None:
    experiment = write_stages(tmp_path / "more", step09=None, step10=None)
    stage, verdict, said = judged(experiment)["step10"]
    at, steps = stage.versus.at_tokens, reports.load(experiment).steps
    assert at is not None
    assert (stage.versus.times_the_tokens, at.tokens) == (8, 50 * 256)
    below, above = (steps[steps.stage == stage] for stage in ("step09", "step10"))
    # At 12,800 tokens step10 has taken 6 steps; step09 is at its last ones.
    expected = above[above.step == 5].loss.mean() - below[below.step >= 45].loss.mean()
    assert at.loss.value == pytest.approx(expected)
    assert expected > 0
    assert (verdict.outcome, verdict.tone) == (Outcome.lower, Tone.even)
    assert said == "lower loss at equal steps, with 8 times the tokens"
    answer = Report([experiment]).answer
    assert (
        [s.name for s in answer.advice["lower"]],
        [s.name for s in answer.advice["with_more"]],
    ) == ([], ["step10"])


def test_the_newest_finished_run_of_a_stage_counts(tmp_path: Path) -> None:
    for label, floor, at, status in (
        ("old", 8.0, 0, "finished"), ("new", 7.0, 60, "finished"), ("now", 6.0, 90, "running"),
    ):  # fmt: skip
        write_run(tmp_path / "again", floor=floor, label=label, at=at, status=status)
    assert judged(tmp_path / "again")["step02"][0].arm.mean("held_out") == pytest.approx(7.15)


@pytest.mark.parametrize(
    "condition",
    [
        {"data__sha256": "00"},
        {"data__windows_sha256": "00"},
        {"typed": {"train.steps": 20}},
        {"environment__device_name": "another"},
        {"code": "another"},
        {"environment__torch": "1.0"},
        {"typed": {"train.weight_decay": 0.5}},
    ],
)
def test_runs_under_other_conditions_are_never_compared(
    tmp_path: Path, condition: dict[str, Any]
) -> None:
    write_run(tmp_path / "mixed", "step02")
    write_run(tmp_path / "mixed", "step03", **condition)
    report = Report([tmp_path / "mixed"])
    assert len(report.groups) == 2
    assert [each.versus.loss for each in report.comparisons] == [None, None]
    assert report.apart == report.groups[1:]


@pytest.mark.parametrize("below", ["as it is", "edited too"])
def test_a_stage_as_it_was_before_its_overlay_was_edited_is_no_part_of_the_ladder(
    tmp_path: Path, below: str
) -> None:
    experiment = write_stages(tmp_path / "edited", step02=7.0, step03=7.3)
    reference = question("step03").reference if below == "as it is" else "of another step02"
    earlier = replace(question("step03", inert=["model.gain"]), reference=reference)
    for seed in FIVE:
        floor = 6.7 + 0.01 * seed
        write_run(experiment, "step03", seed, floor=floor, asked=[earlier], label=f"{seed}", at=1)
    report = Report([experiment])
    assert [stage.name for stage in report.main.stages] == ["step02", "step03"]
    assert loss_of(judged(experiment)["step03"]) == pytest.approx(0.3)
    assert [stage.name for stage in report.answer.advice["higher"]] == ["step03"]
    (apart,) = report.apart
    assert [stage.name for stage in apart.stages] == ["step03"]


def test_no_experiment_is_one_sentence() -> None:
    with pytest.raises(UsageError, match="No experiment was named"):
        Report([])
