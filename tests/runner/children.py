"""What test_process.py does in other processes. Little is imported, so that they start soon."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from runner import process

if TYPE_CHECKING:
    from runner.folder import RunFolder

ROOT = Path(__file__).parent.parent.parent


def serve(file: str) -> None:
    """Start a stage's server that may ask no driver, and write what a stage has imported."""
    process.PRELOADED.insert(0, "tests.runner.trap")
    process.in_own_process(write_modules, Path(file))


def print_jobs() -> None:
    """The scale and four jobs of two workers of hydra/launcher=cores, for each choice of GPUs."""
    import joblib
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    from conf.device import _ask_driver
    from conf.reading import register

    register()
    for visible in (None, "GPU-5e,GPU-7a", ""):
        if visible is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = visible
        _ask_driver.cache_clear()
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config = compose("config", ["hydra/launcher=cores"], return_hydra_config=True)
        seen = [config.scale.name]
        if visible != "":
            parallel = joblib.Parallel(**instantiate(config.hydra.launcher).joblib, backend="loky")
            seen += parallel(joblib.delayed(job)() for _ in range(4))
        print(*seen)


def job() -> str:
    time.sleep(1)
    return f"{os.environ.get('CUDA_VISIBLE_DEVICES')}/{os.environ['OMP_NUM_THREADS']}"


def begin(path: Path) -> "RunFolder":
    from runner.folder import RunFolder
    from tests.records import synthetic_run

    folder = RunFolder(path)
    folder.start(synthetic_run(), afresh=True)
    return folder


def finish_without_a_server(path: Path) -> None:
    import io

    from rich.console import Console

    from runner.folder import RunFolder
    from runner.record import Status

    with RunFolder(path).locked(Console(file=io.StringIO())):
        folder = begin(path)
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(1)
        folder.end(Status.finished)


def end_the_parent() -> None:
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(0.5)


def ask_twice(sweep: int, path: Path) -> None:
    begin(path)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    for signum in (signal.SIGTERM, signal.SIGUSR2):
        os.kill(sweep, signum)
        time.sleep(0.3)  # two at once may reach another thread of the tests, and wake none
    time.sleep(20)


def write_environment(file: Path) -> None:
    file.write_text(f"{os.environ['CUDA_VISIBLE_DEVICES']} {os.environ.get('EARLIER')}")


def write_modules(file: Path) -> None:
    file.write_text("\n".join(sys.modules))
