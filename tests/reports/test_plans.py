"""Tables of plans, what steps are worth, and rates, on made-up losses with known values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import reports
from reports import tables
from reports.compare import Comparison
from reports.report import PlanRuns, Report
from reports.rules import read_rules
from reports.verdicts import Kind, Outcome, Reason
from reports.wording import sentences, words
from reports.worth import Way, effect
from tests.reports.conftest import FIVE, ORDER, RATE, question, write_run

SAY = words(read_rules())
STEPS = ("step03", "step04", "step05", "step08", "step09")
# What each step takes off the loss alone, and two of them together beyond that.
ALONE = {"step03": -0.5, "step04": -0.1, "step05": 0.2, "step08": 0.0, "step09": -0.3}
TOGETHER = -0.6  # layer norm and the residual stream
SETS = [each for n in range(len(STEPS) + 1) for each in combinations(STEPS, n)]

Write = Callable[..., Path]


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    return tmp_path / "ladder"


@pytest.fixture
def write(experiment: Path) -> Write:
    """Writes a run with this held-out loss."""
    return lambda loss, stage, seed=1, **given: write_run(
        experiment, stage, seed, floor=loss - 0.15, **given
    )


def loss_of(plus: Sequence[str], seed: int) -> float:
    """Eight nats, what the steps take off, and a seed's own part that all its runs share."""
    together = TOGETHER if {"step04", "step05"} <= {*plus} else 0.0
    return 8 + sum(ALONE[step] for step in plus) + together + 0.3 * seed


def factorial(steps: str, losses: Any) -> pd.DataFrame:
    """The losses of all sets of some steps, a row a seed."""
    sets = pd.MultiIndex.from_product([[False, True]] * len(steps), names=list(steps))
    return pd.DataFrame(losses, columns=sets)


def table_of(report: Report, plan: str) -> PlanRuns:
    (found,) = (each for each in report.plans if each.name == plan)
    return found


def losses_in(table: PlanRuns) -> dict[str, Any]:
    """The difference of each row that has one."""
    losses = {row.what: row.versus.loss for row in table.rows}
    return {what: pytest.approx(loss.value) for what, loss in losses.items() if loss}


def whats(rows: Sequence[Comparison]) -> list[str]:
    return [row.what for row in rows]


def test_a_factorial_gives_the_values_that_were_put_in(write: Write, experiment: Path) -> None:
    draws = np.random.default_rng(0)
    for seed in FIVE:
        for plus in SETS:
            loss = loss_of(plus, seed) + draws.normal(0, 0.004)
            write(loss, "step02", seed, plus=plus, plan="factorial")
    report = Report([experiment])
    found = report.worth
    assert found is not None
    assert found.factorial == [*STEPS]
    assert (found.sets, found.seeds, report.apart) == ((32, 32), [*FIVE], [])
    ways = {step.stage.name: step.ways for step in found.steps}
    for step in STEPS:
        share = TOGETHER / 2 if step in ("step04", "step05") else 0
        assert ways[step][Way.average].value == pytest.approx(ALONE[step] + share, abs=0.002)
        assert ways[step][Way.alone].value == pytest.approx(ALONE[step], abs=0.008)
    for each in found.interactions:
        both = {each.one, each.other} == {"step04", "step05"}
        assert each.change.value == pytest.approx(TOGETHER if both else 0, abs=0.005)
        assert (each.p < 0.05) == both
    said = sentences(SAY("worths", found))
    assert said[0].startswith("On average over all 120 orders of 5 steps, from the 32 sets of 5 ")
    (named,) = (each for each in said if each.startswith("Significant interactions"))
    assert "step04 and step05 −0." in named
    assert named.count("step") == 2 + 1  # the two steps, and "two steps" of the sentence

    write(9, "step02", 3, plus=("step04", "step05"), plan="factorial", status="diverged")
    lost = Report([experiment]).worth
    assert lost is not None
    assert (lost.seeds, [*lost.lost]) == ([1, 2, 4, 5], ["step02 plus step04, step05"])


