"""What each process of a run does in a step, in the real command line's own loop.

    torchrun --nproc-per-node 2 -m tests.benchmarks.watched FOLDER '[["+stage=step10", ...], ...]'

The second argument is JSON: a list of runs, each the runner's arguments, which are trained one
after the other. Each process writes what it saw into RANK.json in the folder. `received_bytes` came
from other processes.
"""

import json
import os
import socket
import struct
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim.optimizer import register_optimizer_step_post_hook

import runner.__main__
from runner import world
from runner.folder import RunFolder
from runner.rows import Step

# Where Linux counts the bytes that a connection received, in its struct tcp_info.
BYTES_RECEIVED = 128


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


def own_bytes(tensors: Iterable[Tensor | None]) -> int:
    """Bytes of tensors, of those that are sharded this process's part."""
    local = (t.to_local() if isinstance(t, DTensor) else t for t in tensors)
    return sum(t.nbytes for t in local if t is not None)


def watch(*arguments: str) -> dict[str, Any]:
    """Trains as the runner's arguments say: the steps, and the bytes of three kinds of tensors."""
    steps: list[dict[str, float]] = []
    kept_bytes: dict[str, int] = {}
    add_step = RunFolder.add_step
    before = received_bytes()

    def see_step(folder: RunFolder, step: Step) -> None:
        nonlocal before
        steps.append({"received_bytes": received_bytes() - before, "loss": step.loss})
        add_step(folder, step)
        before = received_bytes()

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


def main(folder: str, runs: str) -> None:
    """Trains the runs and writes what was seen."""
    found = [watch(*run) for run in json.loads(runs)]
    (Path(folder) / f"{world.rank()}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
