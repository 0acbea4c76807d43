"""A sweeper for comparisons of speed. Hydra finds it, because its plugins are in this package."""

from itertools import groupby

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override

# The overrides that make a round. Hydra imports this wherever the project is installed, so it
# imports nothing of the project.
ROUND = ("repeat=", "seed=")


class BalancedSweeper(BasicSweeper):  # type: ignore[misc]  # Hydra has no types
    """Hydra's basic sweeper, which runs every second round in the opposite order.

    A machine that becomes slower, or warmer, then does so for all stages alike.
    """

    @staticmethod
    def split_arguments(
        overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        """The runs in batches, as the basic sweeper splits them, in balanced order."""
        (runs,) = BasicSweeper.split_arguments(overrides, None)
        rounds = [
            list(runs_of_it)
            for _, runs_of_it in groupby(runs, lambda run: [o for o in run if o.startswith(ROUND)])
        ]
        balanced = [run for i, one in enumerate(rounds) for run in (one[::-1] if i % 2 else one)]
        return list(BasicSweeper.split_overrides_to_chunks(balanced, max_batch_size))
