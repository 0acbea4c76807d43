"""Which changes make another run, and which make runs that cannot be compared."""

import shutil
from pathlib import Path

import pytest

from runner.identity import conditions, resolved
from tests.conftest import ROOT, CommandLine
from tests.runner.conftest import composed

RUN = ("+stage=step02", "train.steps=2", "train.compile=false")


def composed_conditions(*overrides: str) -> dict[str, object]:
    return conditions(resolved(composed(*overrides)))


@pytest.mark.parametrize(
    "override",
    [
        "train.micro_batch_size=8", "train.context=16", "train.steps=7",
        "train.total_batch_tokens=256", "train.learning_rate=1e-3", "evaluation.tokens=256",
        "data.held_out_fraction=0.5", "model.n_layer=1", "model=gpt2", "scale=cpu",
    ],
)  # fmt: skip
def test_what_decides_losses_is_a_condition(override: str) -> None:
    assert composed_conditions(override) != composed_conditions()


@pytest.mark.parametrize(
    "override",
    [
        "seed=2", "experiment=other", "checkpoint=last", "train.checkpoint_every.steps=5",
        "train.checkpoint_every.minutes=null", "force=true", "device=cpu", "sample.tokens=3",
        "evaluation.samples=true", "evaluation.hellaswag=file", "evaluation.hellaswag_items=5",
        "evaluation.peak_seconds=2", "output_dir=other", "cache_dir=other",
        "logger=tensorboard",
    ],
)  # fmt: skip
def test_what_decides_no_loss_is_no_condition(override: str) -> None:
    assert composed_conditions(override) == composed_conditions()


def test_equal_values_are_equal_conditions_however_they_were_set() -> None:
    assert composed_conditions("train.micro_batch_size=2", "model=nano") == composed_conditions()


@pytest.mark.slow
def test_a_changed_message_trains_nothing_again_and_a_changed_loop_does(
    command_line: CommandLine, tmp_path: Path
) -> None:
    checkout = tmp_path / "checkout"
    for room in ("conf", "gpt2", "stages", "runner", "reports"):
        shutil.copytree(ROOT / room, checkout / room)

    def trains_after_a_change_of(file: str, old: str, new: str) -> bool:
        source = (checkout / file).read_text()
        assert old in source
        (checkout / file).write_text(source.replace(old, new))
        done = command_line(*RUN, root=checkout)
        assert done.returncode == 0, done.stderr
        assert ("already finished" in done.stdout) != ("step 0," in done.stdout)
        return "step 0," in done.stdout

    assert command_line(*RUN, root=checkout).returncode == 0
    assert not trains_after_a_change_of("runner/mistakes.py", "free some space", "make some room")
    assert trains_after_a_change_of("runner/training/loop.py", "optimizer.step()", "pass")
