"""What the command line costs: the wait for an answer, a step against the baseline, a ladder."""

import statistics
import tempfile
from pathlib import Path

import pandas as pd

from tests.benchmarks.ours import GIB, runner, train
from tests.benchmarks.pages import spread

ROUNDS = 3


def start() -> None:
    """How long a person waits for an answer that needs no training."""
    for arguments in ((), ("--help",), ("--cfg", "job", "+stage=step07")):
        seconds = [runner(*arguments) for _ in range(5)]
        name = " ".join(("python -m runner", *arguments))
        print(f"{name:<44} {statistics.median(seconds):6.2f} s (target: under 1)")


def pair() -> None:
    """Step 7 against the baseline, each in a process of its own, in turn."""
    rates, memory = pd.DataFrame(), pd.DataFrame()
    with tempfile.TemporaryDirectory() as folder:
        for n in range(ROUNDS):
            for stage in ("step02", "step07"):
                run = train(Path(folder) / stage, stage, "train.steps=15").record
                rates.loc[n, stage] = run.results.tokens_per_second
                memory.loc[n, stage] = run.results.peak_memory_bytes / GIB
                if n == 0:
                    print(f"{stage}: not applied: {run.not_applied or 'nothing'}")
    for stage in rates:
        print(f"{stage}: {spread(rates[stage], 0)} tokens/s, {memory[stage].median():.1f} GiB")
    print(f"step07 / baseline: {spread(rates['step07'] / rates['step02'], 2)} (target: 2.5)")


def ladder() -> None:
    """The whole ladder at the smoke scale, then the same command when all of it is finished."""
    with tempfile.TemporaryDirectory() as folder:
        sweep = ("-m", "+stage=glob(step*)", "scale=smoke", f"output_dir={folder}")
        print(f"smoke ladder: {runner(*sweep):.0f} s (target: under 90)")
        print(f"smoke ladder, already finished: {runner(*sweep):.1f} s (target: under 10)")
