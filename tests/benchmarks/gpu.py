"""Everything worth measuring on a borrowed GPU, the most important first."""

import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from runner.training.device import find_device
from tests.benchmarks import ours, performance
from tests.benchmarks.performance import Bench, Job


def main(*arguments: str) -> None:
    """`gpu [--minutes N]`: measures, writes the page, and exits with 1 if a measurement failed."""
    parser = ArgumentParser("python -m tests.benchmarks gpu")
    parser.add_argument("--minutes", type=float)
    minutes = parser.parse_args(arguments).minutes
    if minutes is not None and not minutes > 0:
        parser.error(f"--minutes={minutes:g} is no time; give more than 0.")
    if find_device("auto").type == "cpu":
        print("PyTorch finds no accelerator here, and gpu measures one.", file=sys.stderr)
        sys.exit(2)
    store, bench = performance.here()
    with ours.within(minutes):
        failures = performance.measure(store, partial(jobs, bench), keep_going=True)
    performance.render()
    if "tests/gpu" in store and (failed := store["tests/gpu"]["failures"]):
        failures.append(f"tests/gpu: {', '.join(failed)}")
    if failures:
        sys.exit("\n".join(("These failed:", *failures)))


def jobs(bench: Bench, own_precision: str) -> Iterator[Job]:
    """The most valuable first: the tests, the ladder, the peers and profiles, more rounds.

    `performance` adds the rest when there is time.
    """
    yield "tests/gpu", gpu_tests
    yield from bench.around(["sweep"])
    sizes = bench.plan.sizes[::-1]
    compared = [job for size in sizes for job in bench.comparison(size, own_precision)]
    yield from (job for job in compared if _round(job) == 1)
    for size in sizes:
        yield f"profile/{size.name}", partial(bench.profile, size)
    yield from sorted((job for job in compared if _round(job) > 1), key=_round)


def _round(job: Job) -> int:
    """Of a comparison, whose name is peers/SIZE/ROUND/..."""
    return int(job[0].split("/")[2])


def gpu_tests() -> dict[str, Any]:
    """What pytest -m gpu ends with. Raises CommandFailed if it runs no test."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tests.xml"
        done, seconds = ours.ended("pytest", "-m", "gpu", f"--junitxml={file}")
        if done.returncode not in (0, 1):
            raise ours.CommandFailed(f"pytest -m gpu:\n{(done.stdout + done.stderr)[-2000:]}")
        return {**outcome(file.read_text(encoding="utf-8")), "seconds": seconds}


def outcome(junit_xml: str) -> dict[str, Any]:
    """How many tests passed, failed and were skipped, and which failed."""
    cases = list(ElementTree.fromstring(junit_xml).iter("testcase"))
    failed = [
        f"{case.get('classname')}.{case.get('name')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]
    skipped = sum(case.find("skipped") is not None for case in cases)
    passed = len(cases) - len(failed) - skipped
    return {"passed": passed, "failed": len(failed), "skipped": skipped, "failures": failed}
