"""Runs from Python: in this process, and in a notebook."""

import importlib
import inspect
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from safetensors.torch import load_file

import reports
import runner
from conf.errors import UsageError
from conf.reading import register
from runner.keywords import in_words
from runner.overrides import hydra_open, parse, read_sweep
from runner.record import read_runs
from tests.conftest import ROOT


def test_a_run_from_python_is_an_object_with_its_steps_and_draws_nothing_of_the_callers(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    common = [*words, "train.steps=3", "quiet=true"]
    random.seed(1)
    np.random.seed(1)
    draws = random.random(), np.random.rand()
    random.seed(1)
    np.random.seed(1)
    first = runner.train("step02", *common)
    assert (random.random(), np.random.rand()) == draws
    assert first.record.status.value == "finished"
    assert list(first.steps["step"]) == [0, 1, 2]
    assert first.steps["loss"].iloc[-1] == first.record.results.last
    assert first.held_out["loss"].mean() == pytest.approx(first.record.results.held_out)
    assert "step02 (Baseline): finished, range 1" in repr(first)
    again = runner.train("step02", *common)
    assert again.folder == first.folder
    assert "already finished" in capsys.readouterr().out
    runner.train("step03", *common, "without=[step03:model.init]")
    runner.train("step03", *common)
    stages = reports.stages(tmp_path / "outputs/ladder")
    found = [(row.what, row.against) for row in stages.itertuples()]
    assert found == [
        ("step02 train.steps=3", ""), ("step03 train.steps=3", "step02"),
        ("step03 without step03:model.init train.steps=3", "step03"),
    ]  # fmt: skip
    assert stages["reference_loss_value"].notna().tolist() == [False, True, True]
    assert "ladder/step02/" in repr(reports.load(tmp_path / "outputs/ladder"))


class Small(torch.nn.Module):
    def __init__(self, width: int = 4, kind: str = "none") -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(50257, width)
        self.head = torch.nn.Linear(width, 50257)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.embedding(tokens))


def test_a_sweep_takes_lists_and_a_class_and_returns_its_runs(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    model = {"target": Small, "arguments": {"width": 2}, "knobs": {"norm": "kind"}}
    runs = runner.sweep(
        *words, stage=["step02", "step04"], seed=range(1, 3), train={"steps": 1}, model=model
    )
    found = [(run.record.stage.name, run.record.seed, run.record.results.steps) for run in runs]
    assert found == [("step02", 1, 1), ("step04", 1, 1), ("step02", 2, 1), ("step04", 2, 1)]
    assert runs[0].record.model.parameters == 2 * 2 * 50257 + 50257
    assert runs[0].record.config["model"]["target"] == f"{__name__}:Small"
    printed = capsys.readouterr().out
    assert "Run 4 of 4: seed=2 +stage=step04" in printed
    assert "step 0, loss" not in printed
    capsys.readouterr()
    with pytest.raises(UsageError, match="There is no stage 'step0'"):
        runner.sweep(*words, stage=["step03", "step0"])
    with pytest.raises(UsageError, match="a slice cannot be recorded"):
        runner.train("step03", *words, model={"target": Small, "arguments": {"width": slice(3)}})
    with pytest.raises(UsageError, match=r"runner\.sweep trains several"):
        runner.train(["step02", "step03"], *words)  # type: ignore[arg-type]
    assert capsys.readouterr().out == ""  # nothing is trained before all are read


def test_a_sweep_has_the_order_of_its_plans_sweeper_and_lists_its_runs(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    register()
    with hydra_open([]):
        _, runs = read_sweep(["+plan=speed"], [])
    stages = [parse(run)["stage"] for run in runs]
    assert stages[:6] == ["step05", "step06", "step07", "step07", "step06", "step05"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):  # the caller's own
        assert runner.sweep("+plan=speed", *words, dry_run=True) == []
        assert GlobalHydra.instance().is_initialized()
    assert "30 runs: 0 finished, 30 to train." in capsys.readouterr().out


def test_a_model_that_was_edited_after_its_import_is_imported_again(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "own_edited.py"
    model = inspect.getsource(Small)
    file.write_text(f"import torch\n\n\n{model}")
    edited = importlib.import_module("own_edited").Small
    file.write_text(f"import torch\n\n\n{model.replace('int = 4', 'int = 2')}")
    run = runner.train("step02", *words, train={"steps": 1}, quiet=True, model=edited)
    assert run.record.model.parameters == 2 * 2 * 50257 + 50257


def test_what_cannot_be_named_is_no_model(words: list[str]) -> None:
    class Inner(Small):
        pass

    for model, said in ((Inner, "define it at the top level"), (Small(), "and not a model")):
        with pytest.raises(UsageError, match=said):
            runner.train("step02", *words, model=model)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"quiet": True, "data": {"path": Path("a b.txt")}}, "quiet=true data.path=a b.txt"),
        (
            {"train": {"betas": (0.9, 0.95), "clip_grad_norm": None}},
            "train.betas=[0.9, 0.95] train.clip_grad_norm=null",
        ),
        ({"model": "gpt2_medium", "without": ["step04"]}, "model=gpt2_medium without=[step04]"),
        ({"experiment": "1,2", "plan": "ladder"}, 'experiment="1,2" +plan=ladder'),
        ({"stage": ["step02"], "train.steps": [1, 2]}, "+stage=step02 train.steps=1,2"),
        ({"stage": "glob(step*)", "seed": "1,2,3"}, "+stage=glob(step*) seed=1,2,3"),
        (
            {"model.arguments": {"sizes": [np.int64(8), {"w": "it's"}], "rate": np.float64(1e-8)}},
            "model.arguments.sizes=[8, {w: \"it's\"}] model.arguments.rate=1e-08",
        ),
    ],
)  # fmt: skip
def test_settings_are_written_as_hydra_reads_them(settings: dict[str, Any], words: str) -> None:
    assert " ".join(in_words(settings, sweeping=True)) == words


