"""Stages in processes of their own, which must be able to use CUDA."""

import io
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import joblib
import pytest
from rich.console import Console

from runner import process
from runner.entry import errors_in_a_sentence
from runner.folder import RunFolder
from runner.record import Status
from runner.run import _train_isolated, prepare_libraries
from runner.signals import Interrupted, handled_by, this_process
from tests.conftest import ROOT, CommandLine
from tests.runner import children
from tests.runner.test_command_line import records

# A driver with one GPU of 24 GB, or as many as GPUS says. It writes who initialised it, and whether
# a process was forked after that, in which CUDA could not be used.
DRIVER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void note(const char *what) {
    FILE *file = fopen(getenv("DRIVER_LOG"), "a");
    fprintf(file, "%s\n", what);
    fclose(file);
}
static void forked(void) { note("forked"); }
int cuInit(unsigned flags) {
    note("initialised");
    return pthread_atfork(NULL, NULL, forked);
}
int cuDeviceGet(int *device, int ordinal) {
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    return visible && !*visible ? 101 : 0;
}
int cuDeviceGetCount(int *count) {
    const char *visible = getenv("CUDA_VISIBLE_DEVICES"), *all = getenv("GPUS");
    *count = all ? atoi(all) : 1;
    if (visible)
        for (*count = 1; *visible; visible++) *count += *visible == ',';
    return 0;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = 25300000000; return 0; }
/* By these a CUDA build of torch finds the others. */
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuGetProcAddress_v2(const char *name, void **found, int version, long flags, int *status) {
    *found = dlsym(RTLD_DEFAULT, name);
    if (status) *status = !*found;
    return *found ? 0 : 500;
}
int cuGetProcAddress(const char *name, void **found, int version, long flags) {
    return cuGetProcAddress_v2(name, found, version, flags, 0);
}
"""


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The log of a stub of NVIDIA's driver library, which every new process finds."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("the stub of the driver needs Linux and a C compiler")
    folder = tmp_path / "driver"
    folder.mkdir()
    (folder / "driver.c").write_text(DRIVER)
    command = [compiler, "-shared", "-fPIC", "driver.c", "-o", "libcuda.so.1", "-lpthread", "-ldl"]
    subprocess.run(command, cwd=folder, check=True)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))
    monkeypatch.setenv("DRIVER_LOG", str(folder / "log"))
    return folder / "log"


def test_the_stub_notices_a_fork_after_initialisation(driver: Path) -> None:
    asks = "import ctypes, os; ctypes.CDLL('libcuda.so.1').cuInit(0)"
    command = [sys.executable, "-c", f"{asks}; os.fork() or os._exit(0); os.wait()"]
    subprocess.run(command, check=True)
    assert driver.read_text().split() == ["initialised", "forked"]


@pytest.mark.slow
def test_no_stage_of_a_default_sweep_is_forked_after_the_driver_was_asked(
    driver: Path, command_line: CommandLine, tmp_path: Path, text_file: Path
) -> None:
    done = command_line(
        "-m", "+stage=step02,step03", "device=cpu", "model=nano", "data=text",
        f"data.path={text_file}", f"output_dir={tmp_path}/outputs", "train.steps=2",
        "train.micro_batch_size=2", "train.context=32", "evaluation.tokens=64",
        "evaluation.peak_seconds=0.1", smoke=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = records(tmp_path)
    assert [run["status"] for run in found.values()] == [Status.finished.value] * 2
    assert {run["config"]["scale"]["name"] for run in found.values()} == {"cuda_24gb"}
    assert set(driver.read_text().split()) == {"initialised"}


def child(function: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """A function of children.py in a new process that has imported nothing before."""
    source = f"from tests.runner import children; children.{function}{tuple(map(str, arguments))}"
    return subprocess.run([sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_each_worker_has_a_gpu_of_its_own_and_half_of_the_threads_and_hidden_ones_are_not_chosen(
    driver: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUS", "2")
    monkeypatch.setenv("GPT2_LADDER_CACHE", str(cache_dir))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    done = child("print_jobs")
    threads = max(1, joblib.cpu_count() // 2)
    expected = [
        {"cuda_24gb", *(f"{gpu}/{threads}" for gpu in gpus)}
        for gpus in (("0", "1"), ("GPU-5e", "GPU-7a"))
    ]
    assert [{*line.split()} for line in done.stdout.splitlines()] == [*expected, {"cpu"}], (
        done.stderr
    )


def test_a_stages_server_asks_nothing_of_a_driver(
    driver: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it import the compiler, which asks CUDA in PyTorch 2.11: it then works in no stage.

    A CUDA build asks the stub of the driver, and any build shows what was imported.
    """
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    done = child("serve", tmp_path / "modules")
    assert done.returncode == 0, done.stderr
    modules = (tmp_path / "modules").read_text().split()
    assert {"tests.runner.trap", "runner.training.loop"} < {*modules}
    assert not {"torch._inductor.compile_fx", "torch._inductor.runtime.benchmarking"} & {*modules}
    assert "forked" not in driver.read_text().split(), "the server has asked the driver"