def test_without_every_set_of_a_seed_there_is_no_average(write: Write, experiment: Path) -> None:
    for seed, left_out in ((1, STEPS), (2, ("step03",))):
        for plus in SETS:
            if plus != left_out:
                write(loss_of(plus, seed), "step02", seed, plus=plus, plan="factorial")
    found = Report([experiment]).worth
    assert found is not None
    assert (found.factorial, found.seeds, found.sets) == ([], [], (32, 32))
    assert not any(Way.average in step.ways for step in found.steps)
    said = SAY("worths", found)
    assert "without all sets of a seed there is no average over orders" in said


@pytest.mark.parametrize(
    ("losses", "worth", "pair", "together"),
    [
        ((10, 7, 9, 6), (-1, -3), "ab", 0),  # none, b, a, ab: a takes 1 away and b takes 3
        ((10, 10, 10, 6), (-2, -2), "ab", -4),  # only together
        # A pair changes something only where the third step is there: half of the orders.
        ((9, 9, 9, 9, 9, 9, 9, 6), (-1, -1, -1), "ac", -1.5),
    ],
)
def test_values_and_interactions_are_those_worked_out_by_hand(
    losses: Sequence[float], worth: Sequence[float], pair: str, together: float
) -> None:
    names = "abc"[: len(worth)]
    found = factorial(names, [losses])
    assert [effect(found, step)[0] for step in names] == pytest.approx([*worth])
    assert effect(found, *pair) == pytest.approx([together])


def test_values_are_means_over_all_orders_and_add_up() -> None:
    found = factorial("abcd", np.random.default_rng(0).normal(size=(3, 16)))

    def loss(steps: Sequence[str]) -> np.ndarray:
        return found[tuple(step in steps for step in "abcd")].to_numpy()

    for step in "abcd":
        by_order = []
        for order in permutations("abcd"):
            before = order[: order.index(step)]
            by_order.append(loss([*before, step]) - loss(before))
        assert effect(found, step) == pytest.approx(np.mean(by_order, axis=0))
    total = sum(effect(found, step) for step in "abcd")
    assert total == pytest.approx(loss("abcd") - loss(""))


def test_a_step_left_out_is_compared_with_the_whole_stage(write: Write, experiment: Path) -> None:
    for seed in FIVE:
        write(9, "step02", seed)
        write(7.5, "step08", seed)
        for without, loss in (([], 7 + 0.01 * seed), (["step04"], 6), (["step09"], 7.5)):
            write(loss, "step09", seed, without=without, plan="leave_one_out")
    report = Report([experiment])
    table = table_of(report, "leave_one_out")
    assert [row.against for row in table.rows] == ["step08", "step09", "step09"]
    outcomes = [verdict.outcome for verdict in table.verdicts]
    assert outcomes == [Outcome.lower, Outcome.lower, Outcome.higher]
    assert losses_in(table) == {
        "step09": -0.47, "step09 without step04": -1.03, "step09 without step09": 0.47,
    }  # fmt: skip
    assert report.worth is not None
    ways = {step.stage.name: step.ways for step in report.worth.steps}
    assert report.worth.top == "step09"
    assert ways["step04"][Way.missing].value == pytest.approx(1.03)
    assert ways["step09"][Way.missing].value == pytest.approx(-0.47)
    assert whats(report.main.stages) == ["step02", "step08", "step09"]


def test_a_stages_best_rate_is_chosen_apart_and_its_edge_is_named(
    write: Write, experiment: Path
) -> None:
    for stage, by_rate in {
        "step02": {1e-4: 9.0, 3e-4: 8.5, 6e-4: 8.0, 12e-4: 8.2},
        "step03": {1e-4: 8.0, 3e-4: 8.6, 6e-4: 9.0, 12e-4: 9.5},
    }.items():
        for rate, loss in by_rate.items():
            for seed in FIVE:
                given: dict[str, Any] = {"typed": {RATE: rate}, "plan": "learning_rate"}
                write(loss + 0.05 * seed, stage, seed, noise=0.001, **given)
    report = Report([experiment])
    below, stage = report.rates
    assert (below.fixed, below.best, below.at_edge, below.at_fixed) == (3e-4, 6e-4, False, None)
    assert (stage.best, stage.at_edge, stage.below) == (1e-4, True, "step02")
    assert stage.at_fixed is not None
    assert stage.at_best is not None
    assert stage.at_fixed.value == pytest.approx(0.1, abs=0.02)
    assert stage.at_best.value == pytest.approx(0.0, abs=0.02)
    assert "The best rate of step03 is at the edge of the grid" in SAY("rates", report)
    assert report.apart == []


