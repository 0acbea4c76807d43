"""What TensorBoard's own reader finds of a run, and what must not depend on it."""

import random
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from conf.errors import UsageError
from runner.record import EVENTS, Run, Status, read_run
from tests.conftest import CommandLine, Settings
from tests.faults.lab import Lab, steps_done, wait_until

QUICK = ("+stage=step09", "train.steps=12", "train.compile=false", "evaluation.every=5")
WATCHED = (*QUICK, "logger=tensorboard")


def only_run(outputs: Path) -> tuple[Path, Run]:
    (folder,) = outputs.glob("*/*/*/run.json")
    return folder.parent, read_run(folder.parent)


def reader(folder: Path) -> EventAccumulator:
    """TensorBoard's reader of a run, which leaves no point out."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    return events.Reload()


def check_points(events: EventAccumulator, folder: Path) -> None:
    """The points are the rows of the tables, in their order, each one once."""
    steps = pd.read_csv(folder / "steps.csv")
    steps["tokens_per_second"] = steps.tokens / steps.step_ms * 1e3
    for column in ("loss", "grad_norm", "lr", "tokens_per_second"):
        points = events.Scalars(f"train/{column}")
        assert [point.step for point in points] == [*steps.step]
        assert [point.value for point in points] == pytest.approx([*steps[column]], rel=1e-6)
    held_out = pd.read_csv(folder / "held_out.csv").groupby("step").loss.mean()
    points = events.Scalars("held_out/loss")
    assert [point.step for point in points] == [*held_out.index]
    assert [point.value for point in points] == pytest.approx([*held_out], rel=1e-6)


def text(events: EventAccumulator, name: str) -> tuple[int, str]:
    """The step and the content of the only text of that name, without Markdown's indent."""
    (event,) = events.Tensors(f"{name}/text_summary")
    content = event.tensor_proto.string_val[0].decode()
    return event.step, "".join(line[4:] for line in content.splitlines(keepends=True))


@pytest.mark.slow
def test_tensorboard_reads_what_the_record_holds_and_the_record_does_not_change(
    command_line: CommandLine, tmp_path: Path
) -> None:
    assert command_line(*QUICK, f"output_dir={tmp_path}/plain").returncode == 0
    done = command_line(*WATCHED)
    assert done.returncode == 0, done.stderr
    plain, without = only_run(tmp_path / "plain")
    folder, run = only_run(tmp_path / "outputs")
    assert folder.name == plain.name
    assert run.fingerprint == without.fingerprint
    assert run.config == without.config
    assert run.results.held_out == without.results.held_out
    assert (folder / "held_out.csv").read_bytes() == (plain / "held_out.csv").read_bytes()
    tables = [pd.read_csv(at / "steps.csv").drop(columns="step_ms") for at in (folder, plain)]
    assert tables[0].equals(tables[1])

    events = reader(folder)
    check_points(events, folder)
    assert text(events, "sample") == (12, run.samples[0].text)
    step, configuration = text(events, "configuration")
    assert step == 0
    assert yaml.safe_load(configuration) == run.config
    about = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    settings = HParamsPluginData.FromString(about).session_start_info.hparams
    assert settings["train.learning_rate"].number_value == run.config["train"]["learning_rate"]
    assert settings["train.schedule"].string_value == "cosine"

    again = command_line(*WATCHED, f"output_dir={tmp_path}/plain")
    assert "already finished" in again.stdout
    assert not list(plain.glob(EVENTS))


@pytest.fixture
def lab(tmp_path: Path, text_file: Path, cache_dir: Path) -> Lab:
    return Lab(tmp_path, text_file, cache_dir, random.Random(1), tmp_path)


@pytest.mark.slow
def test_a_resumed_run_has_every_point_once(lab: Lab) -> None:
    experiment, items = lab.new_experiment(), lab.folder / "items.jsonl"
    items.write_text('{"ctx": "A", "endings": ["man", "b", "c d", "is"], "label": 2}\n')
    asked = ("evaluation.samples=true", f"evaluation.hellaswag={items}")
    command = (*WATCHED, "train.steps=60", *asked)
    process = lab.start(experiment, *command)
    assert wait_until(lambda: steps_done(experiment) >= 13, process)
    process.kill()
    process.wait()
    (file,) = experiment.glob(f"*/*/{EVENTS}")
    events = reader(file.parent)
    assert events.Scalars("train/loss")[-1].step >= 10, "beyond the checkpoint"
    done = lab.run(experiment, *command)
    assert "Resuming from step" in done.stdout
    check_points(events.Reload(), file.parent)
    events, run = reader(file.parent), read_run(file.parent)
    check_points(events, file.parent)
    scores = [(point.step, point.value) for point in events.Scalars("hellaswag/acc_norm")]
    assert scores == [(found.step, found.acc_norm) for found in run.hellaswag]
    # Of texts this reader forgets none, so the one at the checkpoint is there twice.
    texts = dict.fromkeys(event.step for event in events.Tensors("sample/text_summary"))
    assert [*texts] == [sample.step for sample in run.samples] == [*range(5, 65, 5)]


@pytest.mark.slow
@pytest.mark.parametrize("logger", ["none", "tensorboard"])
def test_a_run_that_starts_over_leaves_no_old_point(lab: Lab, logger: str) -> None:
    experiment = lab.new_experiment()
    process = lab.start(experiment, *WATCHED, "train.steps=60")
    assert wait_until(lambda: list(experiment.glob("*/*/checkpoint.safetensors")), process)
    process.kill()
    process.wait()
    (checkpoint,) = experiment.glob("*/*/checkpoint.safetensors")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    for reason in ((), ("force=true",)):
        done = lab.run(experiment, *WATCHED, "train.steps=60", f"logger={logger}", *reason)
        assert done.returncode == 0, done.stdout + done.stderr
        assert ("the run starts over" in done.stdout) != bool(reason)
        found = list(checkpoint.parent.glob(EVENTS))
        assert len(found) == (logger == "tensorboard")
        if found:
            check_points(reader(checkpoint.parent), checkpoint.parent)


@pytest.mark.slow
def test_events_that_cannot_be_written_are_said_once_and_the_run_ends_as_ever(lab: Lab) -> None:
    experiment = lab.new_experiment()
    process = lab.start(experiment, *WATCHED, "train.steps=100")
    assert wait_until(lambda: list(experiment.glob(f"*/*/{EVENTS}")), process)
    (file,) = experiment.glob(f"*/*/{EVENTS}")

    def is_a_folder() -> bool:
        """Replace the file, which the run may write anew in between, by a folder."""
        file.unlink(missing_ok=True)
        try:
            file.mkdir()
        except FileExistsError:
            return False
        return True

    assert wait_until(is_a_folder, process)
    assert process.wait() == 0
    printed = (lab.folder / "log.txt").read_text()
    assert printed.count("logger=tensorboard stopped writing: ") == 1
    assert "Traceback" not in printed
    assert read_run(file.parent).status is Status.finished


def test_without_the_package_nothing_is_trained_and_the_extra_is_named(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UsageError) as refused:
        settings(*WATCHED)
    assert str(refused.value) == (
        "logger=tensorboard needs a package that is not installed: "
        "pip install 'gpt2-ladder[tensorboard]'."
    )
