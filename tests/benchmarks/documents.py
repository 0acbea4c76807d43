"""How fast documents are tokenized into shards, in how much memory, and how fast they open."""

import json
import os
import platform
import random
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyarrow
import torch
from pyarrow import parquet

from runner.data.text import python_documentation
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
            arguments = ("file", str(file), str(folder / "cache"), str(result))
            ours.python("tests.benchmarks.surroundings", *arguments)
            found = json.loads(result.read_text(encoding="utf-8"))
        rows.append(
            [
                ending,
                f"{found['bytes'] / 1e6:,.0f} MB",
                f"{found['tokens'] / 1e6:,.0f} M",
                f"{found['bytes'] / 1e6 / found['tokenized_s']:.1f} MB/s",
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
        while rows := list(islice(texts, 1000)):
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
