"""The report and the exit status of a command, whatever launches its runs."""

from pathlib import Path

import pytest

from tests.conftest import CommandLine

QUICK = ("train.steps=2", "train.compile=false")

# Runs each job in a new process, as launchers for clusters do.
LAUNCHER = """
import multiprocessing
from hydra.core.utils import run_job
from hydra.plugins.launcher import Launcher

class OwnProcess(Launcher):
    def setup(self, *, hydra_context, task_function, config):
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(self, job_overrides, initial_job_idx):
        return [self.in_own_process(list(overrides)) for overrides in job_overrides]

    def in_own_process(self, overrides):
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        process = context.Process(target=self.job, args=(overrides, queue))
        process.start()
        job_return = queue.get()
        process.join()
        return job_return

    def job(self, overrides, queue):
        config = self.context.config_loader.load_sweep_config(self.config, overrides)
        queue.put(run_job(
            hydra_context=self.context, task_function=self.task, config=config,
            job_dir_key="hydra.sweep.dir", job_subdir_key="hydra.sweep.subdir",
        ))
"""


@pytest.fixture(params=["basic", pytest.param("own_process", marks=pytest.mark.slow)])
def launcher(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The name of a launcher: Hydra's own, or the one above as a plugin in `tmp_path`."""
    (tmp_path / "hydra_plugins").mkdir()
    (tmp_path / "hydra_plugins" / "own_process.py").write_text(LAUNCHER)
    (tmp_path / "hydra" / "launcher").mkdir(parents=True)
    (tmp_path / "hydra" / "launcher" / "own_process.yaml").write_text(
        "_target_: hydra_plugins.own_process.OwnProcess\n"
    )
    return str(request.param)


def test_a_single_run_writes_the_report_unless_it_is_turned_off(
    command_line: CommandLine, tmp_path: Path
) -> None:
    page = tmp_path / "outputs" / "ladder" / "report" / "index.html"
    without = command_line("+stage=step02", *QUICK, "~hydra.callbacks.report", report=True)
    assert without.returncode == 0, without.stderr
    assert not page.exists()
    done = command_line("+stage=step02", *QUICK, report=True)
    assert done.returncode == 0, done.stderr
    assert f"report: {page}\n" in done.stdout
    assert page.exists()


@pytest.mark.slow
def test_a_sweep_without_the_report_has_the_exit_status_of_its_own_runs(
    command_line: CommandLine, tmp_path: Path
) -> None:
    off = "~hydra.callbacks.report"
    assert command_line("-m", "+stage=step01", "model.norm=batch", off).returncode == 1
    assert command_line("-m", "+stage=step02", *QUICK, off).returncode == 0
    assert not (tmp_path / "outputs" / "ladder" / "report").exists()


@pytest.mark.slow
def test_a_sweep_over_experiments_reports_on_each(
    command_line: CommandLine, tmp_path: Path
) -> None:
    done = command_line("-m", "+stage=step02", *QUICK, "experiment=a,'b c'")
    assert done.returncode == 0, done.stderr
    for experiment in ("a", "b c"):
        page = tmp_path / "outputs" / experiment / "report" / "index.html"
        assert page.exists()
        assert f"Report: {page}\n" in done.stdout


def test_a_failed_stage_of_a_sweep_is_reported_and_gives_exit_status_1(
    command_line: CommandLine, tmp_path: Path, launcher: str
) -> None:
    done = command_line(
        "-m", f"--config-dir={tmp_path}", f"hydra/launcher={launcher}", "+stage=step01,step02",
        *QUICK, "model.norm=batch", PYTHONPATH=str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "✗ no token sees the future" in done.stdout
    assert (tmp_path / "outputs" / "ladder" / "report" / "index.html").exists()


def test_a_sweep_with_a_refused_job_is_reported_and_gives_exit_status_2(
    command_line: CommandLine, tmp_path: Path, launcher: str
) -> None:
    done = command_line(
        "-m", f"--config-dir={tmp_path}", f"hydra/launcher={launcher}", "+stage=step02",
        "train.micro_batch_size=0,2", *QUICK, PYTHONPATH=str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("train.micro_batch_size=0: give a value above 0.") == 1
    assert "Traceback" not in done.stderr
    assert len(list((tmp_path / "outputs").glob("*/*/*/run.json"))) == 1
    assert (tmp_path / "outputs" / "ladder" / "report" / "index.html").exists()


@pytest.mark.parametrize("flags", [(), pytest.param(("-m",), marks=pytest.mark.slow)])
def test_a_report_that_fails_is_one_sentence_and_changes_no_exit_status(
    command_line: CommandLine, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    report = tmp_path / "outputs" / "ladder" / "report"
    report.parent.mkdir(parents=True)
    report.touch()
    done = command_line(*flags, "+stage=step02", *QUICK, report=True)
    assert done.returncode == 0, done.stderr
    (sentence,) = done.stderr.splitlines()
    assert str(report) in sentence
