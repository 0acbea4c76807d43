"""Steps taken back from a stage and added to it, held to what Hydra composes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from conf.errors import UsageError
from conf.reading import register
from runner.identity import resolved
from stages.arithmetic import Ablation, Entry, Ladder
from stages.ladder import CONF, flatten, read_ladder


def composed(*overrides: str) -> dict[str, Any]:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        plain = resolved(compose("config", ["scale=smoke", *overrides]))
    return flatten({key: plain[key] for key in plain if key != "stage"})


@pytest.fixture(scope="module")
def ladder() -> Ladder:
    return Ladder(read_ladder(), composed())


def settings(ladder: Ladder, stage: str, **lists: Sequence[str]) -> dict[str, Any]:
    return ladder.settings(Ablation(stage, **lists))


@pytest.mark.parametrize("stage", [f"step{n:02}" for n in range(1, 11)])
def test_a_stage_is_what_hydra_composes(ladder: Ladder, stage: str) -> None:
    assert settings(ladder, stage) == composed(f"+stage={stage}")


def test_a_step_taken_back_has_the_values_from_below_it(ladder: Ladder) -> None:
    without = settings(ladder, "step09", without=["step04"])
    whole = composed("+stage=step09")
    assert {key for key in whole if whole[key] != without[key]} == {"model.norm"}
    assert without["model.norm"] == composed("+stage=step03")["model.norm"]


def test_the_last_step_taken_back_is_the_stage_below(ladder: Ladder) -> None:
    assert settings(ladder, "step09", without=["step09"]) == composed("+stage=step08")
    assert ladder.plain_stage(Ablation("step09", without=("step09",))) == "step08"
    assert ladder.plain_stage(Ablation("step09", without=("step08",))) is None


def test_steps_added_in_the_ladders_order_are_the_ladder(ladder: Ladder) -> None:
    added = Ablation("step02", plus=("step03", "step04", "step05"))
    assert ladder.settings(added) == composed("+stage=step05")
    assert ladder.plain_stage(added) == "step05"


def test_a_stage_whose_one_setting_was_typed_is_still_that_stage(ladder: Ladder) -> None:
    typed = Ladder(ladder.stages, {**ladder.base, "model.init": "gpt2"}, ["model.init"])
    assert typed.settings(Ablation("step03")) == typed.settings(Ablation("step02"))
    assert typed.plain_stage(Ablation("step03")) is None
    assert typed.same_but_for(Ablation("step03"), ["model.init"]) == "step02"


def test_an_added_step_has_its_scale(ladder: Ladder) -> None:
    total = "train.total_batch_tokens"
    assert settings(ladder, "step02", plus=["step10"])[total] == composed("+stage=step10")[total]


def test_an_entry_may_be_one_key(ladder: Ladder) -> None:
    without = settings(ladder, "step07", without=["step06:model.pad_vocab"])
    whole = composed("+stage=step07")
    assert {key for key in whole if whole[key] != without[key]} == {"model.pad_vocab"}
    added = Ablation("step05", plus=("step06:train.compile",))
    assert ladder.touched(added) == {"train.compile": True}


def test_a_key_that_a_later_step_sets_again_keeps_that_value(tmp_path: Path) -> None:
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / "own.yaml").write_text(
        "# @package _global_\ndefaults: [step08, _self_]\nstage: {name: own}\n"
        "model: {norm: layer, gain: 2.0}\n"
    )
    ladder = Ladder(read_ladder([tmp_path]), composed())
    asked = Ablation("own", without=("step03",))
    assert ladder.settings(asked)["model.gain"] == 2.0
    assert ladder.settings(asked)["model.init"] == composed()["model.init"]
    assert ladder.set_again(asked, Entry.read("step03")) == {"model.gain": "own"}
    with pytest.raises(UsageError, match=r"own sets the same keys again; name that step too"):
        settings(ladder, "own", without=["step04"])
    both = settings(ladder, "own", without=["step04", "own"])
    assert (both["model.norm"], both["model.gain"]) == ("none", 1.0)


@pytest.mark.parametrize(
    ("lists", "said"),
    [
        ({"without": ["step10"]}, "step09 does not contain step10; it contains step02, step03"),
        ({"plus": ["step04"]}, "step09 contains step04 already"),
        ({"without": ["step02"]}, "step02 does not change anything; it changes nothing."),
        ({"without": ["step4"]}, "There is no step 'step4'. Did you mean step04? There are step01"),
        ({"plus": ["step10:train.batch"]}, "step10 does not change train.batch; it changes"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    ladder: Ladder, lists: dict[str, list[str]], said: str
) -> None:
    with pytest.raises(UsageError) as refused:
        settings(ladder, "step09", **lists)
    assert said in str(refused.value)


def test_a_typed_key_is_no_stages(ladder: Ladder) -> None:
    base = composed("model.norm=rms")
    typed = Ladder(ladder.stages, base, {"model.norm"})
    assert typed.settings(Ablation("step05"))["model.norm"] == "rms"
    with pytest.raises(UsageError, match=r"decides model.norm, which was also typed"):
        typed.settings(Ablation("step05", without=("step04",)))


def test_a_step_that_chooses_a_group_is_not_added(tmp_path: Path) -> None:
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / "wide.yaml").write_text(
        "# @package _global_\ndefaults: [step05, override /model: gpt2_medium, _self_]\n"
        "stage: {name: wide}\ntrain: {fused: true}\n"
    )
    ladder = Ladder(read_ladder([tmp_path]), composed())
    with pytest.raises(UsageError, match=r"only values that its overlay sets"):
        settings(ladder, "step02", plus=["wide"])
    assert ladder.plain_stage(Ablation("wide", without=("step04",))) is None
