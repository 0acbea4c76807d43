"""How fast documents are tokenized into shards, in how much memory, and how fast they open.

python -m tests.benchmarks.documents FILE CACHE RESULT.json
"""

import json
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import torch
from pyarrow import parquet

from conf.schema import DataConf, Order
from runner.data.corpus import load
from runner.data.source import find_source
from runner.data.stream import TokenStream
from runner.data.text import python_documentation
from runner.files import CLOCK_GRAIN_NS
from runner.training.device import peak_memory_bytes
from tests.benchmarks import machine, ours
from tests.benchmarks.pages import DOCS, table

PAGE = DOCS / "documents.md"
TITLES = ["files", "text", "tokens", "prepared", "most memory", "opened again"]
TITLES += ["first micro batch", "load before"]
BYTES = 1_000_000_000
# The mean size of a document of FineWeb-Edu's sample is about this.
DOCUMENT_BYTES = 4_700


def main() -> None:
    """Prepares parquet and JSON lines, each in a process of its own, and writes the page."""
    rows = []
    for ending in (".parquet", ".jsonl"):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            file, result = folder / f"documents{ending}", folder / "result.json"
            write(file, BYTES)
            busy = os.getloadavg()[0]
            ours.python(__name__, str(file), str(folder / "cache"), str(result))
            found = json.loads(result.read_text(encoding="utf-8"))
        rows.append(
            [
                ending,
                f"{found['bytes'] / 1e6:,.0f} MB",
                f"{found['tokens'] / 1e6:,.0f} M",
                f"{found['bytes'] / 1e6 / found['prepared_s']:.1f} MB/s",
                f"{found['peak_memory_bytes'] / 1e9:.2f} GB",
                f"{found['opened_s'] * 1e3:.0f} ms",
                f"{found['batch_s'] * 1e3:.0f} ms",
                f"{busy:.1f}",
            ]
        )
        print(*rows[-1], flush=True)
    on = machine.title(machine.describe(torch.device("cpu")))
    page = f"""# Documents into shards

English documents of about {DOCUMENT_BYTES:,} bytes (Python's documentation, its paragraphs in
random order), prepared in a new process each, on {os.cpu_count()} cores of {on}, Python
{platform.python_version()}. `python -m tests.benchmarks documents` measures it and writes this
page; the targets are 15 MB/s on two cores and 1 GB of memory.

{table(TITLES, rows)}

The time is mostly tiktoken's: side by side, on a busy AMD EPYC without AVX512_BF16, preparing
encoded 5.0 MB in a second of processor time and tiktoken alone 5.2 and 5.8. The rates are lower
where something else uses the cores, as the load before shows. The memory is the process's, PyTorch
included.
Opening again is what a later run waits for: the files are known by their size and times, and the
shards are mapped. The first micro batch is that of 16 x 1,024 tokens, shuffled.
"""
    PAGE.write_text(page, encoding="utf-8")


def write(file: Path, size: int) -> None:
    """Documents of `size` bytes of text in all, the same ones in either kind of file."""
    schema = pyarrow.schema([("text", pyarrow.string())])
    texts = _texts(size)
    if file.suffix == ".jsonl":
        with file.open("w", encoding="utf-8") as lines:
            lines.writelines(f"{json.dumps({'text': text})}\n" for text in texts)
        return
    with parquet.ParquetWriter(file, schema, compression="snappy") as writer:
        rows: list[str] = []
        for text in texts:
            rows.append(text)
            if len(rows) == 1000:
                writer.write_table(pyarrow.table([rows], schema=schema))
                rows = []
        writer.write_table(pyarrow.table([rows], schema=schema))


def _texts(size: int) -> Iterator[str]:
    draw = random.Random(1)
    english = python_documentation(ours.CACHE).read_text(encoding="utf-8")
    paragraphs = [paragraph for paragraph in english.split("\n\n") if paragraph.strip()]
    written = 0
    while written < size:
        parts, length = [], 0
        while length < DOCUMENT_BYTES:
            parts.append(draw.choice(paragraphs))
            length += len(parts[-1].encode()) + 2
        yield "\n\n".join(parts)
        written += length


def prepare(file: Path, cache: Path) -> dict[str, Any]:
    """Tokenize a file as a run does, open it again, and take the first micro batch."""
    data = DataConf(
        "text", str(file), None, None, None, None, "train", "text", None, Order.shuffled, 0.1
    )

    def opened() -> float:
        started = time.perf_counter()
        nonlocal corpus
        corpus = load(find_source(data, cache), cache, 0.1, print, lambda done, total: None)
        return time.perf_counter() - started

    corpus = None
    prepared = opened()
    time.sleep(CLOCK_GRAIN_NS / 1e9)  # files this new are not known by their times yet
    opened()
    again = opened()
    assert corpus is not None
    started = time.perf_counter()
    TokenStream(corpus.train, 16, 1024, seed=1).micro_batch(1000)
    return {
        "bytes": corpus.bytes,
        "tokens": corpus.train_tokens + len(corpus.held_out),
        "prepared_s": prepared,
        "opened_s": again,
        "batch_s": time.perf_counter() - started,
        "peak_memory_bytes": peak_memory_bytes(torch.device("cpu")),
    }


if __name__ == "__main__":
    source, kept, output = map(Path, sys.argv[1:])
    output.write_text(json.dumps(prepare(source, kept)), encoding="utf-8")
