"""One run on several processes, started by torchrun as a user would, on the CPU."""

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from runner.data.source import find_source
from runner.folder import RunFolder
from runner.record import Run, Status, read_run
from runner.run import _train_in
from runner.signals import after_step, install_handlers, this_process
from runner.training.parallel import Parallel
from tests.conftest import ROOT, Settings
from tests.faults.lab import steps_done
from tests.records import synthetic_run

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
EXACT = ("train.autocast=none", "train.compile=false")


class Processes:
    """Starts runs of step10 at the smoke scale on several processes."""

    def __init__(self, folder: Path, text: Path, cache_dir: Path) -> None:
        self.folder, self.text, self.cache_dir = folder, text, cache_dir

    def start(
        self,
        *overrides: str,
        count: int = 2,
        options: tuple[str, ...] = (),
        output: str = "outputs",
    ) -> "subprocess.Popen[str]":
        """`torchrun -m runner`; with a count of 1 without torchrun. Only the first may print."""
        flags = [word for word in overrides if word.startswith("-")]
        options = options or (f"--nproc-per-node={count}", "--standalone")
        launcher = [*TORCHRUN, *options] if count > 1 else [sys.executable]
        named = () if any("+stage" in word for word in overrides) else ("+stage=step10",)
        return subprocess.Popen(
            [
                *launcher, "-m", "runner", *flags, "scale=smoke", "device=cpu", "data=text",
                f"data.path={self.text}", f"output_dir={self.folder / output}", *named,
                "sample.tokens=4", *EXACT, *(word for word in overrides if word not in flags),
            ],
            cwd=ROOT,
            env={**os.environ, "GPT2_LADDER_CACHE": str(self.cache_dir)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip

    def run(self, *overrides: str, **more: object) -> tuple[int, str]:
        """The exit status and all that was printed."""
        process = self.start(*overrides, **more)  # type: ignore[arg-type]
        printed, _ = process.communicate(timeout=240)
        return process.returncode, printed

    def until(self, experiment: str, steps: int) -> None:
        """Wait until a run of the experiment has taken so many steps."""
        deadline = time.monotonic() + 120
        while steps_done(self.folder / "outputs" / experiment) < steps:
            assert time.monotonic() < deadline, f"{experiment} did not get to step {steps}"
            time.sleep(0.02)

    def record(self, experiment: str, output: str = "outputs") -> Run:
        (file,) = self.folder.glob(f"{output}/{experiment}/*/*/run.json")
        return read_run(file.parent)

    def losses(self, experiment: str, output: str = "outputs") -> list[float]:
        """The loss of each step, then the held-out loss."""
        (file,) = self.folder.glob(f"{output}/{experiment}/*/*/steps.csv")
        steps = pd.read_csv(file)["loss"].tolist()
        return [*steps, self.record(experiment, output).results.held_out]


@pytest.fixture
def processes(tmp_path: Path, text_file: Path, cache_dir: Path) -> Processes:
    return Processes(tmp_path, text_file, cache_dir)


def workers(torchrun: "subprocess.Popen[str]") -> dict[str, int]:
    """The processes that torchrun started, by their rank."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            variables = (folder / "environ").read_text().split("\0")
        except OSError:
            continue
        for variable in variables if int(parent) == torchrun.pid else ():
            if variable.startswith("RANK="):
                found[variable.removeprefix("RANK=")] = int(folder.name)
    return found


linux = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


def same(losses: list[float], expected: list[float]) -> None:
    np.testing.assert_allclose(losses, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sharding", ["none", pytest.param("fsdp", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(processes: Processes, sharding: str) -> None:
    status, printed = processes.run("experiment=one", "train.steps=20", count=1)
    assert status == 0, printed
    status, printed = processes.run(
        "experiment=two", "train.steps=20", f"train.sharding={sharding}", "checkpoint=last"
    )
    assert status == 0, printed
    assert printed.count("held-out loss") == 1, "one process speaks"
    one, two = processes.record("one"), processes.record("two")
    assert len(processes.losses("one")) == 21
    same(processes.losses("two"), processes.losses("one"))
    assert (one.environment.processes, two.environment.processes) == (1, 2)
    assert two.environment.sharding == (None if sharding == "none" else "fsdp")
    assert two.fingerprint == one.fingerprint
    assert two.results.tokens_per_step == one.results.tokens_per_step
    assert two.samples[0].text
    assert [path.name for path in processes.folder.glob("outputs/two/*/*/*.safetensors")] == [
        "weights.safetensors"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_two_processes_score_and_sample_as_one(processes: Processes, sharding: str) -> None:
    items = processes.folder / "items.jsonl"
    endings = ["runs away", "sat", "is a bird that sings", "ate it up"]
    lines = [{"ctx": "A man " * (i + 1), "endings": endings, "label": i % 4} for i in range(7)]
    items.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    asked = ("train.steps=20", "evaluation.every=8", "evaluation.samples=true")
    asked += (f"evaluation.hellaswag={items}",)
    for experiment, count in (("one", 1), ("two", 2)):
        status, printed = processes.run(
            f"experiment={experiment}", f"train.sharding={sharding}", *asked, count=count
        )
        assert status == 0, printed
    one, two = processes.record("one"), processes.record("two")
    same(processes.losses("two"), processes.losses("one"))
    assert [found.step for found in one.hellaswag] == [8, 16, 20]
    assert two.hellaswag == one.hellaswag
    assert two.samples == one.samples


def test_a_mistake_is_one_sentence_of_the_first_process(processes: Processes) -> None:
    status, printed = processes.run("train.stepz=3")
    assert status != 0
    assert printed.count("There is no setting train.stepz. Did you mean train.steps?") == 1
    assert "runner/" not in printed, "no traceback of ours"
    assert not (processes.folder / "outputs").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "first_sharding", "second", "second_sharding"),
    [
        (2, "none", 1, "none"),
        (1, "none", 2, "none"),
        (2, "fsdp", 1, "none"),
        (1, "none", 2, "fsdp"),
    ],
)
def test_the_number_of_processes_may_change_when_a_run_resumes(
    processes: Processes, first: int, first_sharding: str, second: int, second_sharding: str
) -> None:
    processes.run("experiment=whole", "train.steps=20", count=1)
    begun = processes.start(
        "experiment=two", "train.steps=20", f"train.sharding={first_sharding}",
        "train.checkpoint_every.steps=1", count=first,
    )  # fmt: skip
    processes.until("two", 5)
    begun.send_signal(signal.SIGTERM)
    printed, _ = begun.communicate(timeout=120)
    assert processes.record("two").status is Status.interrupted, printed
    status, printed = processes.run(
        "experiment=two", "train.steps=20", f"train.sharding={second_sharding}",
        "train.checkpoint_every.steps=1", count=second,
    )  # fmt: skip
    assert status == 0, printed
    assert "Resuming from step" in printed
    assert processes.record("two").environment.processes == second
    same(processes.losses("two"), processes.losses("whole"))


@linux
@pytest.mark.slow
def test_a_killed_worker_goes_on_from_the_last_checkpoint(processes: Processes) -> None:
    processes.run("experiment=whole", "train.steps=30", count=1)
    options = ("--nproc-per-node=2", "--standalone", "--max-restarts=1")
    begun = processes.start(
        "experiment=killed", "train.steps=30", "train.checkpoint_every.steps=5", options=options
    )
    processes.until("killed", 12)
    os.kill(workers(begun)["1"], signal.SIGKILL)
    printed, _ = begun.communicate(timeout=120)
    assert begun.returncode == 0, printed
    (resumed_at,) = processes.record("killed").resumed_at
    assert resumed_at >= 10
    assert resumed_at % 5 == 0
    same(processes.losses("killed"), processes.losses("whole"))


@linux
@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "fault", "sentence"),
    [
        ("1", signal.SIGKILL, "A process of the 2 ended"),
        ("1", signal.SIGSTOP, "A process of the 2 did not answer within 0.1 minutes"),
        ("0", signal.SIGSTOP, "A process of the 2 did not answer within 0.1 minutes"),
    ],
)
def test_a_worker_that_dies_or_hangs_ends_the_run_in_a_sentence(
    processes: Processes, rank: str, fault: signal.Signals, sentence: str
) -> None:
    begun = processes.start("experiment=hung", "train.steps=2000", "train.timeout_minutes=0.1")
    processes.until("hung", 5)
    os.kill(workers(begun)[rank], fault)
    printed, _ = begun.communicate(timeout=150)
    assert begun.returncode != 0
    assert printed.count(sentence) == 1
    if rank == "1":
        record = processes.record("hung")
        assert record.status is Status.failed
        assert sentence in str(record.message)


def test_a_signal_does_not_keep_the_first_process_from_saying_why(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchrun sends one to all processes as soon as one has ended."""
    monkeypatch.setenv("WORLD_SIZE", "2")

    def lose_a_process(*given: object) -> None:
        with contextlib.ExitStack() as leaving:
            leaving.callback(os.kill, os.getpid(), signal.SIGTERM)
            leaving.enter_context(after_step())
            raise RuntimeError("gloo: Connection closed by peer")

    monkeypatch.setattr("runner.data.corpus.load", lose_a_process)
    config, folder = settings(), RunFolder(tmp_path / "run")
    folder.start(synthetic_run(), afresh=False)
    source = find_source(config.data, Path(config.cache_dir))
    parallel = Parallel(torch.device("cpu"), size=2, store=torch.distributed.HashStore())
    before = install_handlers(this_process.end)
    try:
        _train_in(folder, config, source, parallel, Console(file=io.StringIO()))
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    assert folder.run.status is Status.failed
    assert "A process of the 2 ended" in str(folder.run.message)


@pytest.mark.slow
def test_two_machines_that_share_no_folder_train_together(processes: Processes) -> None:
    processes.run("experiment=one", "train.steps=10", count=1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    nodes = [
        processes.start(
            "experiment=nodes",
            "train.steps=10",
            options=(
                "--nnodes=2", f"--node-rank={node}", "--nproc-per-node=1",
                "--master-addr=127.0.0.1", f"--master-port={port}",
            ),
            output=f"node{node}",
        )
        for node in range(2)
    ]  # fmt: skip
    printed = [node.communicate(timeout=120)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], printed
    same(processes.losses("nodes", "node0"), processes.losses("one"))
    assert not [*processes.folder.glob("node1/**/run.json")], "the first process alone writes"


@pytest.mark.slow
def test_a_sweep_on_two_processes_trains_every_stage_and_reports(processes: Processes) -> None:
    sweep = ("-m", "+stage=step01,step05,step10", "experiment=sweep", "train.steps=4")
    status, printed = processes.run(*sweep)
    assert status == 0, printed
    records = {file.parts[-3] for file in processes.folder.glob("outputs/sweep/*/*/run.json")}
    assert records == {"step01", "step05", "step10"}
    assert (processes.folder / "outputs/sweep/report/index.html").exists()
    status, printed = processes.run(*sweep)
    assert (status, printed.count("already finished")) == (0, 3), printed
    tables = [file.read_text() for file in processes.folder.glob("outputs/sweep/*/*/asked.csv")]
    assert [table.count("\n") for table in tables] == [3, 3, 3], "a header, and a line a command"


@pytest.mark.slow
def test_two_runs_with_different_settings_do_not_train_together(processes: Processes) -> None:
    launched = [
        subprocess.Popen(
            [
                sys.executable, "-m", "runner", "scale=smoke", "device=cpu", "data=text",
                f"data.path={processes.text}", f"output_dir={processes.folder}/outputs",
                "+stage=step10", f"seed={rank}",
            ],
            cwd=ROOT,
            env={
                **os.environ, "GPT2_LADDER_CACHE": str(processes.cache_dir), "RANK": str(rank),
                "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": "29671",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    printed = [process.communicate(timeout=120)[0] for process in launched]
    assert launched[0].returncode == 2
    assert printed[0].count("The processes were given other commands") == 1
    assert not [*processes.folder.glob("outputs/**/run.json")]


def test_processes_without_torchrun_are_one_sentence(
    command_line: Callable[..., "subprocess.CompletedProcess[str]"],
) -> None:
    done = command_line("+stage=step10", WORLD_SIZE="2", RANK="0")
    assert done.returncode == 2
    assert "start them with torchrun, or unset WORLD_SIZE" in done.stderr
    assert "Traceback" not in done.stderr
