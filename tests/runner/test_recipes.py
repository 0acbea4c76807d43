"""Recipes: what +recipe=gpt2_124m trains, its rehearsal, and recipes of one's own."""

import json
import random
import shlex
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

import runner
from runner.files import unseal
from tests.conftest import CommandLine
from tests.faults.lab import Lab, steps_done, wait_until

RECIPE = "+recipe=gpt2_124m"
SHORT = ("train.steps=3", "train.warmup_steps=1", "train.compile=false", "sample.tokens=2")
ITEM = {"ctx": "A man", "endings": ["runs", "sat down", "is a bird", "ate it"], "label": 1}


def shown(command_line: CommandLine, *arguments: str) -> dict[str, Any]:
    """The configuration that a command would train."""
    done = command_line("--cfg=job", *arguments, smoke=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = yaml.safe_load(done.stdout)
    return found


def test_the_recipe_is_the_videos_run(command_line: CommandLine) -> None:
    cfg = shown(command_line, RECIPE, "scale=cuda", "--resolve")
    train = cfg["train"]
    assert cfg["stage"]["name"] == "step10"
    assert cfg["model"]["name"] == "gpt2"
    assert (train["steps"], train["total_batch_tokens"], train["context"]) == (19073, 2**19, 1024)
    assert 10e9 - 2**19 < train["steps"] * train["total_batch_tokens"] <= 10e9
    assert 375e6 - 2**19 < train["warmup_steps"] * train["total_batch_tokens"] <= 375e6
    rate = (train["learning_rate"], train["min_lr_ratio"], train["schedule"])
    assert rate == (6e-4, 0.1, "cosine")
    assert (train["weight_decay"], train["betas"]) == (0.1, [0.9, 0.95])
    assert train["clip_grad_norm"] == 1
    assert (cfg["evaluation"]["every"], cfg["evaluation"]["samples"]) == (250, True)


def test_what_is_typed_wins_over_the_recipe_and_the_recipe_over_the_stage(
    command_line: CommandLine,
) -> None:
    for order in ((RECIPE, "stage=step09"), ("stage=step09", RECIPE)):
        cfg = shown(command_line, "train={steps: 9}", *order, "sample.prompt=Once", "scale=smoke")
        assert cfg["stage"]["name"] == "step09"
        assert cfg["train"]["total_batch_tokens"] is None
        assert (cfg["train"]["steps"], cfg["train"]["warmup_steps"]) == (9, 715)
        assert (cfg["sample"]["prompt"], cfg["sample"]["tokens"]) == ("Once", 24)


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
    cfg = shown(command_line, folder, "+recipe=own")
    assert cfg["stage"]["name"] == "step05"
    assert cfg["model"]["n_embd"] == 1024
    assert cfg["train"]["betas"] == [0.8, 0.9]
    assert cfg["sample"]["prompt"] == 'a "b"'
    assert "+recipe=own" in command_line(folder, smoke=False).stdout
    done = command_line(folder, "+recipe=own", "model=nano", *SHORT)
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("outputs/ladder/step05/*/run.json")
    record = unseal(file.read_bytes())
    assert record["config"]["train"]["betas"] == [0.8, 0.9]
    assert "betas" not in record["command"]
    assert "model=nano" in record["command"]


def test_a_recipe_is_trained_from_python(tmp_path: Path, text_file: Path, cache_dir: Path) -> None:
    run = runner.train(
        "step10", RECIPE, *SHORT, "scale=smoke", "data=text", f"data.path={text_file}",
        f"cache_dir={cache_dir}", f"output_dir={tmp_path}", "quiet=true",
    )  # fmt: skip
    assert run.record.settings.recipe == "gpt2_124m"
    assert run.record.experiment == "gpt2_124m"
    assert run.record.conditions["train.warmup_steps"] == 1


def test_a_plan_may_name_a_recipe_and_several_of_its_seeds(
    command_line: CommandLine, tmp_path: Path
) -> None:
    write_recipe(tmp_path)
    (tmp_path / "plan").mkdir()
    plan = {"hydra": {"mode": "MULTIRUN", "sweeper": {"params": {"seed": "1,2", "+recipe": "own"}}}}
    text = "# @package _global_\n" + yaml.safe_dump(plan)
    (tmp_path / "plan" / "seeds.yaml").write_text(text)
    done = command_line(f"--config-dir={tmp_path}", "+plan=seeds", "dry_run=true")
    assert done.returncode == 0, done.stderr
    assert "2 runs: 0 finished, 2 to train." in done.stdout
    assert "step05" in done.stdout


@pytest.mark.parametrize("content", ["train: {steps: 3}\n", "recipe: {name: own}\n", "word"])
def test_a_file_that_is_no_recipe_is_left_out_by_its_name(
    command_line: CommandLine, tmp_path: Path, content: str
) -> None:
    said = command_line(write_recipe(tmp_path, content), smoke=False).stdout
    assert "own.yaml has no recipe" in said
    assert "+recipe=own" not in said