def test_a_run_without_its_weights_is_trained_again_only_for_the_weights(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["step02", *words, "train.steps=1", "quiet=true"]
    weights = runner.train(*command, "checkpoint=last").folder / "weights.safetensors"
    kept = load_file(weights)
    weights.unlink()
    runner.train(*command)
    assert "already finished" in capsys.readouterr().out
    runner.train(*command, "checkpoint=last")
    assert "already finished" not in capsys.readouterr().out
    again = load_file(weights)
    assert again.keys() == kept.keys()
    assert all(torch.equal(again[name], kept[name]) for name in kept)


@pytest.mark.slow
def test_a_reader_that_ends_fails_no_run_from_python(tmp_path: Path, words: list[str]) -> None:
    program = f"import runner; runner.train('step02', *{words!r}, 'train.steps=40')"
    reader, writer = os.pipe()
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=writer)
    os.close(writer)
    assert os.read(reader, 1)  # the first step's line
    os.close(reader)
    process.wait()
    (run,) = read_runs(tmp_path / "outputs/ladder").values()
    assert run.status.value == "finished"


@pytest.fixture
def ctrl_c() -> Iterator[Callable[[], None]]:
    """Sends SIGINT to this process, in which it raises KeyboardInterrupt as in a script."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: os.kill(os.getpid(), signal.SIGINT)
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_before_the_first_step_closes_the_record(
    tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt  # as Python does in a notebook, where no handler is installed

    monkeypatch.setattr("runner.training.loop.find_products", interrupted)
    with pytest.raises(KeyboardInterrupt):
        runner.train("step02", *words)
    (run,) = read_runs(tmp_path / "outputs/ladder").values()
    assert (run.status.value, run.message) == ("interrupted", "Ended by Ctrl-C.")


def test_ctrl_c_in_an_evaluation_ends_the_run_after_it(
    words: list[str],
    ctrl_c: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("runner.training.loop.score_and_sample", lambda *_: ctrl_c())
    with pytest.raises(KeyboardInterrupt):
        runner.train("step02", *words, "train.steps=3", "evaluation.every=1")
    assert "stopped at step 1 of 3; the same command goes on" in capsys.readouterr().out


def test_a_second_ctrl_c_ends_the_run_and_not_the_callers_process(
    tmp_path: Path,
    words: list[str],
    ctrl_c: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("runner.training.loop.look_into", lambda *_: (ctrl_c(), ctrl_c()))
    with pytest.raises(KeyboardInterrupt):
        runner.train("step02", *words)
    (run,) = read_runs(tmp_path / "outputs/ladder").values()
    assert run.status.value == "interrupted"


def test_ctrl_c_in_the_last_evaluation_keeps_the_steps(
    words: list[str],
    ctrl_c: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["step02", *words, "train.steps=2"]
    with monkeypatch.context() as patch:  # the text is drawn when the held-out loss is measured
        patch.setattr("runner.training.loop.sample", lambda *_, **__: ctrl_c())
        with pytest.raises(KeyboardInterrupt):
            runner.train(*command)
    assert "stopped at step 2 of 2; the same command goes on from there" in capsys.readouterr().out
    resumed = runner.train(*command)
    assert (resumed.record.status.value, resumed.record.resumed_at) == ("finished", [2])
    assert not (resumed.folder / "checkpoint.safetensors").exists()
    found = resumed.held_out, resumed.steps["loss"], resumed.record.samples
    whole = runner.train(*command, "force=true")
    pd.testing.assert_frame_equal(found[0], whole.held_out)
    assert found[1].tolist() == whole.steps["loss"].tolist()
    assert found[2] == whole.record.samples


@pytest.mark.slow
def test_the_notebook_runs(
    tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nbclient
    import nbformat
    from nbclient.exceptions import CellTimeoutError

    monkeypatch.setenv("GPT2_LADDER_CACHE", str(cache_dir))
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    notebook = nbformat.read(ROOT / "docs" / "first_hour.ipynb", as_version=4)
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        there = {"metadata": {"path": folder}}
        client = nbclient.NotebookClient(deepcopy(notebook), timeout=240, resources=there)
        # A reply of ipykernel 7 is lost now and then, and the kernel waits for the next cell.
        with suppress(CellTimeoutError):
            done = client.execute()
            break
    shown = [output for cell in done.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in shown)
    assert (folder / "outputs/notebook/report/index.html").exists()
