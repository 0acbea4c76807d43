"""What is spent around the steps: on a sweep, on compiling, on text, on the line of a step.

python -m tests.benchmarks.surroundings text BYTES ENDING RESULT.json
python -m tests.benchmarks.surroundings line RESULT.json
"""

import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from conf.schema import DataConf, Order
from runner.data.corpus import Corpus, load
from runner.data.source import find_source
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
# The mean size of a document of FineWeb-Edu's sample is about this.
DOCUMENT_BYTES = 4_700


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
    runs = (read_run(file.parent) for file in folder.glob("*/*/*/run.json"))
    ended = [run for run in runs if run.status is Status.finished]
    # Of other code the folder may have older ones.
    finished = {run.stage.name: run for run in sorted(ended, key=lambda run: run.started)}
    return {
        "seconds": None if goes_on else seconds,
        "report_s": ours.python("reports", *map(str, folder.iterdir())),
        **{
            what: sum(getattr(record.timings, what) for record in finished.values())
            for what in ("setup_s", "compile_s", "train_s", "evaluation_s")
        },
        "stages": {
            stage: {
                "micro_batch_size": record.config["train"]["micro_batch_size"],
                **{
                    what: getattr(record.results, what)
                    for what in ("step_ms", "tokens_per_second", "peak_memory_bytes")
                },
            }
            for stage, record in finished.items()
        },
    }


def compilation(folder: Path, stage: str, *overrides: str) -> Entry:
    """Seconds that a stage compiles for with an empty cache, and with what that left in it."""
    shutil.rmtree(folder, ignore_errors=True)
    # Of the text, too, the cache has nothing, and this one needs no network.
    fresh = (f"cache_dir={folder / 'cache'}", "data=pydoc", "train.steps=1")
    cold, warm = (ours.train(folder / run, stage, *fresh, *overrides) for run in ("cold", "warm"))
    return {"cold_s": cold.record.timings.compile_s, "warm_s": warm.record.timings.compile_s}


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


def text(size: str, ending: str) -> Entry:
    """Tokenize so many bytes of documents in a file of a kind: .txt, .jsonl or .parquet."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"text{ending}"
        written = documents(int(size))
        if ending == ".parquet":
            import pyarrow  # which not every machine has
            from pyarrow import parquet

            schema = pyarrow.schema([("text", pyarrow.string())])
            with parquet.ParquetWriter(file, schema, compression="snappy") as writer:
                while rows := list(islice(written, 1000)):
                    writer.write_table(pyarrow.table([rows], schema=schema))
        else:
            with file.open("w", encoding="utf-8") as lines:
                for document in written:
                    kept = json.dumps({"text": document}) if ending == ".jsonl" else document
                    lines.write(f"{kept}\n")
        return tokenized(str(file), f"{folder}/cache")


def documents(size: int) -> Iterator[str]:
    """Documents of `size` bytes in all, of paragraphs of Python's documentation at random."""
    draw = random.Random(1)
    english = python_documentation(ours.CACHE).read_text(encoding="utf-8")
    paragraphs = [paragraph for paragraph in english.split("\n\n") if paragraph.strip()]
    written = 0
    while written < size:
        parts, length = [], 0
        while length < min(DOCUMENT_BYTES, size):
            parts.append(draw.choice(paragraphs))
            length += len(parts[-1].encode()) + 2
        yield "\n\n".join(parts)
        written += length


def tokenized(file: str, cache: str) -> Entry:
    """Tokenize a file as a run does, and open it again. The most memory is this process's."""
    data = DataConf(
        "text", file, None, None, None, None, "train", "text", None, Order.shuffled, 0.1
    )

    def opened() -> tuple[float, Corpus]:
        started = time.perf_counter()
        source = find_source(data, Path(cache))
        corpus = load(source, Path(cache), 0.1, print, lambda done, total: None)
        return time.perf_counter() - started, corpus

    first, _ = opened()
    time.sleep(CLOCK_GRAIN_NS / 1e9)  # a file this new is not known by its times yet
    opened()  # once, the cache is read to see that it is whole
    known, corpus = opened()
    return {
        "bytes": corpus.bytes,
        "tokenized_s": first,
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
    *given, result = arguments
    found = {"text": text, "line": line}[what](*given)
    Path(result).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
