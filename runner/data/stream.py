"""Micro batches of tokens for training, and windows of held-out text."""

import functools
import hashlib
import json
import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from conf.errors import UsageError
from runner.data.corpus import Tokens


class TokenStream:
    """The micro batches of a run, each given by its index alone.

    The text is cut into windows of `context` tokens; every epoch uses all of them once, in an
    order that depends on the seed and the epoch. So runs of one seed see the same tokens in the
    same order with any batch size, and a run can resume at any step. Several processes take turns,
    so that together they see what one would.
    """

    def __init__(
        self,
        tokens: Tokens,
        micro_batch_size: int,
        context: int,
        seed: int,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self.tokens = tokens
        self.micro_batch_size = micro_batch_size
        self.context = context
        self.seed = seed
        self.rank = rank
        self.processes = processes
        self.windows = (len(tokens) - 1) // context
        needed = micro_batch_size * context + 1
        if len(tokens) < needed:
            raise UsageError(
                f"The text is too short: its training part has {len(tokens):,} tokens, but a micro "
                f"batch of {micro_batch_size} x {context} needs {needed:,}; "
                "give more text, or lower train.micro_batch_size or train.context."
            )

    def micro_batch(self, index: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of this process's index-th micro batch.

        int64, (micro_batch_size, context).
        """
        first = (index * self.processes + self.rank) * self.micro_batch_size
        places = [divmod(first + i, self.windows) for i in range(self.micro_batch_size)]
        starts = [int(self._order(epoch)[window]) * self.context for epoch, window in places]
        return _windows(self.tokens, starts, self.context)

    @functools.lru_cache(maxsize=2)  # noqa: B019 - the cache is freed with the run's only stream
    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        return np.random.default_rng([self.seed, epoch]).permutation(self.windows)


class HeldOut:
    """Windows of `context` tokens, evenly spread over the held-out text, about `wanted` tokens.

    They depend on nothing else, so that every stage and every seed is judged on the same windows.
    `own` are those that this one of several processes evaluates, equally many in each: where their
    number cannot be divided, the first ones are evaluated twice.
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
            yield _windows(self.tokens, self.own[i : i + size], self.context)

    @property
    def sha256(self) -> str:
        """One hash of where the windows are and of how long they are."""
        return hashlib.sha256(json.dumps([self.context, self.starts]).encode()).hexdigest()


def _windows(tokens: Tokens, starts: list[int], context: int) -> tuple[Tensor, Tensor]:
    rows = np.stack([tokens[s : s + context + 1] for s in starts]).astype(np.int64)
    batch = torch.from_numpy(rows)
    return batch[:, :-1].contiguous(), batch[:, 1:].contiguous()
