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

from runner.entry import errors_in_a_sentence
from runner.folder import RunFolder
from runner.process import in_own_process
from runner.record import Status
from runner.run import _train_isolated, prepare_libraries
from runner.signals import Interrupted, handled_by, this_process
from tests.conftest import ROOT, CommandLine
from tests.environment import environment
from tests.records import synthetic_run
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


# Four jobs of a second on two workers of hydra/launcher=cores; prints what each saw.
JOBS = """
import os, time
from hydra.utils import instantiate
from joblib import Parallel, delayed
from hydra import compose, initialize
from conf.reading import register

def seen(job):
    time.sleep(1)
    return f'{os.environ.get("CUDA_VISIBLE_DEVICES")}/{os.environ["OMP_NUM_THREADS"]}'

register()
with initialize("conf", version_base="1.3"):
    config = compose("config", ["hydra/launcher=cores"], return_hydra_config=True)
launcher = instantiate(config.hydra.launcher)
print(*Parallel(**launcher.joblib, backend="loky")(delayed(seen)(i) for i in range(4)))
"""


@pytest.mark.parametrize("visible", [None, "GPU-5e,GPU-7a"])
def test_each_worker_has_a_gpu_of_its_own_and_half_of_the_threads(
    visible: str | None, driver: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUS", "2")
    monkeypatch.setenv("GPT2_LADDER_CACHE", str(cache_dir))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    done = subprocess.run([sys.executable, "-c", JOBS], cwd=ROOT, capture_output=True, text=True)
    threads = max(1, joblib.cpu_count() // 2)
    expected = {f"{gpu}/{threads}" for gpu in (visible or "0,1").split(",")}
    assert set(done.stdout.split()) == expected, done.stderr


def test_hidden_devices_are_not_chosen(driver: Path) -> None:
    command = [sys.executable, "-m", "runner", "+stage=step02", "--cfg", "job", "-p", "scale"]
    for visible, scale in (("0", "cuda_24gb"), ("", "cpu")):
        variables = environment(CUDA_VISIBLE_DEVICES=visible)
        shown = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
        assert f"name: {scale}\n" in shown.stdout, shown.stderr


def test_every_stage_has_the_environment_that_its_sweep_has_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EARLIER", "1")
    for visible in ("0", "1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert in_own_process(_write_environment, tmp_path / visible) == 0
        assert (tmp_path / visible).read_text() == f"{visible} {os.environ.get('EARLIER')}"
        monkeypatch.delenv("EARLIER", raising=False)


def test_what_a_stages_server_imports_asks_nothing_of_a_driver() -> None:
    """The calls of torch that would reach one are replaced by a failure."""
    source = (
        "import torch\n"
        "def reached(*a, **k): raise SystemExit('asked')\n"
        "for name in ('is_available', 'device_count', 'init', '_lazy_init', 'current_device'):\n"
        "    setattr(torch.cuda, name, reached)\n"
        "torch.accelerator.is_available = torch.accelerator.device_count = reached\n"
        "torch.accelerator.current_accelerator = reached\n"
        "import importlib\n"
        "from runner.process import PRELOADED\n"
        "for name in PRELOADED: importlib.import_module(name)\n"
        "print('quiet')"
    )
    done = subprocess.run([sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "quiet\n", done.stderr


@pytest.mark.parametrize(("visible", "imported"), [("0", False), ("", True)])
def test_the_stages_server_imports_the_compiler_only_where_there_is_no_gpu(
    driver: Path, tmp_path: Path, visible: str, imported: bool
) -> None:
    """In PyTorch 2.11 that import asks CUDA, which then works in no stage.

    A CUDA build asks the stub of the driver, and any build shows what was imported.
    """
    source = (
        "from pathlib import Path; from runner.process import in_own_process;"
        "from tests.runner.test_process import _write_modules;"
        f"in_own_process(_write_modules, Path({str(tmp_path / 'modules')!r}))"
    )
    variables = environment(CUDA_VISIBLE_DEVICES=visible)
    subprocess.run([sys.executable, "-c", source], cwd=ROOT, env=variables, check=True)
    modules = (tmp_path / "modules").read_text().split()
    assert "runner.training.loop" in modules
    for name in ("torch._inductor.compile_fx", "torch._inductor.runtime.benchmarking"):
        assert (name in modules) is imported
    if visible:
        assert "forked" not in driver.read_text().split(), "the server has asked the driver"


def test_a_signal_to_the_whole_group_does_not_end_the_server() -> None:
    """The second stage of a sweep would otherwise lose its exit status."""
    assert in_own_process(_end_the_parent) == 0


def test_a_signal_that_waited_for_the_start_ends_the_stage_quietly(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(this_process, "asked", [])
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with handled_by(this_process.end), pytest.raises(Interrupted, match="SIGTERM"):
        in_own_process(time.sleep, 20)
    assert "Traceback" not in capfd.readouterr().err


def test_a_second_signal_kills_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(this_process, "asked", [])
    with handled_by(this_process.end), pytest.raises(Interrupted) as ended:
        in_own_process(_ask_twice, os.getpid())
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


def test_a_stage_that_outlives_the_server_keeps_its_result(tmp_path: Path) -> None:
    train = partial(_finish_without_a_server, tmp_path / "run")
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


def _finish_without_a_server(path: Path) -> None:
    folder = RunFolder(path)
    with folder.locked(Console(file=io.StringIO())):
        folder.start(synthetic_run(), afresh=True)
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(1)
        folder.end(Status.finished)


def _end_the_parent() -> None:
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(0.5)


def _ask_twice(sweep: int) -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    for signum in (signal.SIGTERM, signal.SIGUSR2):
        os.kill(sweep, signum)
    time.sleep(20)


def _write_environment(file: Path) -> None:
    file.write_text(f"{os.environ['CUDA_VISIBLE_DEVICES']} {os.environ.get('EARLIER')}")


def _write_modules(file: Path) -> None:
    file.write_text("\n".join(sys.modules))
