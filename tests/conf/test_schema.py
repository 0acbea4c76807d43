"""Every bound in the types of the configuration, one step outside it."""

import dataclasses
import math
import typing
from collections.abc import Iterator
from typing import Any

import pytest
from annotated_types import Ge, Gt, Le, Lt, MinLen

from conf.errors import UsageError
from conf.schema import Config
from gpt2.config import GPTConfig
from tests.conftest import Settings

OUTSIDE = {
    Gt: lambda bound: bound.gt,
    Ge: lambda bound: bound.ge - 1,
    Lt: lambda bound: bound.lt,
    Le: lambda bound: bound.le + 1,
    MinLen: lambda bound: "",
}


def cases(kind: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key that has bounds, each with a value outside of one of them."""
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        key = f"{prefix}{name}"
        for part in (GPTConfig,) if name == "model" else (hint, *typing.get_args(hint)):
            if isinstance(part, type) and dataclasses.is_dataclass(part):
                yield from cases(part, f"{key}.")
            for bound in getattr(part, "__metadata__", ()):
                value = OUTSIDE[type(bound)](bound)
                yield key, [value, value] if typing.get_origin(hint) is tuple else value


CASES = dict.fromkeys(
    (key, str(value).replace(" ", "")) for key, value in cases(Config) if value != math.inf
)


@pytest.mark.parametrize(("key", "value"), list(CASES), ids=str)
def test_a_value_outside_a_bound_is_refused_with_its_key(
    settings: Settings, key: str, value: str
) -> None:
    with pytest.raises(UsageError) as refused:
        settings("+stage=step02", f"{key}={value or repr('')}")
    assert str(refused.value).startswith(key)


def test_every_kind_of_size_has_a_bound() -> None:
    assert {
        "seed", "model.n_layer", "model.vocab_size", "model.loss_chunk_tokens",
        "data.held_out_fraction", "scale.accumulate_to_tokens", "scale.flow_context", "train.steps",
        "train.betas", "train.clip_grad_norm", "train.checkpoint_every.minutes",
        "evaluation.tokens", "sample.prompt",
    } <= {key for key, _ in CASES}  # fmt: skip
