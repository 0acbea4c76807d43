"""The plans of the project, and of the user's own."""

from itertools import groupby
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from conf.errors import UsageError
from hydra_plugins.balanced_sweeper import BalancedSweeper
from runner.overrides import expand, parse
from stages.arithmetic import Ablation, Ladder
from stages.ladder import CONF, group_files, read_ladder
from stages.plans import read_plan

PLANS = {name: read_plan(file) for name, file in group_files("plan").items()}
NUMBERS = {
    "ladder": 5 * 10, "leave_one_out": 5 * 8, "only_one": 5 * 9, "factorial": 5 * 32,
    "inside": 5 * 10, "inside_step06": 5 * 4, "inside_step09": 5 * 5, "claims": 5 * 3,
    "learning_rate": 5 * 5 * 6, "speed": 10 * 3, "horizon": 3 * 2, "beyond": 5 * 14,
    "beyond_factorial": 5 * 32,
}  # fmt: skip


def test_every_plan_is_counted_here() -> None:
    assert NUMBERS.keys() | {"control"} == PLANS.keys()


@pytest.mark.parametrize("name", NUMBERS)
def test_a_plan_asks_in_rounds_for_its_runs_which_can_be_made(name: str) -> None:
    runs = [parse(run) for run in expand(PLANS[name].params)]
    assert len(runs) == NUMBERS[name]
    rounds = [(run.get("seed"), run.get("repeat")) for run in runs]
    seen = [each for each, _ in groupby(rounds)]
    assert len(seen) == len(set(seen)), "a round begins when the one before it is over"
    base = {"train.steps": 50, "scale.accumulate_to_tokens": 64, "scale.flow_context": 16,
            "scale.flow_micro_batch_size": 2, "scale.peak_learning_rate": 6e-4,
            "model.norm": "none"}  # fmt: skip
    ladder = Ladder(read_ladder(), base)
    for run in runs:
        lists = {word: run.get(word, []) for word in ("without", "plus")}
        ladder.settings(Ablation.read(run["stage"], lists))


@pytest.mark.parametrize("plan", ["factorial", "beyond_factorial"])
def test_a_factorial_has_every_set_of_its_steps(plan: str) -> None:
    sets = {frozenset(map(str, parse(run)["plus"])) for run in expand(PLANS[plan].params)}
    assert len(sets) == 2 ** len(frozenset.union(*sets)) == 32


def test_the_plan_beyond_the_guide_has_every_stage_that_is_beyond_it() -> None:
    asked = {parse(run)["stage"] for run in expand(PLANS["beyond"].params)}
    assert asked == {"step09", *(stage.name for stage in read_ladder() if stage.beyond)}


@pytest.mark.parametrize(("step", "parts"), [("step06", 3), ("step09", 4)])
def test_each_part_of_a_step_is_left_out_and_alone(step: str, parts: int) -> None:
    (stage,) = (stage for stage in read_ladder() if stage.name == step)
    left_out = [parse(run)["without"] for run in expand(PLANS["inside"].params, ["seed=1"])]
    alone = [parse(run) for run in expand(PLANS[f"inside_{step}"].params, ["seed=1"])]
    assert left_out[:3] == [[], ["step06"], ["step09"]]
    assert {(run["stage"], *run["without"]) for run in alone} == {("step09", step)}
    assert alone[0]["plus"] == []
    found = [[e for e in entries if e.startswith(f"{step}:")] for entries in left_out]
    assert [run["plus"] for run in alone[1:]] == [entries for entries in found if entries]
    assert len(alone[1:]) == parts
    keys = [entry for run in alone for entry in run["plus"]]
    assert sorted(keys) == sorted(f"{step}:{key}" for key in stage.changes)


def test_typed_values_replace_those_of_a_plan() -> None:
    runs = expand(PLANS["leave_one_out"].params, ["seed=7,8", "+stage=step05", "scale=mini"])
    assert {parse(run)["seed"] for run in runs} == {7, 8}
    assert {parse(run)["stage"] for run in runs} == {"step05"}
    assert parse(runs[0])["seed"] == parse(runs[7])["seed"] == 7


RUNS = "hydra: {mode: MULTIRUN, sweeper: {params: {'+stage': step05}}}\n"
PARTS = r"own\.yaml: plan has a title, a question and maybe a r"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{RUNS}train: {{steps: 20}}\n", r"own\.yaml sets train; a plan sets every value under"),
        ("plan: {title: Own, question: What}\n", r"has no hydra\.sweeper\.params"),
        (f"plan: {{title: Own, questin: What}}\n{RUNS}", PARTS),
        (f"plan: word\n{RUNS}", PARTS),
        (f"plan: {{reference: [step10]}}\n{RUNS}", PARTS),
    ],
)
def test_a_plan_sets_its_values_in_its_parameters_and_has_no_unknown_part(
    tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(RUNS)
    assert (read_plan(file).name, read_plan(file).params) == ("own", {"+stage": "step05"})
    file.write_text(f"plan: {{reference: {{stage: step10, train.steps: null}}}}\n{RUNS}")
    assert read_plan(file).about.reference == {"stage": "step10", "train.steps": None}
    file.write_text(text)
    with pytest.raises(UsageError, match=said):
        read_plan(file)


def test_every_second_round_runs_backwards() -> None:
    overrides = OverridesParser.create().parse_overrides(["repeat=1,2,3", "+stage=a,b,c"])
    (runs,) = BalancedSweeper.split_arguments(overrides, None)
    assert [run[1][-1] for run in runs] == [*"abc", *"cba", *"abc"]
    batches = BalancedSweeper.split_arguments(overrides, 4)
    assert [len(batch) for batch in batches] == [4, 4, 1]
    content = OmegaConf.load(CONF / "hydra" / "sweeper" / "balanced.yaml")
    assert content._target_.rpartition(".")[2] == BalancedSweeper.__name__
