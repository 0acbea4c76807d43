"""Recipes: what +recipe=gpt2_124m trains, its rehearsal, and recipes of one's own."""

import io
import json
import random
import shlex
import signal
from pathlib import Path

import pytest
import yaml
from rich.console import Console

import runner
from conf.schema import Schedule
from runner.dry_run import list_runs
from runner.files import unseal
from runner.overview import show_ladder
from tests.conftest import CommandLine, Settings
from tests.faults.lab import Lab, steps_done, wait_until

RECIPE = "+recipe=gpt2_124m"
SHORT = ("train.steps=3", "train.warmup_steps=1", "train.compile=false", "sample.tokens=2")
ITEM = {"ctx": "A man", "endings": ["runs", "sat down", "is a bird", "ate it"], "label": 1}


def test_the_recipe_is_the_videos_run(settings: Settings) -> None:
    config = settings(RECIPE, "scale=cuda")
    train = config.train
    assert config.stage
    assert (config.stage.name, config.model.name) == ("step10", "gpt2")
    assert (train.steps, train.total_batch_tokens, train.context) == (19073, 2**19, 1024)
    assert 10e9 - 2**19 < train.steps * 2**19 <= 10e9
    assert 375e6 - 2**19 < train.warmup_steps * 2**19 <= 375e6
    rate = (train.learning_rate, train.min_lr_ratio, train.schedule)
    assert rate == (6e-4, 0.1, Schedule.cosine)
    assert (train.weight_decay, [*train.betas]) == (0.1, [0.9, 0.95])
    assert train.clip_grad_norm == 1
    assert (config.evaluation.every, config.evaluation.samples) == (250, True)


@pytest.mark.parametrize("order", [(RECIPE, "stage=step09"), ("stage=step09", RECIPE)])
def test_what_is_typed_wins_over_the_recipe_and_the_recipe_over_the_stage(
    settings: Settings, order: tuple[str, str]
) -> None:
    config = settings("train={steps: 9}", *order, "sample.prompt=Once")
    assert config.stage
    assert config.stage.name == "step09"
    assert config.train.total_batch_tokens is None
    assert (config.train.steps, config.train.warmup_steps) == (9, 715)
    assert (config.sample.prompt, config.sample.tokens) == ("Once", 24)


@pytest.mark.slow
def test_a_rehearsal_interrupted_twice_is_the_run_without_interruption_bit_by_bit(
    tmp_path: Path, text_file: Path
) -> None:
    text, items = tmp_path / "text.txt", tmp_path / "items.jsonl"
    text.write_bytes(text_file.read_bytes())
    items.write_text("".join(f"{json.dumps({**ITEM, 'label': i % 4})}\n" for i in range(9)))
    (tmp_path / "whole").mkdir()
    lab = Lab(tmp_path, text, tmp_path / "cache", random.Random(0), tmp_path / "whole")
    command = (
        RECIPE, "train.steps=40", "train.warmup_steps=4", "evaluation.every=6",
        "train.compile=true", f"evaluation.hellaswag={items}", "sample.tokens=24",
    )  # fmt: skip
    whole = lab.undisturbed(*command)
    experiment = lab.new_experiment()
    for steps in (8, 23):
        process = lab.start(experiment, *command)
        assert wait_until(lambda n=steps: steps_done(experiment) >= n, process)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130, (tmp_path / "log.txt").read_text()
    lab.check_resumed(experiment, *command)
    (file,) = experiment.glob("step10/*/run.json")
    record = unseal(file.read_bytes())
    assert len(record["resumed_at"]) == 2
    assert record["config"]["recipe"]["name"] == "gpt2_124m"
    evaluated = [6, 12, 18, 24, 30, 36, 40]
    assert [found["step"] for found in record["hellaswag"]] == evaluated
    assert [sample["step"] for sample in record["samples"]] == evaluated
    assert len({sample["text"] for sample in record["samples"]}) > 1
    assert (file.parent / "weights.safetensors").exists()
    assert whole["step10"][1] == record["samples"]


