"""The stream of micro batches, and the held-out windows."""

import time

import numpy as np
import pytest
import torch

from conf.errors import UsageError
from conf.schema import Order
from runner.data.stream import HeldOut, TokenStream

TOKENS = np.arange(1001, dtype=np.uint16)
PARTS = [TOKENS[:401], TOKENS[400:601], TOKENS[600:605], TOKENS[600:]]


def starts(stream: TokenStream, epoch: int) -> list[int]:
    """The first token of each window of an epoch of 100, in micro batches of 4."""
    return [row[0].item() for i in range(25) for row in stream.micro_batch(25 * epoch + i)[0]]


def test_targets_are_the_inputs_shifted_by_one_token() -> None:
    idx, targets = TokenStream([TOKENS], 4, 10, seed=1).micro_batch(3)
    assert idx.shape == targets.shape == (4, 10)
    assert (targets == idx + 1).all()


def test_an_epoch_sees_every_window_once_and_the_next_in_another_order() -> None:
    stream = TokenStream([TOKENS], 4, 10, seed=1)
    epochs = [starts(stream, epoch) for epoch in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(0, 1000, 10))
    assert epochs[0] != epochs[1]


def rows(count: int, *stream: int) -> list[list[int]]:
    """The windows of so many micro batches: of a size, a context, a seed, a rank and processes."""
    made = TokenStream([TOKENS], *stream)
    return [row.tolist() for i in range(count) for row in made.micro_batch(i)[0]]


def test_another_batch_size_changes_no_token_and_no_order() -> None:
    assert rows(8, 2, 10, 3) == rows(2, 8, 10, 3)
    assert rows(1, 8, 10, 3) != rows(1, 8, 10, 4)


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_together_see_what_one_would(processes: int) -> None:
    streams = [TokenStream([TOKENS], 2, 10, 3, rank, processes) for rank in range(processes)]
    batches = [stream.micro_batch(i)[0] for i in range(8 // processes) for stream in streams]
    assert torch.cat(batches).tolist() == rows(8, 2, 10, 3)


@pytest.mark.parametrize(("processes", "each"), [(2, 3), (4, 2)])
def test_every_process_evaluates_equally_many_windows_and_all_of_them_together(
    processes: int, each: int
) -> None:
    parts = [HeldOut(TOKENS, 10, 60, rank, processes) for rank in range(processes)]
    assert [len(part.own) for part in parts] == [each] * processes
    assert {start for part in parts for start in part.own} == set(HeldOut(TOKENS, 10, 60).starts)


def test_held_out_windows_are_spread_over_the_whole_text() -> None:
    held_out = HeldOut(TOKENS, context=10, wanted=60)
    starts = [row[0].item() for idx, _ in held_out.batches(4) for row in idx]
    assert starts == held_out.starts
    assert len(set(starts)) == 6
    assert (starts[0], starts[-1]) == (0, 990)


def test_the_hash_of_held_out_windows_is_of_their_places_and_length() -> None:
    sizes = (10, 60), (10, 60), (10, 50), (20, 60), (5, 30)
    first, *others = (HeldOut(TOKENS, *size).sha256 for size in sizes)
    assert first == others[0]
    assert len(set(others)) == 4


def test_a_text_too_short_for_a_batch_or_a_held_out_window_is_refused() -> None:
    with pytest.raises(UsageError, match=r"too short.*1,001 tokens.*needs 1,601"):
        TokenStream([TOKENS], 16, 100, seed=1)
    with pytest.raises(UsageError, match="held-out part has 5 tokens"):
        HeldOut(TOKENS[:5], 10, 60)


def test_the_order_of_a_text_in_one_part_stays_what_it_was() -> None:
    stream = TokenStream([TOKENS], 4, 10, seed=7)
    for epoch in (0, 1):
        was = np.random.default_rng([7, epoch]).permutation(100) * 10
        assert starts(stream, epoch) == was.tolist()


def test_parts_are_walked_one_after_the_other_each_window_once() -> None:
    stream = TokenStream(PARTS, 4, 10, seed=1)
    epochs = [starts(stream, epoch) for epoch in range(4)]
    for seen in epochs:
        assert sorted(seen) == list(range(0, 1000, 10))
        part = np.searchsorted([400, 600], seen, side="right")
        assert np.count_nonzero(np.diff(part)) == 2
        assert seen != sorted(seen)
    assert len({tuple(seen) for seen in epochs}) == 4
    assert starts(TokenStream(PARTS, 4, 10, seed=2), 0) != epochs[0]
    assert starts(TokenStream(PARTS, 4, 10, seed=1), 3) == epochs[3]


def test_in_order_a_text_is_read_as_it_is_whatever_the_seed() -> None:
    for parts in ([TOKENS], PARTS):
        stream = TokenStream(parts, 4, 10, seed=3, order=Order.in_order)
        assert starts(stream, 0) == starts(stream, 1) == list(range(0, 1000, 10))


def test_a_step_of_ten_billion_tokens_is_found_without_walking_there() -> None:
    shard = np.lib.stride_tricks.as_strided(TOKENS, (100_000_000,), (0,))  # no memory
    begun = time.perf_counter()
    stream = TokenStream([shard] * 100, 16, 1024, seed=1)
    stream.micro_batch(500_000)
    assert time.perf_counter() - begun < 1
