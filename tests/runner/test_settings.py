"""Every mistake in a configuration is one sentence that names the key."""

import pytest
from omegaconf.errors import OmegaConfBaseException

from conf.errors import UsageError
from tests.conftest import Settings


@pytest.mark.parametrize(
    ("override", "says"),
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
def test_a_value_out_of_range_is_named(settings: Settings, override: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        settings("+stage=step02", override)


@pytest.mark.parametrize(
    "override",
    ["train.steps=many", "model.norm=group", "train.compile=perhaps", "model.n_layer=2.5"],
)
def test_a_wrong_type_is_refused_with_its_key(settings: Settings, override: str) -> None:
    with pytest.raises(Exception, match=override.split("=")[1]) as refused:
        settings("+stage=step02", override)
    assert isinstance(refused.value.__cause__, OmegaConfBaseException)


def test_several_processes_are_refused_until_they_work(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="several processes"):
        settings("+stage=step02")


def test_step_10_sums_micro_batches_up_to_the_scales_batch(settings: Settings) -> None:
    assert settings("+stage=step09").train.grad_accum_steps == 1
    assert settings("+stage=step10").train.grad_accum_steps == 2
    assert settings("+stage=step10", "train.micro_batch_size=1").train.grad_accum_steps == 4
