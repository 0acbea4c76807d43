"""Where the time of one step goes, by kind of work, in the real command line's own loop.

    python -m tests.benchmarks.profile_step +stage=step07 train.steps=5 ... RESULT.json

The arguments before the file are the runner's. It trains as always, in this process, but without
looks, which are no part of a step. A profiler is active during the last step.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

import runner.__main__
from runner.folder import RunFolder
from runner.rows import Step
from tests.benchmarks.ours import steady_seconds

# An operator is of the first kind that has a part of its name. A compiled block's products and
# attention are operators of their own; what is left of it is fused pointwise work and norms. On a
# GPU fused kernels have names, so that a compiled loss is known; on a CPU it is pointwise work.
KINDS = (
    ("gradient norm", ("vector_norm", "foreach_norm")),
    ("cross entropy", ("log_softmax", "nll_loss", "cross_entropy", "softmax_online")),
    ("pointwise and norms", ("compiledfxgraph", "triton", "fused_")),
    ("attention", ("attention",)),
    ("matrix products", ("mm", "linear")),
    ("pointwise and norms", ("norm", "gelu", "add", "mul", "div", "sum", "cat")),
)
OPTIMIZER_STEP = "Optimizer.step"


def kind_of(event: FunctionEvent) -> str:
    """The kind of work an operator does; whatever the optimizer calls is the optimizer's."""
    ancestor: Any = event
    while ancestor is not None:
        if OPTIMIZER_STEP in ancestor.name:
            return "optimizer"
        ancestor = ancestor.cpu_parent
    name = event.name.lower()
    for kind, parts in KINDS:
        if any(part in name for part in parts):
            return kind
    return "rest"


def seconds_by_kind(events: Iterable[FunctionEvent], on_device: bool) -> dict[str, float]:
    """Seconds of each kind: an operator's own, less those it calls, on the device that works."""
    seconds: Counter[str] = Counter()
    for event in events:
        if event.device_type == DeviceType.CPU:  # a kernel's time is with its operator already
            own_us = event.self_device_time_total if on_device else event.self_cpu_time_total
            seconds[kind_of(event)] += own_us / 1e6
    return dict(seconds)


def main(*given: str) -> None:
    """Trains as the arguments say and writes the last step's seconds by kind."""
    *arguments, result = given
    on_device = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_device
    profiler = profile(activities=activities)
    step_seconds: list[float] = []
    end_of_step = RunFolder.add_step

    def watched(folder: RunFolder, step: Step) -> None:
        end_of_step(folder, step)
        step_seconds.append(step.step_ms / 1e3)
        steps_left = folder.run.config["train"]["steps"] - len(step_seconds)
        if steps_left == 1:
            profiler.start()
        elif steps_left == 0:
            profiler.stop()

    RunFolder.add_step = watched  # type: ignore[method-assign]
    sys.argv = ["runner", *arguments, "diagnose=false"]
    runner.__main__.main()
    # The profiler makes a GPU wait between kernels, and hardly changes the kernels.
    step = steady_seconds(step_seconds[:-1]) if on_device else step_seconds[-1]
    seconds = seconds_by_kind(profiler.events(), on_device)
    # What no operator accounts for: Python, and on a GPU the time in which it had nothing to do.
    seconds["rest"] += max(0.0, step - sum(seconds.values()))
    measured = {"step_seconds": step, "seconds": seconds}
    Path(result).write_text(json.dumps(measured), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
