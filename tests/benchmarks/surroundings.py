"""What is spent around the steps: on a sweep, on compiling, on text, on the line of a step.

python -m tests.benchmarks.surroundings text BYTES RESULT.json
python -m tests.benchmarks.surroundings line RESULT.json
"""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from runner.data.corpus import load
from runner.data.documents import TextFiles
from runner.data.source import Source
from runner.data.text import python_documentation
from runner.files import CLOCK_GRAIN_NS
from runner.folder import RunFolder
from runner.progress import step_progress
from runner.record import Status, read_run
from runner.rows import Step
from runner.training.device import peak_memory_bytes
from tests.benchmarks import ours
from tests.records import synthetic_run

Entry = dict[str, Any]
LINES = 10_000


def sweep(folder: Path, *overrides: str) -> Entry:
    """The whole ladder by the command line, and its report once more: seconds, those of them in
    which a step or an evaluation ran, and by stage tokens a second and the most memory held.

    A sweep that is in the folder goes on; how long all of it takes is then not known.
    """
    goes_on = folder.exists()
    if not goes_on:  # it is to find its kernels in the cache
        for compiled in ("step06", "step07"):
            ours.train(folder.with_name("compiled"), compiled, "train.steps=1", *overrides)
    seconds = ours.runner("-m", "+stage=glob(step*)", *overrides, f"output_dir={folder}")
    records = [read_run(file.parent) for file in folder.glob("*/*/*/run.json")]
    records.sort(key=lambda record: record.started)  # of other code the folder may have older ones
    done = {r.stage.name: r for r in records if r.status is Status.finished}
    finished = list(done.values())
    return {
        "seconds": None if goes_on else seconds,
        "report_s": ours.python("reports", *map(str, folder.iterdir())),
        **{
            what: sum(getattr(record.timings, what) for record in finished)
            for what in ("setup_s", "compile_s", "train_s", "evaluation_s")
        },
        "stages": {
            record.stage.name: {
                "micro_batch_size": record.config["train"]["micro_batch_size"],
                "step_ms": record.results.step_ms,
                "tokens_per_second": record.results.tokens_per_second,
                "peak_memory_bytes": record.results.peak_memory_bytes,
            }
            for record in finished
        },
    }


def compilation(folder: Path, stage: str, *overrides: str) -> Entry:
    """Seconds that a stage compiles for with an empty cache, and with what that left in it."""
    shutil.rmtree(folder, ignore_errors=True)
    # Of the text, too, the cache has nothing, and this one needs no network.
    fresh = (f"cache_dir={folder / 'cache'}", "data=pydoc", "train.steps=1")
    cold, warm = (ours.train(folder / run, stage, *fresh, *overrides) for run in ("cold", "warm"))
    return {
        "cold_s": cold.record.timings.compile_s,
        "warm_s": warm.record.timings.compile_s,
    }


def busy(folder: Path, *overrides: str) -> Entry:
    """Milliseconds of a step alone and beside a process that keeps one core busy, in turns."""

    def step_ms() -> float:
        return ours.train(folder, "step05", *overrides).record.results.step_ms

    alone, beside = [], []
    for _ in range(3):
        alone.append(step_ms())
        neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            beside.append(step_ms())
        finally:
            neighbour.kill()
            neighbour.wait()
    return {"alone_ms": statistics.median(alone), "beside_ms": statistics.median(beside)}


def text(size: int) -> Entry:
    """Tokenize a text as a run does, and open it again: seconds, and the most memory held."""
    with tempfile.TemporaryDirectory() as folder:
        file, cache = Path(folder) / "text.txt", Path(folder) / "cache"
        english = python_documentation(ours.CACHE).read_bytes()
        with file.open("wb") as copies:
            for number in range(max(1, size // len(english))):
                copies.write(f"\n{number}\n".encode() + english)

        def opened() -> float:
            started = time.perf_counter()
            text = TextFiles([file])
            source = Source("text", text.sha256(cache), text)
            load(source, cache, 0.1, print, lambda done, total: None)
            return time.perf_counter() - started

        tokenized = opened()
        time.sleep(CLOCK_GRAIN_NS / 1e9)  # a file this new is not known by its times yet
        checked, known = opened(), opened()
        return {
            "bytes": file.stat().st_size,
            "tokenized_s": tokenized,
            "checked_s": checked,  # once, the cache is read to see that it is whole
            "opened_s": known,
            "peak_memory_bytes": peak_memory_bytes(torch.device("cpu")),
        }


def line() -> Entry:
    """Microseconds that a step's line takes in steps.csv, the log and the output together."""
    with tempfile.TemporaryDirectory() as folder:
        record = RunFolder(Path(folder))
        record.start(synthetic_run(), afresh=True)
        with step_progress(Console(), "line", LINES, 0) as show:
            started = time.perf_counter()
            for number in range(LINES):
                step = Step(number, 10.962733268737793, 27.9385, 6e-4, 34471.311, 256)
                record.add_step(step)
                show(step)
            seconds = time.perf_counter() - started
        record.end(Status.finished)
    return {"line_us": seconds / LINES * 1e6}


def main(what: str, *arguments: str) -> None:
    """Measures one of them and writes the result."""
    *sizes, result = arguments
    found = text(*map(int, sizes)) if what == "text" else line()
    Path(result).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