def test_one_part_of_a_step_is_compared_without_the_whole_step(
    write: Write, experiment: Path
) -> None:
    pad, compiled, whole = "step06:model.pad_vocab", "step06:train.compile", ["step06"]
    write(6.0, "step09")
    for plan in ("inside", "inside_step06"):
        write(6.1, "step09", without=whole, plan=plan)
    write(6.3, "step09", without=[pad], plan="inside")
    write(6.6, "step09", without=whole, plus=[compiled], plan="inside_step06")
    report = Report([experiment])
    assert losses_in(table_of(report, "inside"))[f"step09 without {pad}"] == 0.3
    alone = table_of(report, "inside_step06")
    assert losses_in(alone)[f"step09 without step06 plus {compiled}"] == 0.5
    assert (alone.rows[-1].against, alone.verdicts[-1].kind) == (
        "step09 without step06", Kind.one_seed,
    )  # fmt: skip


def test_the_control_says_what_accumulation_brings_for_as_many_tokens(
    write: Write, experiment: Path
) -> None:
    typed = {"train.steps": 400, "train.warmup_steps": 80}
    control = replace(
        question("step09", typed=typed, plan="control"),
        reference=question("step10").settings,
        reference_command="python -m runner +stage=step10",
    )
    for seed in FIVE:
        write(6.0, "step02", seed)
        write(6.0 + 0.1 * seed, "step09", seed)
        write(5.5 + 0.1 * seed, "step10", seed)
        write(5.2 + 0.101 * seed, "step09", seed, typed=typed, asked=[control])
    report = Report([experiment])
    plan = table_of(report, "control")
    assert (plan.rows[0].stage, plan.rows[0].against) == ("step09", "step10")
    (row,) = tables.rows(plan.rows, SAY, plan).rows
    what, against, _, loss, difference, _, outcome = (cell.text for cell in row)
    assert (what, loss, outcome) == ("step10", "5.800", "higher")
    assert against == "step09 train.steps=400 train.warmup_steps=80"
    assert difference.startswith("+0.297"), difference
    assert whats(report.main.stages) == ["step02", "step09", "step10"]


def test_a_plan_of_ones_own_has_a_table_that_is_a_family(
    write: Write, experiment: Path, tmp_path: Path
) -> None:
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan" / "own.yaml").write_text(
        "plan: {title: No norm, question: Does it help}\n"
        "hydra: {mode: MULTIRUN, sweeper: {params: {seed: '1,2,3,4,5', '+stage': step07}}}\n"
    )
    for seed, scatter in zip(FIVE, (-0.1, -0.3, -0.15, -0.35, -0.02), strict=True):
        write(7.0, "step07", seed)
        for steps in (["step03"], ["step04", "step05"]):
            write(7.0 + scatter, "step07", seed, without=steps, plan="own")
    for config_dirs, title in (([tmp_path], "No norm"), ([], "own")):
        table = table_of(Report([experiment], config_dirs=config_dirs), "own")
        assert table.about.title == title
        assert whats(table.rows) == ["step07 without step03", "step07 without step04, step05"]
        for row, verdict in zip(table.rows, table.verdicts, strict=True):
            assert row.versus.loss is not None
            assert row.versus.loss.p < 0.05
            assert verdict.p == pytest.approx(2 * row.versus.loss.p)
            assert (verdict.outcome, verdict.reason) == (Outcome.inconclusive, Reason.spread)
    table = reports.stages(experiment).set_index("what")
    assert table.outcome.dropna().to_dict() == {
        "step07 without step03": "inconclusive", "step07 without step04, step05": "inconclusive",
    }  # fmt: skip


