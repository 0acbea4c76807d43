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
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from conf.errors import UsageError
from runner.data.source import find_source
from runner.folder import RunFolder
from runner.record import Run, Status, read_run
from runner.run import _train_in
from runner.signals import after_step, install_handlers, this_process
from runner.training.parallel import Parallel, connected
from tests.conftest import ROOT, Settings
from tests.environment import environment
from tests.faults.lab import steps_done
from tests.records import synthetic_run

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
# What is evaluated, and the items of HellaSwag.
SCORED = ("evaluation.every=8", "evaluation.samples=true")
ITEMS = "items.jsonl"


class Processes:
    """Starts runs of step10 at the smoke scale on several processes, all in one folder."""

    def __init__(self, folder: Path, text: Path, cache_dir: Path) -> None:
        self.folder, self.text, self.cache_dir = folder, text, cache_dir

    def start(
        self,
        *overrides: str,
        count: int = 2,
        options: tuple[str, ...] = (),
        output: str = "outputs",
        **variables: str,
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
                "sample.tokens=4", "train.steps=30", "train.autocast=none", "train.compile=false",
                # Rates at which 30 steps keep differences of rounding small.
                "scale.learning_rate=3e-4", "scale.peak_learning_rate=6e-4",
                *(word for word in overrides if word not in flags),
            ],
            cwd=ROOT,
            env=environment(GPT2_LADDER_CACHE=str(self.cache_dir), **variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip

    def run(self, *overrides: str, count: int = 2) -> str:
        """All that was printed, by a command that ends well."""
        process = self.start(*overrides, count=count)
        printed, _ = process.communicate(timeout=240)
        assert process.returncode == 0, printed
        return printed

    def until(self, steps: int) -> None:
        """Wait until a run has taken so many steps."""
        deadline = time.monotonic() + 120
        while steps_done(self.folder / "outputs" / "ladder") < steps:
            assert time.monotonic() < deadline, f"it did not get to step {steps}"
            time.sleep(0.02)

    def record(self, output: str = "outputs") -> Run:
        (file,) = self.folder.glob(f"{output}/ladder/*/*/run.json")
        return read_run(file.parent)

    def losses(self, output: str = "outputs") -> list[float]:
        """The loss of each step, then the held-out loss."""
        (file,) = self.folder.glob(f"{output}/ladder/*/*/steps.csv")
        steps = pd.read_csv(file)["loss"].tolist()
        return [*steps, self.record(output).results.held_out]


@pytest.fixture
def processes(tmp_path: Path, text_file: Path, cache_dir: Path) -> Processes:
    return Processes(tmp_path, text_file, cache_dir)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, text_file: Path, cache_dir: Path) -> Processes:
    """A run on one process, with which those on several are compared."""
    folder = tmp_path_factory.mktemp("one")
    endings = ["runs away", "sat", "is a bird that sings", "ate it up"]
    lines = [{"ctx": "A man " * (i + 1), "endings": endings, "label": i % 4} for i in range(7)]
    (folder / ITEMS).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    one = Processes(folder, text_file, cache_dir)
    one.run(*SCORED, f"evaluation.hellaswag={folder / ITEMS}", count=1)
    assert len(one.losses()) == 31
    return one


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


