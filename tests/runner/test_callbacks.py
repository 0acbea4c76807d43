"""The report and the exit status of a command, whatever launches its runs."""

import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import CommandLine

QUICK = ("train.steps=2", "train.compile=false")
OFF = "~hydra.callbacks.report"

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


Sweep = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(params=["basic", pytest.param("own_process", marks=pytest.mark.slow)])
def sweep(request: pytest.FixtureRequest, tmp_path: Path, command_line: CommandLine) -> Sweep:
    """A sweep with Hydra's own launcher, or with the one above as a plugin in `tmp_path`."""
    if request.param == "basic":
        return partial(command_line, "-m", *QUICK)
    for name, content in {
        "hydra_plugins/own_process.py": LAUNCHER,
        "hydra/launcher/own_process.yaml": "_target_: hydra_plugins.own_process.OwnProcess\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(content)
    plugin = (f"--config-dir={tmp_path}", "hydra/launcher=own_process")
    return partial(command_line, "-m", *plugin, *QUICK, PYTHONPATH=str(tmp_path))


def test_a_run_writes_the_report_unless_it_is_turned_off_or_fails_which_is_one_sentence(
    command_line: CommandLine, tmp_path: Path
) -> None:
    report = tmp_path / "outputs" / "ladder" / "report"
    without = command_line("+stage=step02", *QUICK, OFF, report=True)
    assert without.returncode == 0, without.stderr
    assert not report.exists()
    report.touch()
    failed = command_line("+stage=step02", *QUICK, report=True)
    assert failed.returncode == 0, failed.stderr
    (sentence,) = failed.stderr.splitlines()
    assert str(report) in sentence
    report.unlink()
    done = command_line("+stage=step02", *QUICK, report=True)
    assert done.returncode == 0, done.stderr
    assert f"report: {report / 'index.html'}\n" in done.stdout
    assert (report / "index.html").exists()


@pytest.mark.slow
def test_a_sweep_without_the_report_has_the_exit_status_of_its_own_runs(
    command_line: CommandLine, tmp_path: Path
) -> None:
    assert command_line("-m", "+stage=step01", "model.norm=batch", OFF).returncode == 1
    assert command_line("-m", "+stage=step02", *QUICK, OFF).returncode == 0
    report = tmp_path / "outputs" / "ladder" / "report"
    assert not report.exists()
    report.touch()
    failed = command_line("-m", "+stage=step02", *QUICK)
    assert failed.returncode == 0, failed.stderr
    (sentence,) = failed.stderr.splitlines()
    assert str(report) in sentence


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
    sweep: Sweep, tmp_path: Path
) -> None:
    done = sweep("+stage=step01,step02", "model.norm=batch")
    assert done.returncode == 1, done.stderr
    assert "no token sees the future: a later token changes" in done.stdout
    assert (tmp_path / "outputs" / "ladder" / "report" / "index.html").exists()


def test_a_sweep_with_a_refused_job_is_reported_and_gives_exit_status_2(
    sweep: Sweep, tmp_path: Path
) -> None:
    done = sweep("+stage=step02", "train.micro_batch_size=5000,2")  # found when the text is read
    assert done.returncode == 2
    assert done.stderr.count("too short") == 1
    assert "Traceback" not in done.stderr
    assert len(list((tmp_path / "outputs").glob("*/*/*/run.json"))) == 1
    assert (tmp_path / "outputs" / "ladder" / "report" / "index.html").exists()