def test_a_run_that_another_command_trained_is_in_both_ladders(
    write: Write, experiment: Path
) -> None:
    """Step 9 has the rate 6e-4 anyway: who types it asks for the same training."""
    typed = {RATE: 6e-4}
    for seed in FIVE:
        write(9, "step02", seed)
        write(7.5, "step08", seed)
        write(7.2, "step08", seed, typed=typed)
        write(7.0, "step09", seed, asked=[question("step09"), question("step09", typed=typed)])
    main, other = Report([experiment]).groups
    assert [stage.stage for stage in main.stages] == ["step02", "step08", "step09"]
    assert [stage.stage for stage in other.stages] == ["step08", "step09"]
    differences = [group.stages[-1].versus.loss for group in (main, other)]
    assert [loss and round(loss.value, 9) for loss in differences] == [-0.5, -0.2]


def test_what_was_typed_holds_for_every_row_of_a_plan(write: Write, experiment: Path) -> None:
    for seed in FIVE:
        write(5, "step09", seed)  # at its own rate
        for without, loss in (([], 7), (["step03"], 8), (["step04"], 8)):
            given: dict[str, Any] = {"without": without, "typed": {RATE: 12e-4}}
            write(loss, "step09", seed, plan="leave_one_out", **given)
    assert losses_in(table_of(Report([experiment]), "leave_one_out")) == {
        f"step09 without {step} {RATE}=0.0012": 1 for step in ("step03", "step04")
    }


def test_ablations_of_no_plan_are_a_table_and_no_ladder(write: Write, experiment: Path) -> None:
    for seed in FIVE:
        write(7, "step05", seed)
        write(8, "step06", seed, without=("step03", "step04"))
        write(9, "step02", seed, plus=("step10",))
    report = Report([experiment])
    assert (whats(report.main.stages), report.apart) == (["step05"], [])
    assert whats(table_of(report, "").rows) == [
        "step02 plus step10", "step06 without step03, step04",
    ]  # fmt: skip


def test_plans_and_stages_that_cannot_be_read_stop_no_report(
    write: Write, experiment: Path, tmp_path: Path
) -> None:
    for plan in ("aimless", "typo"):
        write(9, "step02", plan=plan)
    for file, text in {
        "stage/torn": "defaults: [\n",
        "plan/aimless": "plan: {reference: 3}\nhydra: {sweeper: {params: {seed: '1,2'}}}\n",
        "plan/typo": "plan: {title: [\n",
    }.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / f"{file}.yaml").write_text(text)
    problems = Report([experiment], config_dirs=[tmp_path]).records.problems
    for problem, file in zip(problems, ("stage/torn", "plan/aimless", "plan/typo"), strict=True):
        assert str(tmp_path / file) in problem


def test_runs_without_a_loss_are_named(write: Write, experiment: Path) -> None:
    for seed in FIVE:
        lost = {"status": "diverged" if seed == 2 else "finished"}
        write(9, "step02", seed)
        write(8, "step02", seed, plus=["step05"], **lost)
        write(8, "step03", seed, typed={RATE: 1e-4})
        write(8, "step03", seed, typed={RATE: 12e-4}, **lost)
    report = Report([experiment])
    said = "Left out, because they have no loss: "
    worth, rates = SAY("worths", report.worth), SAY("rates", report)
    assert f"{said}step02 plus step05 (seed 2 diverged)." in worth
    assert f"{said}step03 at 0.0012 (seed 2 diverged)." in rates


def test_a_ladder_alone_has_the_section_of_no_plan(write: Write, experiment: Path) -> None:
    for stage in ORDER:
        write(9, stage, plan="ladder")
    report = Report([experiment])
    assert (report.worth, report.rates, report.plans, report.apart) == (None, [], [], [])
