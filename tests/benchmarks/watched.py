"""What each process of a run does in a step, in the real command line's own loop.

    torchrun --nproc-per-node 2 -m tests.benchmarks.watched FOLDER '[["+stage=step10", ...], ...]'

The second argument is JSON: a list of runs, each the runner's arguments, which are trained one
after the other; or a number of fp32 parameters, to measure a copy of memory and collectives of
them. Each process writes what it saw into RANK.json in the folder. `worked_s` is how long cores
worked for it, in all its threads, and `received_bytes` came from other processes.
"""

import json
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim.optimizer import register_optimizer_step_post_hook

import runner.__main__
from runner import world
from runner.folder import RunFolder
from runner.rows import Step
from tests.benchmarks.limits import COPIED_BYTES

# Where Linux counts the bytes that a connection received, in its struct tcp_info.
BYTES_RECEIVED = 128
REPEATS = 5


def received_bytes() -> int:
    """What came through this process's connections, without headers, as the kernel counts it.

    The counters of a network interface would add what other programs send.
    """
    total = 0
    for entry in Path("/proc/self/fd").iterdir():
        if "socket:" not in os.path.realpath(entry):
            continue
        with socket.socket(fileno=os.dup(int(entry.name))) as connection:
            if connection.family in (socket.AF_INET, socket.AF_INET6):
                info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                total += struct.unpack_from("=Q", info, BYTES_RECEIVED)[0]
    return total


class Meter:
    """What this process has spent since the meter was set."""

    def __init__(self) -> None:
        self.before = self._now()

    def _now(self) -> tuple[float, float, int]:
        return time.perf_counter(), time.process_time(), received_bytes()

    def spent(self) -> dict[str, float]:
        names = ("seconds", "worked_s", "received_bytes")
        pairs = zip(names, self.before, self._now(), strict=True)
        return {name: after - before for name, before, after in pairs}


def own_bytes(tensors: Iterable[Tensor | None]) -> int:
    """Bytes of tensors, of those that are sharded this process's part."""
    local = (t.to_local() if isinstance(t, DTensor) else t for t in tensors)
    return sum(t.nbytes for t in local if t is not None)


def watch(*arguments: str) -> dict[str, Any]:
    """Trains as the runner's arguments say: the steps, and the bytes of three kinds of tensors."""
    steps: list[dict[str, float]] = []
    kept_bytes: dict[str, int] = {}
    add_step = RunFolder.add_step
    meter = Meter()

    def see_step(folder: RunFolder, step: Step) -> None:
        nonlocal meter
        steps.append({**meter.spent(), "seconds": step.step_ms / 1e3, "loss": step.loss})
        add_step(folder, step)
        meter = Meter()

    def see_memory(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        moments = (m for state in optimizer.state.values() for m in state.values() if m.dim())
        kept_bytes["weights"] = own_bytes(parameters)
        kept_bytes["gradients"] = own_bytes(p.grad for p in parameters)
        kept_bytes["moments"] = own_bytes(moments)

    hook = register_optimizer_step_post_hook(see_memory)
    with patch.object(RunFolder, "add_step", see_step), patch.object(sys, "argv", ["", *arguments]):
        runner.__main__.main()
    hook.remove()
    return {"steps": steps, "kept_bytes": kept_bytes}


def timed(work: Callable[[], object]) -> dict[str, float]:
    """Medians of repeated work, after one turn that is not counted."""
    found = []
    for _ in range(1 + REPEATS):
        if dist.is_initialized():
            dist.barrier()
        meter = Meter()
        work()
        found.append(meter.spent())
    return pd.DataFrame(found[1:]).median().to_dict()


def transfers(parameters: int) -> dict[str, dict[str, float]]:
    """A copy of memory, and of several processes collectives of so many parameters."""
    source = torch.ones(COPIED_BYTES // 4)
    target = torch.empty_like(source)
    found = {"copy": timed(lambda: target.copy_(source))}
    if world.size() > 1:
        dist.init_process_group("gloo")
        part = torch.ones(parameters // world.size())
        whole = part.repeat(world.size())
        found |= {
            "all-reduce": timed(lambda: dist.all_reduce(whole)),
            "all-gather": timed(lambda: dist.all_gather_single(whole, part)),
            "reduce-scatter": timed(lambda: dist.reduce_scatter_single(part, whole)),
        }
        dist.destroy_process_group()
    return found


def main(folder: str, what: str) -> None:
    """Measures and writes what was seen."""
    asked = json.loads(what)
    found = [watch(*run) for run in asked] if isinstance(asked, list) else transfers(asked)
    (Path(folder) / f"{world.rank()}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