def check_same(run: Processes, other: Processes, output: str = "outputs") -> None:
    np.testing.assert_allclose(run.losses(output), other.losses(), atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_two_processes_train_score_and_sample_as_one(
    processes: Processes, one: Processes, sharding: str
) -> None:
    printed = processes.run(
        *SCORED, f"evaluation.hellaswag={one.folder / ITEMS}", f"train.sharding={sharding}",
        "checkpoint=last",
    )  # fmt: skip
    assert printed.count(", held-out loss") == 1, "one process speaks"
    check_same(processes, one)
    ours, theirs = processes.record(), one.record()
    assert (theirs.environment.processes, ours.environment.processes) == (1, 2)
    assert ours.environment.sharding == (None if sharding == "none" else "fsdp")
    assert ours.fingerprint == theirs.fingerprint
    assert ours.results.tokens_per_step == theirs.results.tokens_per_step
    assert [scored.step for scored in theirs.hellaswag] == [8, 16, 24, 30]
    assert ours.hellaswag == theirs.hellaswag
    assert ours.samples == theirs.samples
    assert ours.samples[0].text
    (weights,) = processes.folder.glob("outputs/ladder/*/*/*.safetensors")
    assert weights.name == "weights.safetensors"


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_what_is_beyond_the_guide_trains_on_two_processes_too(
    processes: Processes, sharding: str
) -> None:
    """Muon iterates in bf16, where another order of sums is seen: within 0.002 nats."""
    asked = "+stage=together", "model.dropout=0.0"
    processes.run(*asked, count=1)
    both = processes.start(*asked, f"train.sharding={sharding}", output="both")
    printed, _ = both.communicate(timeout=240)
    assert both.returncode == 0, printed
    np.testing.assert_allclose(processes.losses("both"), processes.losses(), atol=2e-3, rtol=0)


@pytest.mark.parametrize("late", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_a_mistake_is_one_sentence_of_the_process_that_meets_it_first(
    processes: Processes, late: str
) -> None:
    """torchrun then ends the other one, before it knows of the mistake."""
    (processes.folder / "sitecustomize.py").write_text(
        f"import os, time\nif os.environ.get('RANK') == '{late}': time.sleep(1)\n"
    )
    begun = processes.start("train.stepz=3", PYTHONPATH=str(processes.folder))
    printed, _ = begun.communicate(timeout=240)
    assert begun.returncode != 0
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
    processes: Processes,
    one: Processes,
    first: int,
    first_sharding: str,
    second: int,
    second_sharding: str,
) -> None:
    every = "train.checkpoint_every.steps=1"
    begun = processes.start(every, f"train.sharding={first_sharding}", count=first)
    processes.until(5)
    begun.send_signal(signal.SIGTERM)
    printed, _ = begun.communicate(timeout=120)
    assert processes.record().status is Status.interrupted, printed
    printed = processes.run(every, f"train.sharding={second_sharding}", count=second)
    assert "Resuming from step" in printed
    assert processes.record().environment.processes == second
    check_same(processes, one)


@linux
@pytest.mark.slow
def test_a_killed_worker_goes_on_from_the_last_checkpoint(
    processes: Processes, one: Processes
) -> None:
    options = ("--nproc-per-node=2", "--standalone", "--max-restarts=1")
    begun = processes.start("train.checkpoint_every.steps=5", options=options)
    processes.until(12)
    os.kill(workers(begun)["1"], signal.SIGKILL)
    printed, _ = begun.communicate(timeout=120)
    assert begun.returncode == 0, printed
    (resumed_at,) = processes.record().resumed_at
    assert resumed_at >= 10
    assert resumed_at % 5 == 0
    check_same(processes, one)


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
    begun = processes.start("train.steps=2000", "train.timeout_minutes=0.1")
    processes.until(5)
    os.kill(workers(begun)[rank], fault)
    printed, _ = begun.communicate(timeout=150)
    assert begun.returncode != 0
    assert printed.count(sentence) == 1
    if rank == "1":
        record = processes.record()
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
    monkeypatch.setattr(this_process, "asked", [])
    before = install_handlers(this_process.end)
    try:
        _train_in(folder, config, source, parallel, Console(file=io.StringIO()))
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    assert folder.run.status is Status.failed
    assert "A process of the 2 ended" in str(folder.run.message)


@pytest.mark.slow
def test_two_machines_that_share_no_folder_train_together(
    processes: Processes, one: Processes
) -> None:
    where = ("--master-addr=127.0.0.1", f"--master-port={free_port()}")
    nodes = [
        processes.start(
            options=("--nnodes=2", f"--node-rank={node}", "--nproc-per-node=1", *where),
            output=f"node{node}",
        )
        for node in range(2)
    ]
    printed = [node.communicate(timeout=120)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], printed
    check_same(processes, one, "node0")
    assert not [*processes.folder.glob("node1/**/run.json")], "the first process alone writes"


@pytest.mark.slow
def test_a_sweep_on_two_processes_trains_every_stage_and_reports(processes: Processes) -> None:
    sweep = ("-m", "+stage=step01,step05,step10", "train.steps=4")
    processes.run(*sweep)
    records = {file.parts[-3] for file in processes.folder.glob("outputs/ladder/*/*/run.json")}
    assert records == {"step01", "step05", "step10"}
    assert (processes.folder / "outputs/ladder/report/index.html").exists()
    assert processes.run(*sweep).count("already finished") == 3
    tables = [file.read_text() for file in processes.folder.glob("outputs/ladder/*/*/asked.csv")]
    assert [table.count("\n") for table in tables] == [3, 3, 3], "a header, and a line a command"


@pytest.mark.slow
def test_two_runs_with_different_settings_do_not_train_together(processes: Processes) -> None:
    where = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    launched = [
        processes.start(f"seed={rank}", count=1, RANK=rank, LOCAL_RANK=rank, **where)
        for rank in ("0", "1")
    ]
    printed = [process.communicate(timeout=120)[0] for process in launched]
    assert launched[0].returncode == 2
    assert printed[0].count("The processes have different commands") == 1
    assert not [*processes.folder.glob("outputs/**/run.json")]


def test_processes_without_torchrun_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    sentence = "start them with torchrun, or unset WORLD_SIZE"
    with pytest.raises(UsageError, match=sentence), connected(torch.device("cpu"), 1):
        pass


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
