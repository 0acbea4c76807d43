"""One run on several processes that torchrun started: each trains on its share of every batch.

The model is replicated (DistributedDataParallel) or sharded (FSDP2), and gradients are averaged
over the processes. With one process nothing here has an effect.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from conf.errors import LostProcess, Reported, UsageError
from conf.schema import Sharding
from gpt2.language_model import LanguageModel
from runner import world
from runner.signals import Interrupted
from runner.training.device import prepare

T = TypeVar("T")

# The key of the store at which a process leaves the reason why it failed.
FAILURE = "failure"
# The key with which the first process says that it knows of a lost process. The others wait for it
# for so long, and then report the loss themselves.
TOLD = "told"
PATIENCE = timedelta(seconds=30)


@dataclass
class Parallel:
    """The processes of a run; this one is number `rank` of `size`.

    Every method must be called by all of them in the same order. Each raises RuntimeError if
    another process has ended or does not answer in time: see `cause`.
    """

    device: torch.device
    rank: int = 0
    size: int = 1
    timeout_minutes: float = 0.0
    store: Store | None = None

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def ask_first(self, question: Callable[[], T]) -> T:
        """The first process's answer, for all; the others do not call `question`."""
        answers: list[Any] = [question() if self.is_first else None]
        if self.size > 1:
            dist.broadcast_object_list(answers)
        return answers[0]

    def gather(self, items: Sequence[T]) -> list[T]:
        """The items of all processes, by rank."""
        if self.size == 1:
            return list(items)
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, items)
        return [item for part in parts for item in part]

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            dist.barrier()

    def mean(self, value: Tensor) -> Tensor:
        """The mean over processes of a scalar on the device."""
        if self.size > 1:
            dist.all_reduce(value)
        return value / self.size

    def agree(self, interruption: Interrupted | None, due: bool) -> tuple[Interrupted | None, bool]:
        """A signal sent to any of the processes, and whether something is due for any of them."""
        if self.size == 1:
            return interruption, due
        flags = torch.tensor([interruption.signum if interruption else 0, due], device=self.device)
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        signum, any_due = flags.tolist()
        return Interrupted(signum) if signum else None, bool(any_due)

    def spread(self, model: LanguageModel, sharding: Sharding) -> nn.Module:
        """Put the model on the device, for all processes; returns the module that is trained.

        FSDP shards it in place, a block at a time, so that no device ever holds all of it.
        """
        if self.size > 1 and sharding is Sharding.fsdp:
            mesh = init_device_mesh(self.device.type, (self.size,))
            for block in model.blocks():
                fully_shard(block, mesh=mesh)
            fully_shard(model, mesh=mesh)
            return model
        model.to(self.device)
        if self.size == 1:
            return model
        return DistributedDataParallel(model, gradient_as_bucket_view=True)

    def part(self, whole: Tensor | None, like: Tensor) -> Tensor:
        """This process's part of a tensor that the first process has; `like` gives its layout."""
        if self.size == 1:
            assert whole is not None
            return whole
        value = torch.empty(like.shape, dtype=like.dtype) if whole is None else whole
        value = value.to(self.device)
        if isinstance(like, DTensor):
            return distribute_tensor(value, like.device_mesh, like.placements)
        dist.broadcast(value, 0)
        return value

    def cause(self, error: BaseException) -> BaseException:
        """The cause of an error in this process: another process's failure, or the error itself."""
        if self.size == 1 or not _is_from_a_collective(error):
            return error
        assert self.store is not None
        with contextlib.suppress(RuntimeError):
            if self.is_first:
                self.store.set(TOLD, "")
            if self.store.check([FAILURE]):
                return LostProcess(self.store.get(FAILURE).decode())
        what = "ended, by a signal or a crash"
        if "imed out" in str(error) or "timeout" in str(error):
            within = f"within {self.timeout_minutes:g} minutes (train.timeout_minutes)"
            what = f"did not answer {within}: it hangs, or its machine cannot be reached"
        return LostProcess(
            f"A process of the {self.size} {what}. The others cannot go on without it; the "
            "same command goes on from the last checkpoint, if there is one."
        )

    def is_told(self, mistake: UsageError) -> bool:
        """Whether the first process, not this one, knows the reason of a mistake and prints it."""
        if not isinstance(mistake, LostProcess):
            return True
        assert self.store is not None
        try:
            self.store.wait([TOLD], PATIENCE)
        except RuntimeError:  # the first process is the lost one
            return False
        return True


@contextlib.contextmanager
def connected(device: torch.device, timeout_minutes: float) -> Iterator[Parallel]:
    """Connect the processes of a run. Raises UsageError if they do not find one another."""
    if world.size() == 1:
        yield Parallel(device)
        return
    timeout = timedelta(minutes=timeout_minutes)
    prepare(device)  # what is broadcast goes through the current device
    try:
        store, rank, size = next(rendezvous("env://", timeout=timeout))
        # A sweep starts a new group for every run.
        number = store.add(f"runs/{rank}", 1)
        store = PrefixStore(f"run/{number}", store)
        backend = dist.get_default_backend_for_device(device)
        dist.init_process_group(backend, None, timeout, size, rank, store)
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"The {world.size()} processes that WORLD_SIZE names could not be connected "
            f"({reason}); start them with torchrun, or unset WORLD_SIZE to train on one."
        ) from error
    parallel = Parallel(device, rank, size, timeout_minutes, store)
    try:
        yield parallel
    except Exception as error:
        if not parallel.is_first and not _is_from_a_collective(error.__cause__ or error):
            with contextlib.suppress(RuntimeError):  # the first, which keeps it, may have ended
                store.set(FAILURE, f"The process of rank {rank} failed: {error}")
        cause = parallel.cause(error)
        if not parallel.is_first and isinstance(cause, UsageError) and parallel.is_told(cause):
            cause = Reported(str(cause))
        raise cause from None
    finally:
        dist.destroy_process_group()


def synchronise_gradients(model: nn.Module, last: bool) -> None:
    """Have the next backward pass average the gradients of all processes, or only add to its own.

    They are averaged once a step, with its last micro batch.
    """
    if isinstance(model, DistributedDataParallel):
        model.require_backward_grad_sync = last
    elif isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor, in all processes; each may have only a part of it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def state_of(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """All tensors that training changes: model.NAME, and optimizer.PARAMETER.KEY."""
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    moments = {p: kept for optimizer in optimizers for p, kept in optimizer.state.items()}
    for name, p in model.named_parameters():
        state |= {f"optimizer.{name}.{key}": value for key, value in moments.get(p, {}).items()}
    return state


def load_state(
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    tensors: dict[str, Tensor],
    parallel: Parallel,
) -> None:
    """Give each process its part of the state, which only the first one has."""
    weights = {}
    for name, value in state_of(model, optimizers).items():
        part = parallel.part(tensors.get(name), value)
        if name.startswith("model."):
            weights[name.removeprefix("model.")] = part
        else:
            value.copy_(part)
    model.load_state_dict(weights)


def gathered(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The whole tensors, on the CPU, in the first process; the others get nothing."""
    complete = {}
    for name, tensor in tensors.items():
        value = whole(tensor)  # one after the other, as all may not fit the device together
        if world.is_first():
            complete[name] = value.cpu()
    return complete


def _is_from_a_collective(error: BaseException) -> bool:
    """Whether the communication between processes failed."""
    words = ("gloo", "onnection closed by peer", "NCCL", "ProcessGroup")
    is_one = isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    return is_one or isinstance(error, dist.DistError)