@pytest.mark.slow
def test_the_record_says_which_recipe_and_its_command_finds_the_run(
    command_line: CommandLine, tmp_path: Path
) -> None:
    done = command_line(RECIPE, *SHORT)
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("outputs/gpt2_124m/step10/*/run.json")
    record = unseal(file.read_bytes())
    assert record["config"]["recipe"]["name"] == "gpt2_124m"
    assert {"train.steps=3", "train.warmup_steps=1"} <= {*record["variant"]}
    assert record["config"]["evaluation"]["every"] == 250
    assert "evaluation" not in record["command"]
    assert record["conditions"]["train.warmup_steps"] == 1
    assert record["stage"]["changes"] == {"train.total_batch_tokens": [None, 128]}
    again = command_line(*shlex.split(record["command"])[3:], smoke=False)
    assert "step10: already finished" in again.stdout, again.stderr


OWN = """# @package _global_
defaults: [/stage: step05, override /model: gpt2_medium, _self_]
recipe: {name: own, title: Own}
train: {betas: [0.8, 0.9]}
sample: {prompt: 'a "b"'}
"""


def write_recipe(folder: Path, content: str = OWN) -> str:
    (folder / "recipe").mkdir(exist_ok=True)
    (folder / "recipe" / "own.yaml").write_text(content)
    return f"--config-dir={folder}"


def test_a_recipe_of_ones_own_is_one_file(command_line: CommandLine, tmp_path: Path) -> None:
    folder = write_recipe(tmp_path)
    done = command_line("--cfg=job", folder, "+recipe=own", smoke=False)
    assert done.returncode == 0, done.stderr
    cfg = yaml.safe_load(done.stdout)
    assert (cfg["stage"]["name"], cfg["model"]["n_embd"]) == ("step05", 1024)
    assert (cfg["train"]["betas"], cfg["sample"]["prompt"]) == ([0.8, 0.9], 'a "b"')
    assert "+recipe=own" in command_line(folder, smoke=False).stdout
    done = command_line(folder, "+recipe=own", "model=nano", *SHORT)
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("outputs/ladder/step05/*/run.json")
    record = unseal(file.read_bytes())
    assert record["config"]["train"]["betas"] == [0.8, 0.9]
    assert "betas" not in record["command"]
    assert "model=nano" in record["command"]


def test_a_recipe_is_trained_from_python(words: list[str]) -> None:
    run = runner.train("step10", RECIPE, *SHORT, *words, "quiet=true")
    assert run.record.settings.recipe == "gpt2_124m"
    assert run.record.experiment == "gpt2_124m"
    assert run.record.conditions["train.warmup_steps"] == 1


def test_a_plan_may_name_a_recipe_and_several_of_its_seeds(
    words: list[str], tmp_path: Path
) -> None:
    write_recipe(tmp_path)
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan" / "seeds.yaml").write_text(
        "# @package _global_\n"
        "hydra: {mode: MULTIRUN, sweeper: {params: {seed: '1,2', +recipe: own}}}\n"
    )
    said = io.StringIO()
    list_runs([*words, "+plan=seeds"], [tmp_path], Console(file=said, width=200))
    assert "2 runs: 0 finished, 2 to train." in said.getvalue()
    assert "step05" in said.getvalue()


@pytest.mark.parametrize("content", ["train: {steps: 3}\n", "recipe: {name: own}\n", "word"])
def test_a_file_that_is_no_recipe_is_left_out_by_its_name(tmp_path: Path, content: str) -> None:
    write_recipe(tmp_path, content)
    said = io.StringIO()
    show_ladder(Console(file=said, width=200), [tmp_path])
    assert "own.yaml has no recipe" in said.getvalue()
    assert "+recipe=own" not in said.getvalue()
