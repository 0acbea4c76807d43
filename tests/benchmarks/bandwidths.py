"""How fast a process copies memory, and how fast several exchange it.

    torchrun --nproc-per-node 2 -m tests.benchmarks.bandwidths FOLDER PARAMETERS

Each process writes RANK.json in the folder, see `Transfer`: of a copy of memory, and of collectives
of a tensor with so many fp32 parameters.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from runner import world
from tests.benchmarks.limits import COPIED_BYTES
from tests.benchmarks.watched import received_bytes

REPEATS = 5


@dataclass(frozen=True)
class Transfer:
    """Medians of one process: the time, how long cores worked for it, and the bytes received."""

    seconds: float
    worked_s: float
    received_bytes: float


def timed(work: Callable[[], object]) -> Transfer:
    """Repeat the work, after one turn that is not counted."""
    found = []
    for _ in range(1 + REPEATS):
        if dist.is_initialized():
            dist.barrier()
        before = time.perf_counter(), time.process_time(), received_bytes()
        work()
        after = time.perf_counter(), time.process_time(), received_bytes()
        found.append([b - a for a, b in zip(before, after, strict=True)])
    return Transfer(*(statistics.median(column) for column in zip(*found[1:], strict=True)))


def main(folder: str, parameters: str) -> None:
    """Measures and writes."""
    source = torch.ones(COPIED_BYTES // 4)
    target = torch.empty_like(source)
    found = {"copy": timed(lambda: target.copy_(source))}
    if world.size() > 1:
        dist.init_process_group("gloo")
        part = torch.ones(int(parameters) // world.size())
        whole = part.repeat(world.size())
        found |= {
            "all-reduce": timed(lambda: dist.all_reduce(whole)),
            "all-gather": timed(lambda: dist.all_gather_single(whole, part)),
            "reduce-scatter": timed(lambda: dist.reduce_scatter_single(part, whole)),
        }
        dist.destroy_process_group()
    content = {name: asdict(transfer) for name, transfer in found.items()}
    (Path(folder) / f"{world.rank()}.json").write_text(json.dumps(content), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
