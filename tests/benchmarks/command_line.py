"""What the command line costs: the wait for an answer, a step against the baseline, a ladder."""

import statistics
import tempfile
from pathlib import Path

from tests.benchmarks.ours import GIB, Run, runner, train

ROUNDS = 3


def start() -> None:
    """How long a person waits for an answer that needs no training."""
    for arguments in ((), ("--help",), ("--cfg", "job", "+stage=step07")):
        seconds = [runner(*arguments) for _ in range(5)]
        name = " ".join(("python -m runner", *arguments))
        print(f"{name:<44} {statistics.median(seconds):6.2f} s (target: under 1)")


def pair() -> None:
    """Step 7 against the baseline, each in a process of its own, in turn."""
    results: dict[str, list[Run]] = {"step02": [], "step07": []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(ROUNDS):
            for stage, runs in results.items():
                runs.append(train(Path(folder) / stage, stage, "train.steps=15"))
    for stage, runs in results.items():
        rates = [run.tokens_per_second for run in runs]
        memory = statistics.median(run.peak_memory_bytes for run in runs) / GIB
        spread = f"[{min(rates):,.0f}, {max(rates):,.0f}]"
        print(f"{stage}: {statistics.median(rates):,.0f} tokens/s {spread}, {memory:.1f} GiB")
        print(f"        not applied: {runs[0].not_applied or 'nothing'}")
    pairs = zip(results["step02"], results["step07"], strict=True)
    ratios = [b.tokens_per_second / a.tokens_per_second for a, b in pairs]
    print(f"step07 / baseline: {statistics.median(ratios):.2f} "
          f"[{min(ratios):.2f}, {max(ratios):.2f}] (target: 2.5)")  # fmt: skip


def ladder() -> None:
    """The whole ladder at the smoke scale, then the same command when all of it is finished."""
    with tempfile.TemporaryDirectory() as folder:
        sweep = ("-m", "+stage=glob(step*)", "scale=smoke", f"output_dir={folder}")
        print(f"smoke ladder: {runner(*sweep):.0f} s (target: under 90)")
        print(f"smoke ladder, already finished: {runner(*sweep):.1f} s (target: under 10)")
