"""Micro batches of tokens for training, and windows of held-out text."""

import functools
import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from conf.errors import UsageError
from conf.schema import Order
from runner.data.corpus import Tokens


@dataclass(eq=False)
class TokenStream:
    """The micro batches of a run, each given by its index alone.

    Each part of the text is cut into windows of `context` tokens, and every epoch uses all of them
    once: the parts in an order that depends on the seed and the epoch, and the windows of each part
    too; or both in the order of the text. So runs of one seed see the same tokens in the same order
    with any batch size, and a run can resume at any step. Only one part's order is in memory at
    once. Several processes take turns, so that together they see what one process would see.
    """

    parts: Sequence[Tokens]
    micro_batch_size: int
    context: int
    seed: int
    rank: int = 0
    processes: int = 1
    order: Order = Order.shuffled

    def __post_init__(self) -> None:
        self.windows = np.array([max(0, len(part) - 1) // self.context for part in self.parts])
        tokens, needed = sum(map(len, self.parts)), self.micro_batch_size * self.context + 1
        if tokens < needed or not self.windows.any():
            raise UsageError(
                f"The text is too short: its training part has {tokens:,} tokens, but a micro "
                f"batch of {self.micro_batch_size} x {self.context} needs {needed:,}; "
                "give more text, or lower train.micro_batch_size or train.context."
            )

    def micro_batch(self, index: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of this process's index-th micro batch.

        int64, (micro_batch_size, context).
        """
        first = (index * self.processes + self.rank) * self.micro_batch_size
        rows = [self._window(first + i) for i in range(self.micro_batch_size)]
        return _batch(rows)

    def _window(self, index: int) -> Tokens:
        """The index-th window of the run, and the token after it."""
        epoch, place = divmod(index, int(self.windows.sum()))
        parts = self._order(len(self.parts), epoch)
        ends = self.windows[parts].cumsum()
        turn = int(np.searchsorted(ends, place, side="right"))
        part = int(parts[turn])
        window = place - int(ends[turn] - self.windows[part])
        key = [epoch] if len(self.parts) == 1 else [epoch, part]
        start = int(self._order(int(self.windows[part]), *key)[window]) * self.context
        return self.parts[part][start : start + self.context + 1]

    @functools.lru_cache(maxsize=4)  # noqa: B019 - the cache is freed with the run's only stream
    def _order(self, count: int, *key: int) -> npt.NDArray[np.int64]:
        """The order of the parts in an epoch, or of the windows in a part of it."""
        order = np.arange(count)
        shuffled = self.order is Order.shuffled
        return np.random.default_rng([self.seed, *key]).permutation(order) if shuffled else order


class HeldOut:
    """Windows of `context` tokens, evenly spread over the held-out text, about `wanted` tokens.

    They depend on nothing else, so that every stage and every seed is judged on the same windows.
    `own` are the windows that this process evaluates, equally many in each process: if their number
    cannot be divided, the first ones are evaluated twice.
    Raises UsageError for a text shorter than one window.
    """

    def __init__(
        self, tokens: Tokens, context: int, wanted: int, rank: int = 0, processes: int = 1
    ) -> None:
        windows = (len(tokens) - 1) // context
        if windows < 1:
            raise UsageError(
                f"The text is too short: its held-out part has {len(tokens):,} tokens, but a "
                f"window needs {context + 1:,}; give more text, or raise "
                "data.held_out_fraction."
            )
        self.tokens = tokens
        self.context = context
        count = min(windows, max(1, wanted // context))
        self.starts = [int(i) * context for i in np.linspace(0, windows - 1, count).round()]
        places = range(rank, math.ceil(count / processes) * processes, processes)
        self.own = [self.starts[place % count] for place in places]

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and targets like `TokenStream.micro_batch`, in order; the last may be smaller."""
        for i in range(0, len(self.own), size):
            starts = self.own[i : i + size]
            yield _batch([self.tokens[start : start + self.context + 1] for start in starts])

    @property
    def sha256(self) -> str:
        """One hash of the places and the length of the windows."""
        return hashlib.sha256(json.dumps([self.context, self.starts]).encode()).hexdigest()


def _batch(windows: Sequence[Tokens]) -> tuple[Tensor, Tensor]:
    batch = torch.from_numpy(np.stack(windows).astype(np.int64))
    return batch[:, :-1].contiguous(), batch[:, 1:].contiguous()
