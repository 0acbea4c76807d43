"""A bank of made-up records with known values, and what the report says of it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

import reports
from conf.reading import register
from reports.findings import Findings
from runner.identity import conditions, resolved
from stages.arithmetic import Ablation, Ladder
from stages.ladder import CONF, nest, read_ladder
from tests.reports.conftest import write_run

SEEDS = (1, 2, 3, 4, 5)
STEPS = ("step03", "step04", "step05", "step08", "step09")
# What each step takes off the loss alone, and two of them together beyond that.
ALONE = {"step03": -0.5, "step04": -0.1, "step05": 0.2, "step08": 0.0, "step09": -0.3}
TOGETHER = -0.6  # layer norm and the residual stream


class Bank:
    """Writes runs whose settings are those of real stages, and whose losses are made up."""

    def __init__(self, experiment: Path) -> None:
        register()
        with initialize_config_dir(str(CONF), version_base="1.3"):
            plain = resolved(compose("config", ["scale=mini"]))
        self.experiment = experiment
        self.base = conditions(plain)
        self.stages = {stage.name: stage for stage in read_ladder()}

    def write(
        self, asked: Ablation, loss: float, seed: int, typed: Mapping[str, Any] = {}, **given: Any
    ) -> Path:
        """One run; `typed` settings are conditions too."""
        base = {**self.base, **typed}
        ladder = Ladder(list(self.stages.values()), base, list(typed))
        same = ladder.plain_stage(asked)
        stage = self.stages[same or asked.stage]
        settings = ladder.settings(asked)
        config = {"seed": seed, "repeat": given.get("repeat", 1), **nest(settings)}
        config["model"]["name"] = config["scale"]["name"] = "mini"
        config["without"] = [] if same else list(asked.without)
        config["plus"] = [] if same else list(asked.plus)
        recipe = json.dumps(settings, sort_keys=True)
        shown = hashlib.sha256(recipe.encode()).hexdigest()[:8]
        return write_run(
            self.experiment,
            stage.name,
            seed,
            floor=loss - 0.15,
            label=f"seed{seed}-{config['repeat']}-{shown}",
            config=config,
            variant=[f"{key}={value}" for key, value in typed.items()],
            conditions=base,
            recipe=recipe,
            stage__aim=stage.about.aim.value,
            stage__parent=stage.parent,
            **given,
        )


@pytest.fixture
def bank(tmp_path: Path) -> Bank:
    return Bank(tmp_path / "ladder")


def loss_of(plus: Sequence[str], seed: int) -> float:
    """Eight nats, what the steps take off, and a seed's own part that all its runs share."""
    together = TOGETHER if {"step04", "step05"} <= {*plus} else 0.0
    return 8 + sum(ALONE[step] for step in plus) + together + 0.3 * seed


def subsets() -> list[tuple[str, ...]]:
    return [each for n in range(len(STEPS) + 1) for each in combinations(STEPS, n)]


def write_factorial(bank: Bank, seeds: Sequence[int] = SEEDS, noise: float = 0.004) -> None:
    rng = np.random.default_rng(0)
    for seed in seeds:
        for plus in subsets():
            loss = loss_of(plus, seed) + rng.normal(0, noise)
            bank.write(Ablation("step02", plus=plus), loss, seed)


def test_a_factorial_gives_the_values_that_were_put_in(bank: Bank) -> None:
    write_factorial(bank, noise=0.0)
    found = Findings.of([bank.experiment]).worth
    assert found is not None
    assert found.factorial is not None
    assert (found.sets, found.factorial.seeds) == ((32, 32), [*SEEDS])
    average = {step.name: step.ways for step in found.steps}
    for step in STEPS:
        share = TOGETHER / 2 if step in ("step04", "step05") else 0
        assert average[step]["on average"].value == pytest.approx(ALONE[step] + share)
        assert average[step]["alone"].value == pytest.approx(ALONE[step])
    for each in found.interactions:
        both = {each.one, each.other} == {"step04", "step05"}
        assert each.change.value == pytest.approx(TOGETHER if both else 0, abs=1e-9)
    assert [found.factorial.steps[i] for i in found.factorial.greedy][:3] == [
        "step03", "step09", "step04",
    ]  # fmt: skip


