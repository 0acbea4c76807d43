"""The processes that torchrun started for one run, as their environment variables say.

They share every batch. The first, of rank 0, speaks and writes.
"""

import hashlib
import os
from pathlib import Path


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


def is_first_to_say(message: str) -> bool:
    """Whether no other process on this machine has said this; called at most once for a message.

    torchrun ends the others as soon as one has failed, so no process can rely on another.
    """
    if size() == 1:
        return True
    if "TORCHELASTIC_ERROR_FILE" not in os.environ:  # torchrun did not start them
        return local_rank() == 0
    # A folder of torchrun's for this attempt, with one for each process.
    folder = Path(os.environ["TORCHELASTIC_ERROR_FILE"]).parent.parent
    try:
        (folder / f"said-{hashlib.sha256(message.encode()).hexdigest()[:16]}").touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:
        return local_rank() == 0
    return True
