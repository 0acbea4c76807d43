"""A sweep with each launcher: the records of one run after the other, whatever happens to it."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from runner.files import unseal
from runner.folder import RunFolder
from tests.faults.faults import LONG_SWEEP, SWEEP
from tests.faults.lab import Lab, outcome, training, wait_until
from tests.records import synthetic_run

CORES = ("hydra/launcher=cores", "hydra.launcher.n_jobs=2")
LOCAL = ("hydra/launcher=cluster_local",)
EACH = pytest.mark.parametrize("launcher", [CORES, LOCAL], ids=["cores", "cluster_local"])
KILLED = {CORES: "A worker was killed", LOCAL: "A job ended before its run"}

# Slurm's commands: each task of an array is run here, and the script is kept.
SLURM = {
    "sbatch": """
        cp "$1" "$SLURM_FOLDER/script.sh"
        last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\)%.*/\\1/p' "$1")
        export SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_ARRAY_JOB_ID=100
        for task in $(seq 0 "$last"); do
            SLURM_JOB_ID=$((101 + task)) SLURM_ARRAY_TASK_ID=$task bash "$1" >/dev/null 2>&1 &
        done
        echo Submitted batch job 100
    """,
    "srun": """
        while [[ $1 == --* ]]; do
            [[ $1 == --output || $1 == --error ]] && shift
            shift
        done
        exec "$@"
    """,
    "sacct": "echo 'JobID|State'",
}


def check_completed(
    lab: Lab,
    experiment: Path,
    *launcher: str,
    sweep: tuple[str, ...] = SWEEP,
    **environment: str,
) -> str:
    """Assert that the sweep ends with the records of one without a launcher, bit by bit.

    Returns what it printed.
    """
    done = lab.run(experiment, *sweep, *launcher, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert outcome(experiment) == lab.undisturbed(*sweep)
    assert (experiment / "report" / "index.html").exists()
    return done.stdout


def experiment_with_a_run(lab: Lab) -> Path:
    """An experiment of which a report could be written."""
    experiment = lab.new_experiment()
    RunFolder(experiment / "step02" / "seed1").start(synthetic_run(), afresh=True)
    return experiment


def statuses(experiment: Path) -> dict[str, str]:
    return {stage: found[0] for stage, found in outcome(experiment).items()}


def records(experiment: Path) -> list[dict[str, Any]]:
    return [unseal(file.read_bytes()) for file in experiment.glob("*/*/run.json")]


def parent(pid: int) -> int:
    """The process that started another one; the tests that need it run on Linux."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def worker(stage: int) -> int:
    """The process of a launcher that waits for a stage: the parent of its server."""
    return parent(parent(stage))


@pytest.mark.slow
def test_two_workers_leave_the_records_of_one_run_after_the_other(lab: Lab) -> None:
    experiment = lab.new_experiment()
    # Long, so that neither ends before the other has begun.
    printed = check_completed(lab, experiment, *CORES, sweep=LONG_SWEEP).splitlines()
    assert {"Run 1 of 2", "Run 2 of 2"} <= {*printed}
    assert {record["environment"]["threads"] for record in records(experiment)} == {1}
    report = (experiment / "report" / "report.md").read_text()
    assert "2 of 2 runs shared the machine with another" in report


@pytest.mark.slow
def test_what_slurm_is_given_trains_the_same_records(lab: Lab) -> None:
    for name, body in SLURM.items():
        (lab.folder / name).write_text(f"#!/usr/bin/env bash\n{body}")
        (lab.folder / name).chmod(0o755)
    check_completed(
        lab, lab.new_experiment(), "hydra/launcher=slurm", "hydra.launcher.partition=gpu",
        PATH=f"{lab.folder}{os.pathsep}{os.environ['PATH']}", SLURM_FOLDER=str(lab.folder),
    )  # fmt: skip
    script = (lab.folder / "script.sh").read_text()
    for line in (
        "#SBATCH --array=0-1%2", "#SBATCH --time=240", "#SBATCH --cpus-per-task=8",
        "#SBATCH --gpus-per-node=1", "#SBATCH --partition=gpu", "#SBATCH --signal=USR2@120",
        "export SRUN_CPUS_PER_TASK=8",
    ):  # fmt: skip
        assert line in script.splitlines()


