"""What a forward pass may change, and what is put back afterwards."""

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from runner.training.state import same_buffers, seed_everything

DRAWS: list[Callable[[], Any]] = [
    random.random,
    lambda: random.gauss(0, 1),  # which keeps every second number for later
    lambda: random.sample(range(99), 3),
    np.random.rand,
    np.random.standard_normal,
    lambda: np.random.permutation(5).tolist(),
    lambda: torch.rand(1).item(),
    lambda: torch.randperm(5).tolist(),
]
SOME = st.lists(st.sampled_from(DRAWS), max_size=6)
QUICK = settings(deadline=None, derandomize=True, max_examples=60)


@QUICK
@given(seed=st.integers(0, 2**64 - 1), before=SOME, then=SOME)
def test_draws_depend_on_the_seed_alone(seed: int, before: list[Any], then: list[Any]) -> None:
    found = []
    for earlier in (before, [], then):
        for draw in earlier:
            draw()
        seed_everything(seed)
        found.append([draw() for draw in then])
    assert found[0] == found[1] == found[2]
    others = [draw() for draw in DRAWS]
    seed_everything(seed ^ 1)
    assert [draw() for draw in DRAWS] != others


BUFFERS: dict[str, Callable[[], Tensor | None]] = {
    "dense": lambda: torch.arange(6.0).view(2, 3),
    "expanded": lambda: torch.arange(3.0).expand(2, 3),
    "transposed": lambda: torch.arange(6.0).view(3, 2).t(),
    "scalar": lambda: torch.tensor(4),
    "bools": lambda: torch.ones(3, dtype=torch.bool),
    "empty": lambda: torch.zeros(0, 3),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "none": lambda: None,
}
CHANGES: dict[str, Callable[[nn.Module, str], object]] = {
    "in place": lambda m, n: getattr(m, n).zero_(),
    "replaced": lambda m, n: setattr(m, n, torch.zeros(7)),
    "taken away": lambda m, n: setattr(m, n, None),
    "not at all": lambda m, n: None,
}


@QUICK
@given(
    kinds=st.lists(st.sampled_from(sorted(BUFFERS)), unique=True),
    persistent=st.booleans(),
    change=st.sampled_from(sorted(CHANGES)),
    fails=st.booleans(),
)
def test_a_block_leaves_buffers_as_they_were(
    kinds: list[str], persistent: bool, change: str, fails: bool
) -> None:
    model = nn.Sequential(nn.Module(), nn.Module())
    for kind in kinds:
        buffer = BUFFERS[kind]()
        for part in model:  # both have the same one, under two names
            part.register_buffer(kind, buffer, persistent=persistent)
            part.register_buffer(f"{kind} again", buffer, persistent=persistent)
    all_of_them = partial(model.named_buffers, remove_duplicate=False)
    before = {name: (buffer, buffer.to_dense().clone()) for name, buffer in all_of_them()}
    names = list(model.state_dict())
    try:
        with same_buffers(model):
            for kind in set(kinds) - {"none"}:
                part = model[0]
                assert torch.equal(getattr(part, kind).to_dense(), before[f"0.{kind}"][1])
                CHANGES[change](part, kind)
            model[1].register_buffer("late", torch.ones(1))
            if fails:
                raise RuntimeError
    except RuntimeError:
        assert fails
    after = dict(all_of_them())
    assert after.pop("1.late") is not None
    assert after.keys() == before.keys()
    for name, (buffer, content) in before.items():
        assert after[name] is buffer
        assert torch.equal(buffer.to_dense(), content)
    assert [name for name in model.state_dict() if name != "1.late"] == names
