"""What the command line costs: the wait for an answer, and a ladder of tiny models."""

import statistics
import tempfile

from tests.benchmarks.ours import runner


def start() -> None:
    """How long a person waits for an answer that needs no training."""
    for arguments in ((), ("--help",), ("--cfg", "job", "+stage=step07")):
        seconds = [runner(*arguments) for _ in range(5)]
        name = " ".join(("python -m runner", *arguments))
        print(f"{name:<44} {statistics.median(seconds):6.2f} s (target: under 1)")


def ladder() -> None:
    """The whole ladder at the smoke scale, then the same command when all of it is finished."""
    with tempfile.TemporaryDirectory() as folder:
        sweep = ("-m", "+stage=glob(step*)", "scale=smoke", f"output_dir={folder}")
        print(f"smoke ladder: {runner(*sweep):.0f} s (target: under 90)")
        print(f"smoke ladder, already finished: {runner(*sweep):.1f} s (target: under 10)")
