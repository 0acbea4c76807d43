"""Every error in a configuration is one sentence that names the key."""

import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
from annotated_types import Ge, Gt, Le, Lt, MinLen, Predicate
from omegaconf import OmegaConf

from conf.errors import UsageError
from conf.schema import Config, Role
from gpt2.config import GPTConfig, ModelConfig
from runner.settings import read_settings, remarks
from tests.conftest import Settings
from tests.runner.conftest import composed


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
    expected = {"seed", "model.vocab_size", "train.checkpoint_every.minutes", "train.betas[1]"}
    assert expected <= {key for key, _ in BROKEN}
    assert len(BROKEN) >= 40


@pytest.mark.parametrize(("key", "value"), BROKEN, ids=str)
def test_every_bound_is_checked_and_its_key_is_named(key: str, value: Any) -> None:
    cfg = composed().copy()
    OmegaConf.update(cfg, key, "" if value == "''" else value)
    with pytest.raises(UsageError, match=f"^{re.escape(key)}=.*: .+\\.$"):
        read_settings(cfg)


def test_what_has_no_effect_in_evaluations_is_said(settings: Settings) -> None:
    silent = settings("+stage=step02", "evaluation.samples=true", "evaluation.hellaswag=file")
    assert remarks(silent) == []
    odd = ("evaluation.every=null", "evaluation.samples=true", "evaluation.hellaswag_items=5")
    assert remarks(settings("+stage=step02", *odd)) == [
        "evaluation.samples has no effect: evaluation.every is null.",
        "evaluation.hellaswag_items has no effect without evaluation.hellaswag=FILE.",
    ]


def test_a_late_cooldown_and_rotary_positions_need_what_they_are_made_of(
    settings: Settings,
) -> None:
    with pytest.raises(UsageError, match=r"wsd needs .* add train.cooldown_fraction=0\.2\."):
        settings("+stage=step09", "train.schedule=wsd")
    assert remarks(settings("+stage=wsd")) == []
    assert remarks(settings("+stage=step09", "train.cooldown_fraction=0.5")) == [
        "train.cooldown_fraction=0.5 has no effect: train.schedule is cosine, and not wsd."
    ]
    late = remarks(settings("+stage=wsd", "train.warmup_steps=45"))
    assert late == ["train.warmup_steps=45 leaves 5 of the cooldown's 10 steps."]
    (flat,) = remarks(settings("+stage=step05", "train.schedule=cosine"))
    assert flat.startswith("train.schedule=cosine lowers no rate: train.min_lr_ratio is 1")
    (dead,) = remarks(settings("+stage=step04", "model.zero_init=true"))
    assert dead.startswith("model.zero_init without model.residual")
    with pytest.raises(UsageError, match=r"but a head has 3 \(.*\); make it even\."):
        settings("+stage=rotary", "model.n_embd=6")
    settings("+stage=step09", "model.n_embd=6")


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
    with pytest.raises(UsageError, match="train on one process, or use another norm"):
        settings("+stage=step05", "model.norm=batch")


def test_step_10_sums_micro_batches_up_to_the_scales_batch(settings: Settings) -> None:
    assert settings("+stage=step09").train.grad_accum_steps == 1
    assert settings("+stage=step10").train.grad_accum_steps == 2
    assert settings("+stage=step10", "train.micro_batch_size=1").train.grad_accum_steps == 4