@pytest.fixture
def preloads(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What a server is told to import; it imports nothing here, so that it starts soon."""
    told: list[list[str]] = []
    monkeypatch.setattr(multiprocessing, "set_forkserver_preload", told.append)
    monkeypatch.setattr(this_process, "asked", [])
    return told


def test_every_stage_has_the_environment_that_its_sweep_has_then(
    preloads: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EARLIER", "1")
    for visible in ("0", "1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        monkeypatch.setattr(process, "visible_gpus", lambda gpus=visible: gpus.replace("1", ""))
        assert process.in_own_process(children.write_environment, tmp_path / visible) == 0
        assert (tmp_path / visible).read_text() == f"{visible} {os.environ.get('EARLIER')}"
        monkeypatch.delenv("EARLIER", raising=False)
    # Only where there is no GPU the compiler is imported, too.
    assert preloads == [process.PRELOADED, [*process.PRELOADED, "torch._inductor.compile_fx"]]


@pytest.mark.usefixtures("preloads")
def test_a_signal_to_the_whole_group_does_not_end_the_server() -> None:
    """The second stage of a sweep would otherwise lose its exit status."""
    assert process.in_own_process(children.end_the_parent) == 0


@pytest.mark.usefixtures("preloads")
def test_a_signal_that_waited_for_the_start_ends_the_stage_quietly(
    capfd: pytest.CaptureFixture[str],
) -> None:
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with handled_by(this_process.end), pytest.raises(Interrupted, match="SIGTERM"):
        process.in_own_process(time.sleep, 20)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.usefixtures("preloads")
def test_a_second_signal_kills_the_stage_whose_record_then_says_so(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    train = partial(children.ask_twice, os.getpid(), folder.path)
    with handled_by(this_process.end), pytest.raises(Interrupted) as ended:
        _train_isolated(train, folder, Console(file=io.StringIO()))
    assert RunFolder(folder.path).status is Status.interrupted
    assert ended.value.at_once
    assert not multiprocessing.active_children()


def test_an_error_that_an_interruption_caused_is_an_interruption() -> None:
    def compose() -> None:
        try:
            raise Interrupted(signal.SIGINT)
        finally:
            raise AttributeError("'NoneType' object has no attribute '_invalidate_flags_cache'")

    with pytest.raises(SystemExit) as ended, errors_in_a_sentence():
        compose()
    assert ended.value.code == 130


@pytest.mark.usefixtures("preloads")
def test_a_stage_that_outlives_the_server_keeps_its_result(tmp_path: Path) -> None:
    train = partial(children.finish_without_a_server, tmp_path / "run")
    _train_isolated(train, RunFolder(tmp_path / "run"), Console(file=io.StringIO()))
    assert RunFolder(tmp_path / "run").status is Status.finished


@pytest.mark.parametrize("policy", [None, "active"])
def test_waiting_threads_sleep_soon_unless_the_user_has_a_policy(
    policy: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    if policy:
        monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    prepare_libraries(tmp_path)
    assert ("GOMP_SPINCOUNT" in os.environ) is (policy is None)