def test_a_factorial_with_noise_names_the_interaction_and_no_other(bank: Bank) -> None:
    write_factorial(bank)
    page = reports.write_report([bank.experiment])
    text = (page.parent / "report.md").read_text()
    assert "On average over all 120 orders of 5 steps, from the 32 sets of 5 seeds" in text
    (said,) = (line for line in text.splitlines() if line.startswith("Significant interactions"))
    assert said.count("step") == 2 + 1  # the two steps, and "two steps" of the sentence
    assert re.search(r"step04 and step05 −0\.(59|60)\d \(", said)
    values = json.loads((page.parent / "report.json").read_text())
    worth = {step["stage"]: step for step in values["worth"]}
    assert worth["step05"]["on average"]["value"] == pytest.approx(-0.1, abs=0.01)
    assert "Shown apart" not in text
    assert {"worth.png", "interactions.svg", "orders.png"} <= {
        file.name for file in (page.parent / "figures").iterdir()
    }


def test_without_every_set_of_a_seed_there_is_no_average(bank: Bank) -> None:
    for seed, left_out in ((1, STEPS), (2, ("step03",))):
        for plus in subsets():
            if plus != left_out:
                bank.write(Ablation("step02", plus=plus), loss_of(plus, seed), seed)
    page = reports.write_report([bank.experiment])
    text = (page.parent / "report.md").read_text()
    assert "without all sets of a seed there is no average over orders" in text
    assert "On average over all" not in text
    assert not (page.parent / "figures" / "orders.png").exists()


def test_a_step_left_out_is_found_whatever_it_was_asked_as(bank: Bank) -> None:
    for seed in SEEDS:
        bank.write(Ablation("step02"), 9, seed)
        bank.write(Ablation("step08"), 7.5, seed)  # step09 without step09
        bank.write(Ablation("step09"), 7 + 0.01 * seed, seed)
        bank.write(Ablation("step09", without=("step04",)), 6, seed)
    found = Findings.of([bank.experiment])
    assert found.worth is not None
    ways = {step.name: step.ways for step in found.worth.steps}
    assert found.worth.top == "step09"
    assert ways["step04"]["when missing"].value == pytest.approx(1.03)
    assert ways["step09"]["when missing"].value == pytest.approx(-0.47)
    (table,) = (t for t in found.tables if t.plan.name == "leave_one_out")
    assert {str(cell) for cell in table.cells} == {
        "step09", "step09 without step04", "step09 without step09",
    }  # fmt: skip
    assert table.missing == 5


def test_a_stages_best_rate_is_chosen_apart_and_its_edge_is_named(bank: Bank) -> None:
    losses = {
        "step02": {1e-4: 9.0, 3e-4: 8.5, 6e-4: 8.0, 12e-4: 8.2},
        "step03": {1e-4: 8.0, 3e-4: 8.6, 6e-4: 9.0, 12e-4: 9.5},
    }
    for stage, by_rate in losses.items():
        for rate, loss in by_rate.items():
            for seed in SEEDS:
                at = {"train.learning_rate": rate}
                bank.write(Ablation(stage), loss + 0.05 * seed, seed, typed=at, noise=0.001)
    found = Findings.of([bank.experiment])
    below, stage = found.rates
    assert (below.fixed, below.best, below.at_edge, below.at_fixed) == (3e-4, 6e-4, False, None)
    assert (stage.best, stage.at_edge, stage.below) == (1e-4, True, "step02")
    assert stage.at_fixed is not None
    assert stage.at_best is not None
    assert stage.at_fixed.value == pytest.approx(0.1, abs=0.02)
    assert stage.at_best.value == pytest.approx(0.0, abs=0.02)
    text = (reports.write_report([bank.experiment]).parent / "report.md").read_text()
    assert "The best rate of step03 is at the edge of the grid" in text
    assert "Shown apart" not in text


def test_one_part_of_a_step_is_compared_without_the_whole_step(bank: Bank) -> None:
    pad, compiled = "step06:model.pad_vocab", "step06:train.compile"
    lower = ("step06:train.matmul_precision", "step06:train.autocast")
    for asked, loss in (
        (Ablation("step09"), 6.0),
        (Ablation("step09", ("step06",)), 6.1),
        (Ablation("step09", (pad,)), 6.3),
        (Ablation("step09", (*lower, compiled)), 6.6),
    ):
        bank.write(asked, loss, seed=1)
    (table,) = (t for t in Findings.of([bank.experiment]).tables if t.plan.name == "inside")
    rows = {row.what: row for row in table.rows}
    left_out = rows[f"step09 without {pad}"]
    alone = rows["step09 with only model.pad_vocab of step06"]
    assert (left_out.against, alone.against) == ("step09", "step09 without step06")
    for row, difference in ((left_out, 0.3), (alone, 0.5)):
        assert row.versus is not None
        assert row.versus.loss is not None
        assert row.versus.loss.value == pytest.approx(difference, abs=0.02)
        assert row.outcome is None  # one seed


