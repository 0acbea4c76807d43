"""The predicted costs are the model's own, hand-worked and traced ones, and the page is theirs."""

import json
import socket
import sys
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from conf.schema import Sharding
from gpt2.config import GPTConfig
from gpt2.model import GPT
from runner.training.parallel import Parallel
from tests.benchmarks.cost import Step
from tests.benchmarks.memory import configured, peak_bytes
from tests.benchmarks.scaling import MODELS, PAGE, SHARDINGS, page
from tests.benchmarks.watched import received_bytes

# A step of the smoke scale on four processes, in each of which it is two micro batches.
SMOKE = ("smoke", "train.total_batch_tokens=512")
BLOCK = 12 * 64 * 64 + 13 * 64
ROOT = (50304 + 64 + 2) * 64


@pytest.mark.parametrize("model", ["nano", "mini", *MODELS])
def test_parameters_and_flops_are_those_of_the_model(model: str) -> None:
    config = configured("step10", "cpu", f"model={model}")
    assert isinstance(config.model, GPTConfig)
    with patch("gpt2.model.initialise"):
        real = GPT(config.model, seed=1)
    step = Step(config)
    assert step.parameters == real.num_parameters()
    assert step.flops == real.flops_per_token(64) * 2048


@pytest.mark.parametrize(
    ("sharding", "gloo", "expected"),
    [
        (Sharding.none, False, 2 * 3 / 4 * 4 * (2 * BLOCK + ROOT)),
        (Sharding.fsdp, False, 3 / 4 * 4 * (2 * (2 * 2 * BLOCK + ROOT) + 2 * BLOCK + ROOT)),
        (Sharding.fsdp, True, 3 / 4 * 4 * (2 * (2 * 2 * BLOCK + ROOT) + 2 * (2 * BLOCK + ROOT))),
    ],
)
def test_traffic_on_four_processes_is_what_a_calculation_by_hand_gives(
    sharding: Sharding, gloo: bool, expected: float
) -> None:
    step = Step(configured("step10", *SMOKE), 4, sharding)
    assert step.micro_batches == 2
    assert step.received_bytes(gloo) == expected


def test_one_process_receives_nothing_and_shards_nothing() -> None:
    alone, sharded = (Step(configured("step10", *SMOKE), 1, each) for each in SHARDINGS.values())
    assert alone.received_bytes() == sharded.received_bytes() == 0
    assert alone.memory == sharded.memory


@pytest.mark.parametrize("compiled", ["true", "false"])
@pytest.mark.parametrize(("processes", "micro_batches"), [(1, 8), (4, 2), (8, 1)])
def test_memory_is_what_a_trace_gives(processes: int, micro_batches: int, compiled: str) -> None:
    sizes = ("model=mini", "train.context=64", "train.micro_batch_size=16")
    tokens = f"train.total_batch_tokens={8 * 1024}"
    config = configured("step10", "cuda", *sizes, tokens, f"train.compile={compiled}")
    step = Step(config, processes, Sharding.fsdp)
    assert step.micro_batches == micro_batches
    assert peak_bytes(config, processes) == pytest.approx(step.memory_bytes, rel=1e-3)


def test_the_gradients_of_ddp_stay_in_memory_between_steps() -> None:
    def stay(module: nn.Module) -> bool:
        module(torch.ones(1, 8)).sum().backward()
        storages = [StorageWeakRef(p.grad.untyped_storage()) for p in module.parameters()]
        module.zero_grad(set_to_none=True)
        return not any(storage.expired() for storage in storages)

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        replicated = Parallel(torch.device("cpu"), size=2).spread(nn.Linear(8, 8), Sharding.none)
        assert stay(replicated)
        assert not stay(nn.Linear(8, 8))
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux counts the bytes of a connection")
def test_received_bytes_are_those_of_this_process() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as one,
        server.accept()[0] as other,
    ):
        before = received_bytes()
        one.sendall(bytes(10_000))
        assert len(other.recv(10_000, socket.MSG_WAITALL)) == 10_000
        assert received_bytes() - before == 10_000


@pytest.mark.slow
def test_the_page_is_written_from_the_measurements_beside_it() -> None:
    found = json.loads(PAGE.with_suffix(".json").read_text(encoding="utf-8"))
    assert PAGE.read_text(encoding="utf-8") == (text := page(found))
    assert "does not fit" not in text, "it says that every size fits without sharding"
