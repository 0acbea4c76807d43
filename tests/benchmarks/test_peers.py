"""The peers train the same model on the same tokens, so that speeds can be compared."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from runner.record import Run
from tests.benchmarks.ours import read, steady_seconds
from tests.benchmarks.peers import tokens_of, train_peer
from tests.benchmarks.performance import COMPARED_STEPS, LossesDiffer, check_losses, padding_share
from tests.benchmarks.plain import PlainGPT, train_plain
from tests.conftest import CommandLine

STEPS = 5
# What the command line trains in fp32 and eagerly wherever the tests run.
PLAIN = (f"train.steps={STEPS}", "train.autocast=none", "train.compile=false")


def follow(peer: str, record: Run, cache_dir: Path, bf16: bool = False) -> dict[str, Any]:
    """A peer, after a run's record."""
    tokens = tokens_of(record, cache_dir)
    return train_peer(peer, record.config, tokens, bf16, torch.device("cpu"))


@pytest.mark.slow
def test_transformers_has_the_losses_of_step_7_and_at_no_other_learning_rate(
    command_line: CommandLine, cache_dir: Path, tmp_path: Path
) -> None:
    done = command_line("+stage=step07", *PLAIN)
    assert done.returncode == 0, done.stderr
    run = read(tmp_path / "outputs")
    theirs = follow("huggingface", run.record, cache_dir)
    padding = padding_share(run.record.config["model"])
    assert padding == pytest.approx(2 * math.log(50304 / 50257))
    check_losses(run.losses, theirs["losses"], "fp32", padding)
    with pytest.raises(LossesDiffer, match="At step 0"):
        check_losses(run.losses, theirs["losses"], "fp32")
    run.record.config["train"]["learning_rate"] = 4e-4
    theirs = follow("huggingface", run.record, cache_dir)
    with pytest.raises(LossesDiffer, match="At step"):
        check_losses(run.losses, theirs["losses"], "fp32", padding)


@pytest.mark.slow
def test_without_padding_transformers_agrees_to_rounding(
    command_line: CommandLine, cache_dir: Path, tmp_path: Path
) -> None:
    command_line("+stage=step07", *PLAIN, "model.pad_vocab=false")
    run = read(tmp_path / "outputs")
    theirs = follow("huggingface", run.record, cache_dir)
    check_losses(run.losses, theirs["losses"], "fp32")


@pytest.mark.slow
def test_the_plain_script_has_the_losses_of_step_9(
    command_line: CommandLine, cache_dir: Path, tmp_path: Path
) -> None:
    # A rate at which five steps outweigh the difference between two batches of any text.
    command_line("+stage=step09", *PLAIN, "train.learning_rate=3e-3")
    run = read(tmp_path / "outputs")
    theirs = follow("plain", run.record, cache_dir)
    check_losses(run.losses, theirs["losses"], "fp32")
    assert len(theirs["step_seconds"]) == STEPS
    assert run.losses[-1] < run.losses[0]
    rounded = follow("plain", run.record, cache_dir, bf16=True)
    check_losses(run.losses, rounded["losses"], "bf16")
    assert rounded["losses"] != theirs["losses"]


def test_the_compiled_plain_script_trains_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_model = torch.compile
    compiled_models = []

    def traced(model: PlainGPT) -> Any:
        compiled_models.append(model)
        return compile_model(model, backend="eager")

    monkeypatch.setattr(torch, "compile", traced)
    batches = torch.randint(64, (3, 2, 1, 8), generator=torch.manual_seed(1))
    numbers = {"learning_rate": 1e-2, "warmup_steps": 3, "weight_decay": 0.1}
    numbers |= {"betas": (0.9, 0.95), "clip_grad_norm": 1.0}
    losses = {}
    for compiled in (False, True):
        torch.manual_seed(1)
        model = PlainGPT(1, 2, 8, 8, 64)
        _, losses[compiled] = train_plain(
            model, batches, torch.device("cpu"), False, compiled, numbers
        )
    assert compiled_models == [model]
    assert losses[True] == pytest.approx(losses[False], rel=1e-6)


def test_only_the_first_steps_are_compared() -> None:
    later = [8.0] * COMPARED_STEPS
    assert check_losses([*later, 8.0], [*later, 9.0], "bf16") == 0
    with pytest.raises(LossesDiffer, match="At step 9"):
        check_losses(later, [*later[:-1], 9.0], "bf16")


def test_the_first_steps_are_not_counted() -> None:
    assert steady_seconds([9.0, 9.0, 9.0, 1.0, 2.0, 3.0]) == 2.0
    assert steady_seconds([9.0, 1.0, 2.0]) == 1.5
    assert steady_seconds([9.0]) == 9.0
