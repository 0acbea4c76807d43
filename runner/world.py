"""The processes that torchrun started for one run, as their environment variables say.

They share every batch. The first, of rank 0, speaks and writes.
"""

import os


def size() -> int:
    """How many processes train a run together; 1 without torchrun."""
    given = os.environ.get("WORLD_SIZE", "")
    return max(1, int(given)) if given.isdigit() else 1


def rank() -> int:
    """The number of this process among them, from 0."""
    return int(os.environ.get("RANK", "0")) if size() > 1 else 0


def local_rank() -> int:
    """The number of this process among those on this machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0")) if size() > 1 else 0


def local_size() -> int:
    """How many of them are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", size()))


def is_first() -> bool:
    """Whether this is the process that speaks and writes."""
    return rank() == 0
