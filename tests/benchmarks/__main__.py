"""python -m tests.benchmarks [start] [ladder]: what the command line costs on this machine.

start    seconds to show the ladder and the configuration, median of five
ladder   seconds of the smoke scale's whole ladder, compilation included, and of doing it again

python -m tests.benchmarks performance [--quick] [--render]

Measures the machine's limits, the peers, each stage, and one step by kind of work; writes this
machine's part of docs/performance.md. Allow an hour on two cores. Each measurement is saved in
docs/performance.json at once: the same command resumes where it was interrupted, and starts this
machine's part over when the code has changed.

--quick    the same on the nano model with a few steps, in outputs/performance: does it all work?
--render   only the page, from the saved measurements

python -m tests.benchmarks gpu [--minutes 9]

On a borrowed GPU: the tests that need one, the whole ladder and the peers, the most valuable first
and each saved at once, and its part of the page. After so many minutes it ends, and the same
command goes on; without them it ends when all is measured. It needs the runner's packages, pytest,
pytest-xdist and transformers, and neither git nor a network. What is measured is in
docs/performance.json, and its runs in outputs/benchmarks: bring both home. `performance` measures
there what is left.

python -m tests.benchmarks reliability [NAME ...]

Injects every fault of tests/faults many times, tries 16,000 cases of random input, and writes
docs/reliability.md; about three hours on two cores. With names, such as disk_full or overrides,
only these, and the other lines stay as they were.

python -m tests.benchmarks memory

Traces how much GPU memory a step of each stage needs at each scale of a GPU, without a GPU, and
writes docs/memory.md; about two minutes.

python -m tests.benchmarks scaling

Checks on one, two and four processes of this machine what is predicted of the memory and traffic of
1 to 64 GPUs, and writes docs/scaling.md; about two minutes. For Linux.

python -m tests.benchmarks findings [faults] [SCALE ...]

Plants sixteen faults and trains healthy runs, to see which are named, and writes docs/findings.md;
the healthy runs of the cpu scale take an hour on two cores. With names, these are measured again.

python -m tests.benchmarks statistics

Resamples a bank of small runs, to see how often the report's rules err, and writes
docs/statistics.md; about a quarter of an hour for the bank, which is trained once.
"""

import sys
from importlib import import_module

from tests.benchmarks import command_line
from tests.benchmarks.ours import CommandFailed
from tests.benchmarks.performance import LossesDiffer

SHORT = {work.__name__: work for work in (command_line.start, command_line.ladder)}
# Those whose arguments the module reads, and those without any.
WITH_ARGUMENTS = ("performance", "gpu", "reliability", "findings")
ALONE = ("memory", "scaling", "statistics")


def main(*names: str) -> None:
    """Runs the benchmark named on the command line, or the two that need no name."""
    first, *rest = names or ("",)
    try:
        if first in WITH_ARGUMENTS or (first in ALONE and not rest):
            # Each is imported when it is needed: not every machine has the packages of all.
            module = "error_rates" if first == "statistics" else first
            import_module(f"tests.benchmarks.{module}").main(*rest)
        elif unknown := set(names) - SHORT.keys():
            sys.exit(f"{__doc__}\nNo such benchmark: {', '.join(unknown)}.")
        else:
            for name in names or SHORT:
                SHORT[name]()
    except (CommandFailed, LossesDiffer) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main(*sys.argv[1:])
