"""Every error in a configuration is one sentence that names the key."""

import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
from annotated_types import Ge, Gt, Le, Lt, MinLen, Predicate
from omegaconf.errors import OmegaConfBaseException

from conf.errors import UsageError
from conf.schema import Config, Role
from gpt2.config import GPTConfig, ModelConfig
from runner.settings import remarks
from tests.conftest import Settings


def value_outside(bound: Any) -> Any:
    """A value that breaks a bound; a kind of bound that is not known here fails."""
    match bound:
        case Gt(limit) | Lt(limit):
            return limit
        case Ge(limit):
            return limit - 1
        case Le(limit):
            return limit + 1
        case MinLen(1):
            return "''"
        case Predicate():  # the name of a folder
            return ".."
    raise NotImplementedError(f"add a value that breaks {bound}")


def broken_bounds(kind: Any, key: str) -> Iterator[tuple[str, Any]]:
    """For every bound in a type of the configuration, its key and a value outside it."""
    if kind is ModelConfig:
        kind = GPTConfig
    if is_dataclass(kind):
        for name, inner in get_type_hints(kind, include_extras=True).items():
            yield from broken_bounds(inner, f"{key}.{name}".lstrip("."))
    elif get_origin(kind) is Annotated:
        for bound in kind.__metadata__:
            if not isinstance(bound, Role):
                yield key, value_outside(bound)
        yield from broken_bounds(kind.__origin__, key)
    elif get_origin(kind) in (tuple, list):
        for i, inner in enumerate(get_args(kind)):
            yield from broken_bounds(inner, f"{key}[{i}]")
    else:  # an optional value's type is one of a union's
        for inner in get_args(kind):
            yield from broken_bounds(inner, key)


BROKEN = list(broken_bounds(Config, ""))


def test_the_bounds_are_found_in_nested_optional_and_tuple_types() -> None:
    keys = {key for key, _ in BROKEN}
    assert {"seed", "model.n_layer", "train.checkpoint_every.minutes", "train.betas[1]"} <= keys
    assert len(BROKEN) >= 40


@pytest.mark.parametrize(("key", "value"), BROKEN, ids=lambda part: str(part))
def test_every_bound_is_checked_and_its_key_is_named(
    settings: Settings, key: str, value: Any
) -> None:
    name, _, index = key.rstrip("]").partition("[")
    given: Any = value
    if index:  # one entry of a pair, beside a valid one
        pair = [0.5, 0.5]
        pair[int(index)] = value
        given = str(pair).replace(" ", "")
    with pytest.raises(UsageError, match=f"^{re.escape(key)}=.*: .+\\.$"):
        settings(f"{name}={given}")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.steps=0", "train.steps=0"),
        ("train.micro_batch_size=-1", "train.micro_batch_size=-1"),
        ("train.context=0", "train.context=0"),
        ("train.context=65", "model.context_length=64"),
        ("train.learning_rate=-0.1", "train.learning_rate=-0.1"),
        ("train.learning_rate=nan", "train.learning_rate=nan"),
        ("train.clip_grad_norm=inf", "train.clip_grad_norm=inf"),
        ("train.betas=[0.9,1.0]", r"train.betas\[1\]=1.0"),
        ("data.held_out_fraction=1.0", "data.held_out_fraction=1.0"),
        ("model.n_head=3", "model.n_embd=64 cannot be split among model.n_head=3"),
        ("model.vocab_size=100", "model.vocab_size=100"),
        ("seed=-1", "seed=-1"),
        ("sample.prompt=''", "sample.prompt"),
        ("train.total_batch_tokens=100", "the nearest that are: 64 and 128"),
        ("train.total_batch_tokens=10", "the nearest that are: 64"),
    ],
)
def test_a_value_out_of_range_is_named(settings: Settings, override: str, expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        settings("+stage=step02", override)


@pytest.mark.parametrize(
    "override",
    ["train.steps=many", "model.norm=group", "train.compile=perhaps", "model.n_layer=2.5"],
)
def test_a_wrong_type_is_refused_with_its_key(settings: Settings, override: str) -> None:
    with pytest.raises(Exception, match=override.split("=")[1]) as refused:
        settings("+stage=step02", override)
    assert isinstance(refused.value.__cause__, OmegaConfBaseException)


def test_what_has_no_effect_in_evaluations_is_said(settings: Settings) -> None:
    silent = settings("+stage=step02", "evaluation.samples=true", "evaluation.hellaswag=file")
    assert remarks(silent) == []
    odd = ("evaluation.every=null", "evaluation.samples=true", "evaluation.hellaswag_items=5")
    assert remarks(settings("+stage=step02", *odd)) == [
        "evaluation.samples has no effect: evaluation.every is null.",
        "evaluation.hellaswag_items has no effect without evaluation.hellaswag=FILE.",
    ]


def test_cuda_graphs_are_refused_where_gradients_are_accumulated(settings: Settings) -> None:
    graphs = "train.compile_mode=reduce_overhead"
    assert settings("+stage=step09", graphs).train.compile_mode.name == "reduce_overhead"
    with pytest.raises(UsageError, match="give default or max_autotune"):
        settings("+stage=step10", graphs)
    settings("+stage=step10", graphs, "train.compile=false")


def test_a_batch_is_divided_among_processes_or_refused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    # Both at the smoke scale: 4 sequences in micro batches of 2, and one micro batch of 2.
    assert settings("+stage=step10").train.share(2) == (2, 1)
    assert settings("+stage=step02").train.share(2) == (1, 1)
    assert settings("+stage=step10", "train.total_batch_tokens=512").train.share(2) == (2, 4)
    with pytest.raises(UsageError, match=r"3 sequences, .* cannot be divided among 2 processes"):
        settings("+stage=step02", "train.micro_batch_size=3")
    assert settings("+stage=step10", "train.total_batch_tokens=192").train.share(2) == (1, 3)
    with pytest.raises(UsageError, match="train on one process, or take another norm"):
        settings("+stage=step05", "model.norm=batch")


def test_step_10_sums_micro_batches_up_to_the_scales_batch(settings: Settings) -> None:
    assert settings("+stage=step09").train.grad_accum_steps == 1
    assert settings("+stage=step10").train.grad_accum_steps == 2
    assert settings("+stage=step10", "train.micro_batch_size=1").train.grad_accum_steps == 4