@pytest.mark.slow
@EACH
@pytest.mark.parametrize("killed", ["run", "worker"])
def test_what_is_killed_gives_status_1_and_the_same_command_trains_it(
    lab: Lab, launcher: tuple[str, ...], killed: str
) -> None:
    experiment = lab.new_experiment()
    process, stage = lab.start_training(experiment, *LONG_SWEEP, *launcher)
    os.kill(stage if killed == "run" else worker(stage), signal.SIGKILL)
    assert process.wait() == 1
    page = (experiment / "report" / "index.html").read_text()
    if killed == "run":
        assert sorted(statuses(experiment).values()) == ["failed", "finished"]
        assert "SIGKILL" in page
    else:
        log = (lab.folder / "log.txt").read_text()
        assert f"{KILLED[launcher]}" in log
        assert "the same command trains what is missing." in log
        assert "Traceback" not in log
    check_completed(lab, experiment, *launcher, sweep=LONG_SWEEP)


@pytest.mark.slow
@EACH
@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
def test_ctrl_c_ends_every_run_after_its_step(
    lab: Lab, launcher: tuple[str, ...], twice: bool
) -> None:
    experiment = lab.new_experiment()
    process = lab.start(experiment, *SWEEP, *launcher, "train.steps=200000")
    # Both, since a run that has taken no step has no checkpoint to write.
    assert wait_until(lambda: len(training(experiment, steps=1)) == 2, process)
    os.killpg(process.pid, signal.SIGINT)
    if twice:
        time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == 130
    until = time.monotonic() + 60
    while training(experiment) and time.monotonic() < until:
        time.sleep(0.1)  # the last step of a job ends after its command
    assert "Traceback" not in (lab.folder / "log.txt").read_text()
    assert not training(experiment)
    if not twice:
        assert statuses(experiment) == {"step02": "interrupted", "step09": "interrupted"}
        assert len(list(experiment.glob("*/*/checkpoint.safetensors"))) == 2
        assert (experiment / "report" / "index.html").exists()


@pytest.mark.slow
def test_ctrl_c_while_jobs_start_prints_nothing_of_submitit(lab: Lab) -> None:
    experiment = lab.new_experiment()
    process = lab.start(experiment, *SWEEP, *LOCAL)
    assert wait_until(lambda: list(experiment.glob(".submitit/*_log.err")), process)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == 130
    log = (lab.folder / "log.txt").read_text()
    assert log in ("", f"What the runs print is in {experiment}/.submitit\n")


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGUSR2, signal.SIGTERM], ids=["queued", "cancelled"])
def test_a_job_that_its_cluster_ends_goes_on_from_its_checkpoint(
    lab: Lab, signum: signal.Signals
) -> None:
    """At its time limit its cluster puts it into the queue again; a cancelled one waits for us."""
    experiment = lab.new_experiment()
    process, stage = lab.start_training(experiment, *LONG_SWEEP, *LOCAL)
    os.kill(worker(stage), signum)
    status = process.wait()
    if signum == signal.SIGTERM:
        assert status == 1, (lab.folder / "log.txt").read_text()
        assert sorted(statuses(experiment).values()) == ["finished", "interrupted"]
        assert len(list(experiment.glob("*/*/checkpoint.safetensors"))) == 1
        return
    assert status == 0, (lab.folder / "log.txt").read_text()
    assert outcome(experiment) == lab.undisturbed(*LONG_SWEEP)
    assert any(record["resumed_at"] for record in records(experiment))


@EACH
def test_a_refused_run_is_one_sentence(lab: Lab, launcher: tuple[str, ...]) -> None:
    done = lab.run(lab.new_experiment(), "-m", "+stage=step02", "train.eps=0", *launcher)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("train.eps=0.0: give a value above 0.0.") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("launcher", ["cores", "cluster_local", "slurm"])
def test_a_launcher_that_is_not_installed_names_the_extra(
    launcher: str, lab: Lab, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import hydra_plugins\n"
        "own = [p for p in hydra_plugins.__path__ if 'site-packages' not in p]\n"
        "hydra_plugins.__path__ = own\n"
    )
    experiment = experiment_with_a_run(lab)
    command = ("-m", "+stage=step02", f"hydra/launcher={launcher}")
    done = lab.run(experiment, *command, PYTHONPATH=str(tmp_path))
    extra = "joblib" if launcher == "cores" else "cluster"
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1] == (
        f"This launcher needs a package that is not installed: pip install 'gpt2-ladder[{extra}]'."
    )
    assert not (experiment / "report").exists()


def test_slurm_without_slurm_is_one_sentence(lab: Lab) -> None:
    experiment = experiment_with_a_run(lab)
    done = lab.run(experiment, "-m", "+stage=step02", "hydra/launcher=slurm", PATH="")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith('The launcher cannot start: Could not detect "srun"')
    assert len(done.stderr.splitlines()) == 1


def test_a_launcher_needs_a_sweep(lab: Lab) -> None:
    done = lab.run(lab.new_experiment(), "+stage=step02", "hydra/launcher=cores")
    assert done.returncode == 2
    assert done.stderr == "hydra/launcher=cores: it asks for several runs; add -m.\n"
