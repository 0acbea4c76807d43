"""Odd but legal models, drawn as sets of traits, and what must become of each.

A model is trained, kept, read again and resumed with the numbers of a run that nobody disturbed, or
it is refused in one sentence before its first step.
"""

import contextlib
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from runner.record import Status, read_runs
from runner.signals import Interrupted
from runner.training.parallel import Parallel
from runner.training.weights import load_weights
from tests.faults.fuzz import Sandbox

TOKENS, WIDTH, LONGEST = 50257, 8, 64


class Panic(BaseException):
    """What a library in another language raises: no Exception."""


class Stateful(nn.Module):
    """A part that keeps more than parameters and buffers."""

    def __init__(self, state: Any) -> None:
        super().__init__()
        self.state = state

    def get_extra_state(self) -> Any:
        return self.state

    def set_extra_state(self, state: Any) -> None:
        assert torch.equal(state, self.state)


class Net(nn.Module):
    """A small language model with some traits."""

    def __init__(self, traits: list[str]) -> None:
        super().__init__()
        self.traits = traits
        self.embedding = nn.Embedding(TOKENS, WIDTH, sparse="sparse gradients" in traits)
        self.mix: Any = nn.Linear(WIDTH, WIDTH)
        self.head: Any = nn.Linear(WIDTH, TOKENS)
        for trait in traits:
            getattr(self, f"make_{trait.replace(' ', '_')}", lambda: None)()

    def forward(self, tokens: Tensor) -> Tensor:
        x_BTC = self.mix(self.embedding(tokens))
        for trait in self.traits:
            x_BTC = getattr(self, f"use_{trait.replace(' ', '_')}", lambda x: x)(x_BTC)
        return self.head(x_BTC)

    # Traits that train.

    def make_unused_layer(self) -> None:
        self.for_later = nn.Linear(2, 2)

    def use_layer_dropped_by_random(self, x: Tensor) -> Tensor:
        return x * (1 + random.gauss(0, 1)) if self.training and random.random() < 0.5 else x

    def use_noise_of_numpy(self, x: Tensor) -> Tensor:
        return x * float(np.random.normal()) if self.training else x

    def use_dropout(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.3, self.training)

    def make_init_by_random(self) -> None:
        self.embedding.weight.data.mul_(random.random() + np.random.rand())

    def make_lazy_head(self) -> None:
        self.head = nn.LazyLinear(TOKENS)

    def make_lazy_batch_norm(self) -> None:
        self.norm = nn.LazyBatchNorm1d(affine=False)

    def use_lazy_batch_norm(self, x: Tensor) -> Tensor:
        return self.norm(x.transpose(1, 2)).transpose(1, 2)

    def make_expanded_buffer(self) -> None:
        self.register_buffer("ones", torch.ones(1, WIDTH).expand(LONGEST, WIDTH))

    def use_expanded_buffer(self, x: Tensor) -> Tensor:
        return x * self.ones[: x.shape[1]]

    def make_expanded_parameter(self) -> None:
        self.scale = nn.Parameter(torch.ones(1, WIDTH).expand(LONGEST, WIDTH))

    def use_expanded_parameter(self, x: Tensor) -> Tensor:
        return x * self.scale[: x.shape[1]]

    def make_growing_cache(self) -> None:
        self.register_buffer("cache", torch.ones(1, WIDTH), persistent=False)

    def use_growing_cache(self, x: Tensor) -> Tensor:
        if len(self.cache) < x.shape[1]:
            self.cache = torch.ones(x.shape[1], WIDTH)
        return x * self.cache[: x.shape[1]]

    def make_counter(self) -> None:
        self.register_buffer("calls", torch.tensor(0))

    def use_counter(self, x: Tensor) -> Tensor:
        self.calls += self.training
        return x * (1 + 0.1 * self.calls)

    def make_odd_dtypes(self) -> None:
        for dtype in (torch.bool, torch.int8, torch.uint16, torch.complex64, torch.float8_e4m3fn):
            self.register_buffer(str(dtype).replace(".", "_"), torch.ones(3).to(dtype))

    def make_no_entries(self) -> None:
        self.register_buffer("nothing", torch.zeros(0, 3))

    def make_state_that_is_a_tensor(self) -> None:
        self.version = Stateful(torch.tensor([1.0, 2.0]))

    def make_tied(self) -> None:
        self.again = self.mix
        self.head = nn.Linear(WIDTH, TOKENS, bias=False)
        self.head.weight = self.embedding.weight

    def make_parametrized(self) -> None:
        self.mix = nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH))

    def make_frozen(self) -> None:
        self.embedding.weight.requires_grad_(False)

    def make_compiled_part(self) -> None:
        self.mix = torch.compile(self.mix, backend="eager")

    def make_a_part_called_module(self) -> None:
        self.mix = nn.Sequential()
        self.mix.add_module("module", nn.Linear(WIDTH, WIDTH))

    # Traits that are refused.

    def make_state_that_is_no_tensor(self) -> None:
        self.versions = Stateful({"version": 2})

    def make_sparse_buffer(self) -> None:
        self.register_buffer("eye", torch.eye(3).to_sparse())

    def use_late_buffer(self, x: Tensor) -> Tensor:
        if not hasattr(self, "late"):
            self.register_buffer("late", torch.ones(WIDTH))
        return x * self.late

    def use_late_parameter(self, x: Tensor) -> Tensor:
        if not hasattr(self, "late_weight"):
            self.late_weight = nn.Parameter(torch.ones(WIDTH))
        return x * self.late_weight

    def make_lazy_layer_that_is_unused(self) -> None:
        self.later = nn.LazyLinear(2)

    def make_few_positions(self) -> None:
        self.position = nn.Embedding(4, WIDTH)

    def use_few_positions(self, x: Tensor) -> Tensor:
        return x + self.position(torch.arange(x.shape[1]))

    def make_exit_when_built(self) -> None:
        sys.exit("no weights found")

    def use_exit_in_training(self, x: Tensor) -> Tensor:
        return sys.exit(3) if self.training else x

    def use_exit_after_the_first_step(self, x: Tensor) -> Tensor:
        self.passes = getattr(self, "passes", 0) + self.training
        if self.passes > 2:  # a look, and a step
            raise (SystemExit(0), Panic("at line 9"), StopIteration())[len(self.traits) % 3]
        return x

    def use_panic(self, x: Tensor) -> Tensor:
        raise Panic("at line 7")

    def use_no_more_items(self, x: Tensor) -> Tensor:
        return x * next(iter(()))


