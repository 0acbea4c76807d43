"""Micro batches of tokens for training, and windows of held-out text."""

import functools
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
    same order with any batch size, and a run can resume at any step.
    """

    def __init__(self, tokens: Tokens, micro_batch_size: int, context: int, seed: int) -> None:
        self.tokens = tokens
        self.micro_batch_size = micro_batch_size
        self.context = context
        self.seed = seed
        self.windows = (len(tokens) - 1) // context
        needed = micro_batch_size * context + 1
        if len(tokens) < needed:
            raise UsageError(
                f"The text is too short: its training part has {len(tokens):,} tokens, but a micro "
                f"batch of {micro_batch_size} x {context} needs {needed:,}; "
                "give more text, or lower train.micro_batch_size or train.context."
            )

    def micro_batch(self, index: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the index-th micro batch: int64, (micro_batch_size, context)."""
        first = index * self.micro_batch_size
        places = [divmod(first + i, self.windows) for i in range(self.micro_batch_size)]
        starts = [int(self._order(epoch)[window]) * self.context for epoch, window in places]
        return _windows(self.tokens, starts, self.context)

    @functools.lru_cache(maxsize=2)  # noqa: B019 - the cache is freed with the run's only stream
    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        return np.random.default_rng([self.seed, epoch]).permutation(self.windows)


def held_out_batches(
    tokens: Tokens, micro_batch_size: int, context: int, total_tokens: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Evenly spread windows of held-out text, about `total_tokens` in all, in order.

    Yields inputs and targets like `TokenStream.micro_batch`; the last batch may be smaller.
    Raises UsageError for a text shorter than one window.
    """
    windows = (len(tokens) - 1) // context
    if windows < 1:
        raise UsageError(
            f"The text is too short: its held-out part has {len(tokens):,} tokens, but a window "
            f"needs {context + 1:,}; give more text, or raise data.held_out_fraction."
        )
    wanted = min(windows, max(1, total_tokens // context))
    starts = [int(i) * context for i in np.linspace(0, windows - 1, wanted).round()]
    for i in range(0, wanted, micro_batch_size):
        yield _windows(tokens, starts[i : i + micro_batch_size], context)


def _windows(tokens: Tokens, starts: list[int], context: int) -> tuple[Tensor, Tensor]:
    rows = np.stack([tokens[s : s + context + 1] for s in starts]).astype(np.int64)
    batch = torch.from_numpy(rows)
    return batch[:, :-1].contiguous(), batch[:, 1:].contiguous()
