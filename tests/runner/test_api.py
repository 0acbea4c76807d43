"""Runs from Python: in this process, and in a notebook."""

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import reports
import runner
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


@pytest.mark.slow
def test_the_notebook_runs(
    tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nbclient
    import nbformat

    monkeypatch.setenv("GPT2_LADDER_CACHE", str(cache_dir))
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    notebook = nbformat.read(ROOT / "docs" / "first_hour.ipynb", as_version=4)
    done = nbclient.NotebookClient(notebook, resources={"metadata": {"path": tmp_path}}).execute()
    shown = [output for cell in done.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in shown)
    assert (tmp_path / "outputs/notebook/report/index.html").exists()