REFUSED = (
    "sparse gradients", "state that is no tensor", "sparse buffer", "late buffer",
    "late parameter", "lazy layer that is unused", "few positions", "exit when built",
    "exit in training", "panic", "no more items",
)  # fmt: skip
EXIT = "exit after the first step"
MADE = (name.partition("_") for name in vars(Net) if name.startswith(("make_", "use_")))
NAMES = dict.fromkeys(name.replace("_", " ") for _, _, name in MADE)
TRAINED = tuple(name for name in NAMES if name not in (*REFUSED, EXIT))


def build(traits: list[str], compiled: bool = False) -> nn.Module:
    """The model of `model.target`, which its user may have compiled."""
    net = Net(traits)
    return torch.compile(net, backend="eager") if compiled else net  # type: ignore[return-value]


# Sets of traits, those that are refused apart, whether the user has compiled the model, and the
# steps before an interruption.
MODELS = st.tuples(
    st.lists(st.sampled_from(TRAINED), unique=True, max_size=4),
    st.lists(st.sampled_from(REFUSED), unique=True, max_size=2).map(lambda drawn: drawn[1:]),
    st.booleans(),
    st.integers(1, 2),
).filter(lambda case: not ("lazy" in str(case[0]) and "late" in str(case[1])))  # then it exists


def hold(box: Sandbox, case: tuple[list[str], list[str], bool, int]) -> None:
    """Assert that a drawn model is refused, or trained to the same numbers in three ways."""
    trained, refused, compiled, stop = case
    if refused:
        assert _run(box, "refused", [*trained, *refused], compiled) == 2, box.last
        said = [line for line in box.last.splitlines() if "model.target=tests.faults" in line]
        assert len(said) == 1, box.last
        assert said[0].endswith("."), said
        assert not read_runs(box.folder / "outputs" / "refused")
        return
    # Looks and evaluations change nothing, nor does an interruption.
    assert _run(box, "looked-into", trained, compiled, "evaluation.every=1") == 0, box.last
    assert _run(box, "plain", trained, compiled, "diagnose=false") == 0, box.last
    with _interrupted_after(stop), contextlib.suppress(AssertionError):
        _run(box, "interrupted", trained, compiled)
    assert f"stopped at step {stop} of 3; the same command goes on" in box.last, box.last
    assert _run(box, "interrupted", trained, compiled, "force=false") == 0, box.last
    assert f"Resuming from step {stop}." in box.last
    found = [_losses(box.folder / "outputs" / e) for e in ("looked-into", "plain", "interrupted")]
    assert found[0] == found[1] == found[2]


def hold_record(box: Sandbox, case: tuple[list[str], list[str], bool, int]) -> None:
    """Assert that a drawn model which exits while it is trained leaves a closed record."""
    trained, _, compiled, _ = case
    assert _run(box, "exits", [*trained, EXIT], compiled) == 1, box.last
    runs = read_runs(box.folder / "outputs" / "exits").values()
    run = max(runs, key=lambda run: run.started)
    assert (run.status, run.ended is None) == (Status.failed, False)
    assert run.message in box.last


def _run(box: Sandbox, experiment: str, traits: list[str], compiled: bool, *more: str) -> int:
    """Train a drawn model; returns the exit status."""
    return box.runner(
        "model=custom", "model.target=tests.faults.odd_models:build", "train.compile=false",
        f"model.arguments={{traits: [{', '.join(traits)}], compiled: {str(compiled).lower()}}}",
        f"model.context_length={LONGEST}", "train.steps=3", "train.context=4", "checkpoint=last",
        "sample.tokens=8", f"experiment={experiment}", "force=true", *more,
    )  # fmt: skip


def _losses(experiment: Path) -> list[str]:
    """Loss and norm of each step of the newest run, whose kept weights must be readable."""
    records = read_runs(experiment)
    file, run = max(records.items(), key=lambda found: found[1].started)
    assert run.status is Status.finished, run.message
    load_weights(file.parent / "weights.safetensors")
    lines = (file.parent / "steps.csv").read_text().splitlines()
    return [",".join(line.split(",")[:3]) for line in lines]


@contextlib.contextmanager
def _interrupted_after(steps: int) -> Iterator[None]:
    """SIGTERM, as the loop notices it after so many steps."""
    left = steps

    def agree(self: Parallel, interruption: object, due: bool) -> tuple[Interrupted | None, bool]:
        nonlocal left
        left -= 1
        return (None if left else Interrupted(15)), due

    with patch.object(Parallel, "agree", agree):
        yield
