"""Tables of plans, what steps are worth, and rates, on made-up losses with known values."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import reports
from reports import tables
from reports.page import build
from reports.report import PlanRuns, Report
from reports.verdicts import Kind, Outcome, Reason
from reports.wording import sentences
from reports.worth import Way, effect
from tests.reports.conftest import FIVE, RATE, SAY, Lab, question

# What each step takes off the loss alone, and two of them together beyond that.
ALONE = {"step03": -0.5, "step04": -0.1, "step05": 0.2, "step09": 0.0}
TOGETHER = -0.6  # layer norm and the residual stream
SETS = [each for n in range(len(ALONE) + 1) for each in combinations(ALONE, n)]


def loss_of(plus: Sequence[str], seed: int) -> float:
    """Eight nats, what the steps take off, and a seed's own part that all its runs share."""
    together = TOGETHER if {"step04", "step05"} <= {*plus} else 0.0
    return 8 + sum(ALONE[step] for step in plus) + together + 0.3 * seed


def plan_of(report: Report, name: str) -> PlanRuns:
    (found,) = (each for each in report.plans if each.name == name)
    return found


def losses_in(plan: PlanRuns) -> dict[str, Any]:
    """The difference of each row that has one."""
    losses = {row.what: row.versus.loss for row in plan.rows}
    return {what: pytest.approx(loss.value) for what, loss in losses.items() if loss}


def test_a_factorial_gives_the_values_that_were_put_in(lab: Lab) -> None:
    draws = np.random.default_rng(0)
    for seed in FIVE:
        for plus in SETS:
            floor = loss_of(plus, seed) + draws.normal(0, 0.004)
            lab.run("step02", seed, plus=plus, plan="factorial", floor=floor)
    report = lab.report
    found = report.worth
    assert found.factorial == [*ALONE]
    assert (found.sets, found.seeds, report.apart) == ((16, 16), [*FIVE], [])
    ways = {step.stage.name: step.ways for step in found.steps}
    for step in ALONE:
        share = TOGETHER / 2 if step in ("step04", "step05") else 0
        assert ways[step][Way.average].value == pytest.approx(ALONE[step] + share, abs=0.002)
        assert ways[step][Way.alone].value == pytest.approx(ALONE[step], abs=0.008)
    for each in found.interactions:
        both = {each.one, each.other} == {"step04", "step05"}
        assert each.change.value == pytest.approx(TOGETHER if both else 0, abs=0.005)
        assert (each.p < 0.05) == both
    said = sentences(SAY("worths", found))
    assert "over all 24 orders of 4 steps on step02: Initialisation −0.5" in said[0]
    (named,) = (each for each in said if each.startswith("Significant interactions"))
    assert "step04 with step05 −0." in named
    assert named.count("step") == 2 + 1  # the two steps, and "two steps" of the sentence

    lab.run("step02", 3, plus=("step04", "step05"), plan="factorial", status="diverged")
    lost = lab.report.worth
    assert (lost.seeds, [*lost.lost]) == ([1, 2, 4, 5], ["step02 plus step04, step05"])


def test_without_every_set_of_a_seed_there_is_no_average(lab: Lab) -> None:
    for seed, left_out in ((1, (*ALONE,)), (2, ("step03",))):
        for plus in SETS:
            if plus != left_out:
                lab.run("step02", seed, plus=plus, plan="factorial", floor=loss_of(plus, seed))
    found = lab.report.worth
    assert (found.factorial, found.seeds, found.sets) == ([], [], (16, 16))
    assert not any(Way.average in step.ways for step in found.steps)
    said = SAY("worths", found)
    assert "without all sets of a seed there is no average over orders" in said


def test_values_and_interactions_are_means_over_all_orders_and_add_up() -> None:
    sets = pd.MultiIndex.from_product([[False, True]] * 4, names=list("abcd"))
    found = pd.DataFrame(np.random.default_rng(0).normal(size=(3, 16)), columns=sets)

    def loss(*steps: str) -> np.ndarray:
        return found[tuple(step in "".join(steps) for step in "abcd")].to_numpy()

    for together in ("a", "b", "c", "d", "ab", "bd"):
        one, other, by_order = together[0], together[1:], []
        for order in permutations([together, *(step for step in "abcd" if step not in together)]):
            before = order[: order.index(together)]
            change = loss(*before, one) - loss(*before)
            if other:
                change = loss(*before, together) - loss(*before, other) - change
            by_order.append(change)
        assert effect(found, *together) == pytest.approx(np.mean(by_order, axis=0))
    total = sum(effect(found, step) for step in "abcd")
    assert total == pytest.approx(loss("abcd") - loss())