def test_a_stage_is_compared_with_itself_where_it_was_repeated(bank: Bank) -> None:
    for repeat in range(1, 11):
        for stage, step_ms in (("step05", 100.0), ("step06", 50.0), ("step07", 40.0)):
            shorter = {"train.steps": 20}
            took = step_ms * (1 + 0.01 * (repeat % 2))
            bank.write(
                Ablation(stage), 7.0, 1, typed=shorter, repeat=repeat, step_ms=took, steps=20
            )
    (table,) = (t for t in Findings.of([bank.experiment]).tables if t.plan.name == "speed")
    again = [row for row in table.rows if row.against == "itself, the repeat before"]
    assert [row.runs.name for row in again] == ["step05", "step06", "step07"]
    for row in again:
        assert row.versus is not None
        assert row.versus.speed is not None
        assert row.versus.speed.estimate.value == pytest.approx(1.01 ** (1 / 5), abs=1e-6)
        assert row.versus.speed.estimate.n == 5


def test_a_plan_of_ones_own_has_a_table(bank: Bank, tmp_path: Path) -> None:
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan" / "own.yaml").write_text(
        "plan: {title: No norm, question: Does it help}\n"
        "hydra: {mode: MULTIRUN, sweeper: {params: {seed: '1,2,3,4,5', +stage: step07, "
        "without: '[],[step04,step05]'}}}\n".replace("+stage", "'+stage'")
    )
    for seed in SEEDS:
        bank.write(Ablation("step07"), 7 + 0.001 * seed, seed)
        bank.write(Ablation("step07", ("step04", "step05")), 7.5, seed)
    found = Findings.of([bank.experiment], config_dirs=[tmp_path])
    (table,) = (t for t in found.tables if t.plan.name == "own")
    assert [(row.what, row.outcome and row.outcome.value) for row in table.rows] == [
        ("step07", None), ("step07 without step04, step05", "higher"),
    ]  # fmt: skip
    unknown = Findings.of([bank.experiment])
    ((ladder, ablated),) = (stage.rows for stage in unknown.alternatives)
    assert (ladder.what, ablated.what) == ("as the ladder has it", "without=step04,step05")


def test_a_run_that_another_command_trained_is_in_the_ladder(bank: Bank) -> None:
    """Step 9 has the rate 6e-4 anyway: who types it asks for the same training."""
    for seed in SEEDS:
        bank.write(Ablation("step02"), 9, seed)
        bank.write(Ablation("step08"), 7.5, seed)
        at = {"train.learning_rate": 6e-4}
        bank.write(Ablation("step08"), 7.2, seed, typed=at)
        bank.write(Ablation("step09"), 7.0, seed, typed=at)
    found = Findings.of([bank.experiment])
    stages = {stage.name: stage for stage in found.main.stages}
    assert [*stages] == ["step02", "step08", "step09"]
    assert stages["step09"].vs_previous.loss is not None
    assert stages["step09"].vs_previous.loss.value == pytest.approx(-0.5, abs=0.01)
    ((other, _, _),) = found.others
    assert [stage.name for stage in other.stages] == ["step08", "step09"]
    assert other.stages[1].vs_previous.loss is not None
    assert other.stages[1].vs_previous.loss.value == pytest.approx(-0.2, abs=0.01)


def test_a_plan_has_its_section_for_another_stage_too(bank: Bank) -> None:
    for seed in SEEDS:
        bank.write(Ablation("step05"), 7, seed)
        for step in ("step03", "step04"):
            bank.write(Ablation("step05", without=(step,)), 8, seed)
    (table,) = (t for t in Findings.of([bank.experiment]).tables if t.plan.name == "leave_one_out")
    assert {str(cell) for cell in table.cells} == {
        "step05", "step05 without step03", "step05 without step04",
    }  # fmt: skip


def test_ablations_of_no_plan_are_apart_from_each_other(bank: Bank) -> None:
    for seed in SEEDS:
        bank.write(Ablation("step05"), 7, seed)
        bank.write(Ablation("step06", without=("step03", "step04")), 8, seed)
        bank.write(Ablation("step07", without=("step04", "step05")), 9, seed)
    others = Findings.of([bank.experiment]).others
    assert [[stage.name for stage in group.stages] for group, _, _ in others] == [
        ["step06"], ["step07"],
    ]  # fmt: skip


