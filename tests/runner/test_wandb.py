"""What Weights & Biases keeps of a run offline, by its own messages."""

import json
import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from wandb.proto import wandb_internal_pb2

from runner.record import Status, read_run
from tests.conftest import CommandLine
from tests.faults.lab import Lab, steps_done, wait_until

WATCHED = (
    "+stage=step09", "train.steps=12", "train.compile=false", "evaluation.every=5", "logger=wandb",
)  # fmt: skip
BLOCK, HEADER, FILE_HEADER = 32_768, 7, 7  # of LevelDB's log format, in which wandb writes


def messages(file: Path) -> Iterator[Any]:
    """The records of a .wandb file; a record may go over several blocks."""
    content, place, parts = file.read_bytes(), FILE_HEADER, b""
    while place + HEADER <= len(content):
        if BLOCK - place % BLOCK < HEADER:
            place += BLOCK - place % BLOCK  # padding
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        parts += content[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
            record.ParseFromString(parts)
            yield record
            parts = b""


def history(file: Path) -> list[dict[str, Any]]:
    """What was logged, a row for each step."""
    rows = [m.history.item for m in messages(file) if m.WhichOneof("record_type") == "history"]
    return [
        {item.key or item.nested_key[0]: json.loads(item.value_json) for item in row}
        for row in rows
    ]


@pytest.fixture
def lab(tmp_path: Path, text_file: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("WANDB_MODE", "offline")
    return Lab(tmp_path, text_file, cache_dir, random.Random(1), tmp_path)


@pytest.mark.slow
def test_wandb_has_what_the_record_has_and_a_resumed_run_goes_on(lab: Lab) -> None:
    experiment = lab.new_experiment()
    command = (*WATCHED, "train.steps=40", "evaluation.samples=true")
    process = lab.start(experiment, *command)
    assert wait_until(lambda: steps_done(experiment) >= 13, process)
    process.kill()
    process.wait()
    done = lab.run(experiment, *command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Resuming from step 10" in done.stdout
    (folder,) = (found.parent for found in experiment.glob("*/*/run.json"))
    files = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2
    assert files[0].name == files[1].name, "one run at W&B"
    steps, found = pd.read_csv(folder / "steps.csv"), pd.DataFrame(history(files[1]))
    trained = found.dropna(subset="train/loss").set_index("_step")
    assert [*trained.index] == [*range(10, 40)]
    for column in ("loss", "grad_norm", "lr"):
        assert [*trained[f"train/{column}"]] == pytest.approx([*steps[column][10:]])
    held_out = pd.read_csv(folder / "held_out.csv").groupby("step").loss.mean().loc[10:]
    logged = found.dropna(subset="held_out/loss").set_index("_step")["held_out/loss"]
    assert logged.to_dict() == pytest.approx(held_out.to_dict())
    about = [m for m in messages(files[1]) if m.WhichOneof("record_type") in ("run", "exit")]
    assert (about[0].run.project, about[0].run.run_group) == (experiment.name, "step09")
    settings = {item.key: json.loads(item.value_json) for item in about[0].run.config.update}
    assert settings["train"] == read_run(folder).config["train"]
    assert about[-1].exit.exit_code == 0


@pytest.mark.slow
def test_a_run_that_wandb_cannot_show_is_trained_all_the_same(
    command_line: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    done = command_line(*WATCHED)
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count("logger=wandb stopped writing: ") == 1
    assert "Traceback" not in done.stdout + done.stderr
    (folder,) = (found.parent for found in tmp_path.glob("outputs/*/*/*/run.json"))
    assert read_run(folder).status is Status.finished
    assert os.environ["WANDB_MODE"] == "online"