def test_a_step_left_out_is_compared_with_the_whole_stage(lab: Lab) -> None:
    lab.stages(step02=9, step08=7.5)
    for without, loss in (([], 7), (["step04"], 6), (["step09"], 7.5)):
        lab.seeds("step09", loss, without=without, plan="leave_one_out")
    report = lab.report
    plan = plan_of(report, "leave_one_out")
    assert [row.against for row in plan.rows] == ["step08", "step09", "step09"]
    outcomes = [verdict.outcome for verdict in plan.verdicts]
    assert outcomes == [Outcome.lower, Outcome.lower, Outcome.higher]
    assert losses_in(plan) == {
        "step09": -0.5, "step09 without step04": -1, "step09 without step09": 0.5,
    }  # fmt: skip
    ways = {step.stage.name: step.ways for step in report.worth.steps}
    assert report.worth.top == "step09"
    assert ways["step04"][Way.last].value == pytest.approx(1)
    assert ways["step09"][Way.last].value == pytest.approx(-0.5)
    assert [stage.what for stage in report.main.stages] == ["step02", "step08", "step09"]


def test_a_stages_best_rate_is_chosen_apart_and_its_edge_is_named(lab: Lab) -> None:
    rates = (1e-4, 3e-4, 6e-4, 12e-4)
    for stage, losses in {"step02": (9.0, 8.5, 8.0, 8.2), "step03": (8.0, 8.6, 9.0, 9.5)}.items():
        for rate, loss in zip(rates, losses, strict=True):
            lab.seeds(stage, loss, typed={RATE: rate}, plan="learning_rate", noise=0.001)
    report = lab.report
    below, stage = report.rates
    assert (below.fixed, below.best, below.at_edge, below.at_fixed) == (3e-4, 6e-4, False, None)
    assert (stage.best, stage.at_edge, stage.below) == (1e-4, True, "step02")
    assert stage.at_fixed.value == pytest.approx(0.1, abs=0.02)
    assert stage.at_best.value == pytest.approx(0.0, abs=0.02)
    assert "The best rate of step03 is at the edge of the grid" in SAY("rates", report)
    assert report.apart == []


def test_one_part_of_a_step_is_compared_without_the_whole_step(lab: Lab) -> None:
    pad, compiled, whole = "step06:model.pad_vocab", "step06:train.compile", ["step06"]
    lab.run("step09", floor=6.0)
    for plan in ("inside", "inside_step06"):
        lab.run("step09", floor=6.1, without=whole, plan=plan)
    lab.run("step09", floor=6.3, without=[pad], plan="inside")
    lab.run("step09", floor=6.6, without=whole, plus=[compiled], plan="inside_step06")
    inside, alone = (plan_of(lab.report, plan) for plan in ("inside", "inside_step06"))
    assert losses_in(inside)[f"step09 without {pad}"] == 0.3
    assert losses_in(alone)[f"step09 without step06 plus {compiled}"] == 0.5
    assert alone.rows[-1].against == "step09 without step06"
    assert alone.verdicts[-1].kind is Kind.one_seed


def test_the_control_says_what_accumulation_brings_for_as_many_tokens(lab: Lab) -> None:
    typed = {"train.steps": 400, "train.warmup_steps": 80}
    command, settings = "python -m runner +stage=step10", question("step10").settings
    control = question("step09", typed=typed, plan="control")
    control = replace(control, reference=settings, reference_command=command)
    lab.stages(step02=6.0, step09=6.0, step10=5.62)
    lab.seeds("step09", 5.32, typed=typed, asked=[control])
    report = lab.report
    plan = plan_of(report, "control")
    assert (plan.rows[0].stage, plan.rows[0].against) == ("step09", "step10")
    (row,) = tables.rows(plan.rows, SAY, plan).rows
    what, against, _, loss, difference, _, outcome = (cell.text for cell in row)
    assert (what, loss, outcome) == ("step10", "5.800", "higher")
    assert against == "step09 train.steps=400 train.warmup_steps=80"
    assert difference.startswith("+0.300"), difference
    assert [stage.what for stage in report.main.stages] == ["step02", "step09", "step10"]


