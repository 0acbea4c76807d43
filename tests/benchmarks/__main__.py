"""python -m tests.benchmarks [start] [pair] [ladder]: what the command line costs on this machine.

start    seconds to show the ladder and the configuration, median of five
pair     tokens/s and memory of step07 against the baseline on GPT-2 124M, interleaved A B A B
ladder   seconds of the smoke scale's whole ladder, compilation included, and of doing it again
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
ROUNDS = 3


def runner(*arguments: str) -> float:
    """Runs the command line and returns the seconds it took. Raises CalledProcessError."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "runner", *arguments]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - started


def start(folder: Path) -> None:
    """How long a person waits for an answer that needs no training."""
    for arguments in ((), ("--help",), ("--cfg", "job", "+stage=step07")):
        seconds = [runner(*arguments) for _ in range(5)]
        name = " ".join(("python -m runner", *arguments))
        print(f"{name:<44} {statistics.median(seconds):6.2f} s (target: under 1)")


def pair(folder: Path) -> None:
    """Step 7 against the baseline, each in a process of its own, in turn."""
    results: dict[str, list[dict[str, Any]]] = {"step02": [], "step07": []}
    for _ in range(ROUNDS):
        for stage, measured in results.items():
            runner(f"+stage={stage}", "train.steps=15", "force=true", f"output_dir={folder}")
            (record,) = folder.glob(f"ladder/{stage}/*/run.json")
            measured.append(json.loads(record.read_text(encoding="utf-8")))
    speeds: dict[str, list[float]] = {}
    for stage, records in results.items():
        rates = [r["results"]["tokens_per_second"] for r in records]
        memory = statistics.median(r["results"]["peak_memory_bytes"] for r in records) / 2**30
        missing = records[0]["not_applied"] or "nothing"
        spread = f"[{min(rates):,.0f}, {max(rates):,.0f}]"
        print(f"{stage}: {statistics.median(rates):,.0f} tokens/s {spread}, {memory:.1f} GiB")
        print(f"        not applied: {missing}")
        speeds[stage] = rates
    ratios = [b / a for a, b in zip(speeds["step02"], speeds["step07"], strict=True)]
    print(f"step07 / baseline: {statistics.median(ratios):.2f} "
          f"[{min(ratios):.2f}, {max(ratios):.2f}] (target: 2.5)")  # fmt: skip


def ladder(folder: Path) -> None:
    """The whole ladder at the smoke scale, then the same command when all of it is finished."""
    sweep = ("-m", "+stage=glob(step*)", "scale=smoke", f"output_dir={folder}", "experiment=smoke")
    print(f"smoke ladder: {runner(*sweep):.0f} s (target: under 90)")
    print(f"smoke ladder, already finished: {runner(*sweep):.1f} s (target: under 10)")


BENCHMARKS = {"start": start, "pair": pair, "ladder": ladder}


def main() -> None:
    """Runs the benchmarks named on the command line, or all of them."""
    names = sys.argv[1:] or list(BENCHMARKS)
    if unknown := set(names) - BENCHMARKS.keys():
        sys.exit(f"No such benchmark: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}.")
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            BENCHMARKS[name](Path(folder))


if __name__ == "__main__":
    main()