def test_a_plan_that_cannot_be_read_stops_no_report(bank: Bank, tmp_path: Path) -> None:
    for seed in SEEDS:
        bank.write(Ablation("step02"), 9, seed)
    own = tmp_path / "own" / "plan"
    own.mkdir(parents=True)
    (own / "typo.yaml").write_text("plan: {title: [\n")
    (own / "aimless.yaml").write_text("hydra: {sweeper: {params: {seed: '1,2'}}}\n")
    problems = Findings.of([bank.experiment], config_dirs=[tmp_path / "own"]).records.problems
    assert [problem.partition(":")[0] for problem in problems] == [
        "The plan aimless has no section", "The plan typo has no section",
    ]  # fmt: skip


def test_runs_without_a_loss_are_named(bank: Bank) -> None:
    for seed in SEEDS:
        bank.write(Ablation("step02"), 9, seed)
        bank.write(Ablation("step04"), 9, seed)
        lost = {"status": "diverged"} if seed == 2 else {}
        bank.write(Ablation("step02", plus=("step05",)), 8, seed, **lost)
        for rate in (1e-4, 12e-4):
            at = {"train.learning_rate": rate}
            bank.write(Ablation("step03"), 8, seed, typed=at, **(lost if rate > 1e-3 else {}))
    text = (reports.write_report([bank.experiment]).parent / "report.md").read_text()
    assert "Left out, because they have no loss: step02 plus step05 (seed 2 diverged)." in text
    assert "Left out, because they have no loss: step03 at 0.0012 (seed 2 diverged)." in text


def test_a_ladder_alone_has_the_section_of_no_plan(bank: Bank) -> None:
    for seed in SEEDS:
        for stage in bank.stages:
            bank.write(Ablation(stage), 9, seed)
    found = Findings.of([bank.experiment])
    assert (found.worth, found.rates, found.tables) == (None, [], [])


def test_what_was_typed_holds_for_every_cell_of_a_plan(bank: Bank) -> None:
    at = {"train.learning_rate": 12e-4}
    for seed in SEEDS:
        bank.write(Ablation("step09"), 5, seed)  # at its own rate
        bank.write(Ablation("step09"), 7, seed, typed=at)
        for step in ("step03", "step04"):
            bank.write(Ablation("step09", (step,)), 8, seed, typed=at)
    (table,) = (t for t in Findings.of([bank.experiment]).tables if t.plan.name == "leave_one_out")
    values = {row.what: row.versus and row.versus.loss for row in table.rows}
    for step in ("step03", "step04"):
        change = values[f"step09 without {step}"]
        assert change is not None
        assert change.value == pytest.approx(1, abs=0.01)


def test_plans_with_lists_or_with_unknown_steps_stop_no_report(bank: Bank, tmp_path: Path) -> None:
    for seed in SEEDS:
        bank.write(Ablation("step08"), 9, seed)
        bank.write(Ablation("step09"), 9, seed)
    own = tmp_path / "own" / "plan"
    own.mkdir(parents=True)
    for name, params in (
        ("lists", "{+stage: step09, train.betas: '[0.9,0.95],[0.9,0.999]'}"),
        ("typo", "{+stage: step09, without: '[],[step09],[step99:model.norm]'}"),
        ("none", "{+stage: 'step08,step09,step99'}"),
    ):
        text = f"hydra: {{sweeper: {{params: {params}}}}}\n".replace("+stage", "'+stage'")
        (own / f"{name}.yaml").write_text(text)
    found = Findings.of([bank.experiment], config_dirs=[tmp_path / "own"])
    assert found.tables == []
    assert all("step99" in problem for problem in found.records.problems)


def test_ablations_without_a_ladder_are_no_ladder(bank: Bank) -> None:
    for seed in SEEDS:
        bank.write(Ablation("step02", plus=("step10",)), 9, seed)
        bank.write(Ablation("step09", without=("step08", "step03")), 8, seed)
    found = Findings.of([bank.experiment])
    assert sorted(stage.name for group in found.groups for stage in group.stages) == [
        "step02", "step09",
    ]  # fmt: skip
    assert [len(group.stages) for group in found.groups] == [1, 1]


def test_a_seed_that_a_factorial_lost_is_named(bank: Bank) -> None:
    write_factorial(bank)
    bank.write(Ablation("step02", plus=("step04", "step05")), 9, 3, status="diverged")
    worth = Findings.of([bank.experiment]).worth
    assert worth is not None
    assert worth.factorial is not None
    assert worth.factorial.seeds == [1, 2, 4, 5]
    assert [*worth.lost] == ["step02 plus step04, step05"]