def test_a_plan_of_ones_own_has_a_table_that_is_a_family(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan" / "own.yaml").write_text(
        "plan: {title: No norm, question: Does it help}\n"
        "hydra: {mode: MULTIRUN, sweeper: {params: {seed: '1,2,3,4,5', '+stage': step07}}}\n"
    )
    whats = ["step07 without step03", "step07 without step04, step05"]
    for seed, scatter in zip(FIVE, (-0.1, -0.3, -0.15, -0.35, -0.02), strict=True):
        lab.run("step07", seed, floor=7.0)
        for steps in (["step03"], ["step04", "step05"]):
            lab.run("step07", seed, floor=7.0 + scatter, without=steps, plan="own")
    for config_dirs, title in (([tmp_path], "No norm"), ([], "own")):
        report = Report([lab.path], config_dirs=config_dirs)
        plan = plan_of(report, "own")
        assert plan.about.title == title
        assert f"\n## {title}" in build(report)["report.md"].decode()
        assert [row.what for row in plan.rows] == whats
        for row, verdict in zip(plan.rows, plan.verdicts, strict=True):
            assert row.versus.loss.p < 0.05
            assert verdict.p == pytest.approx(2 * row.versus.loss.p)
            assert (verdict.outcome, verdict.reason) == (Outcome.inconclusive, Reason.spread)
    outcomes = reports.stages(lab.path).set_index("what").outcome.dropna().to_dict()
    assert outcomes == dict.fromkeys(whats, "inconclusive")


def test_a_run_that_another_command_trained_is_in_both_ladders(lab: Lab) -> None:
    """Step 9 has the rate 6e-4 anyway: who types it asks for the same training."""
    typed = {RATE: 6e-4}
    lab.stages(step02=9, step08=7.5)
    lab.seeds("step08", 7.2, typed=typed)
    lab.seeds("step09", 7.0, asked=[question("step09"), question("step09", typed=typed)])
    main, other = lab.report.groups
    assert [stage.stage for stage in main.stages] == ["step02", "step08", "step09"]
    assert [stage.stage for stage in other.stages] == ["step08", "step09"]
    differences = [group.stages[-1].versus.loss for group in (main, other)]
    assert [loss and round(loss.value, 9) for loss in differences] == [-0.5, -0.2]


def test_what_was_typed_holds_for_every_row_of_a_plan(lab: Lab) -> None:
    lab.seeds("step09", 5)  # at its own rate
    for without, loss in (([], 7), (["step03"], 8), (["step04"], 8)):
        lab.seeds("step09", loss, without=without, typed={RATE: 12e-4}, plan="leave_one_out")
    assert losses_in(plan_of(lab.report, "leave_one_out")) == {
        f"step09 without {step} {RATE}=0.0012": 1 for step in ("step03", "step04")
    }


def test_ablations_of_no_plan_are_a_table_and_no_ladder(lab: Lab) -> None:
    lab.seeds("step05", 7)
    lab.seeds("step06", 8, without=("step03", "step04"))
    lab.seeds("step02", 9, plus=("step10",))
    report = lab.report
    assert ([stage.what for stage in report.main.stages], report.apart) == (["step05"], [])
    whats = [row.what for row in plan_of(report, "").rows]
    assert whats == ["step02 plus step10", "step06 without step03, step04"]


def test_plans_and_stages_that_cannot_be_read_stop_no_report(lab: Lab, tmp_path: Path) -> None:
    for plan in ("aimless", "typo"):
        lab.run("step02", plan=plan)
    broken = {
        "stage/torn": "defaults: [\n",
        "plan/aimless": "plan: {reference: 3}\nhydra: {sweeper: {params: {seed: '1,2'}}}\n",
        "plan/typo": "plan: {title: [\n",
    }
    for file, text in broken.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / f"{file}.yaml").write_text(text)
    problems = Report([lab.path], config_dirs=[tmp_path]).records.problems
    for problem, file in zip(problems, broken, strict=True):
        assert str(tmp_path / file) in problem


def test_runs_without_a_loss_are_named(lab: Lab) -> None:
    for seed in FIVE:
        lost = {"status": "diverged" if seed == 2 else "finished"}
        lab.run("step02", seed, floor=9)
        lab.run("step02", seed, floor=8, plus=["step05"], **lost)
        lab.run("step03", seed, floor=8, typed={RATE: 1e-4})
        lab.run("step03", seed, floor=8, typed={RATE: 12e-4}, **lost)
    said, report = "Left out, because they have no loss: ", lab.report
    assert f"{said}step02 plus step05 (seed 2 diverged)." in SAY("worths", report.worth)
    assert f"{said}step03 at 0.0012 (seed 2 diverged)." in SAY("rates", report)
