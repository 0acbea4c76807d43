"""The ladder read from the overlays, and steps taken back from a stage or added to it.

All is held to what Hydra composes.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from conf.errors import UsageError
from conf.reading import register
from runner.identity import resolved
from stages.arithmetic import Ablation, Entry, Ladder
from stages.ladder import CONF, flatten, read_ladder

NAMES = [f"step{n:02}" for n in range(1, 11)]


@cache
def composed(*overrides: str, scale: str = "smoke") -> dict[str, Any]:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        plain = resolved(compose("config", [f"scale={scale}", *overrides]))
    return flatten({key: plain[key] for key in plain if key != "stage"})


@pytest.fixture(scope="module")
def ladder() -> Ladder:
    return Ladder(read_ladder(), composed())


def ladder_with(folder: Path, name: str, overlay: str) -> Ladder:
    """The ladder with a stage of one's own."""
    (folder / "stage").mkdir()
    (folder / "stage" / f"{name}.yaml").write_text(f"# @package _global_\n{overlay}")
    return Ladder(read_ladder([folder]), composed())


def settings(ladder: Ladder, stage: str, **lists: Sequence[str]) -> dict[str, Any]:
    return ladder.settings(Ablation(stage, **lists))


def differing(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    return {key for key in one if one[key] != other.get(key)}


def test_the_chain_starts_at_the_baseline_and_the_flow_check_is_beside_it() -> None:
    guide = [stage for stage in read_ladder() if not stage.beyond]
    found = [(each.name, each.parent, each.number, each.about.aim.name) for each in guide]
    aims = ["flow", "baseline", *["loss"] * 3, *["speed"] * 2, "stability", *["loss"] * 2]
    assert found == [*zip(NAMES, [None, None, *NAMES[1:-1]], range(1, 11), aims, strict=True)]


def test_what_is_beyond_the_guide_follows_its_ladder_and_together_has_all_of_it(
    ladder: Ladder,
) -> None:
    beyond = ladder.stages[len(NAMES) :]
    assert {(stage.beyond, stage.number, stage.parent) for stage in beyond} == {
        (True, 11, "step09")
    }
    assert not [stage.name for stage in beyond if stage.name.startswith("step")]
    single = [stage.name for stage in beyond if stage.name != "together"]
    assert ladder.plain_stage(Ablation("step09", plus=single)) == "together"


@pytest.mark.parametrize("scale", ["smoke", "cpu", "cuda", "mps"])
def test_an_overlay_holds_its_delta_and_nothing_else(scale: str) -> None:
    ladder = Ladder(read_ladder(), composed(scale=scale))
    found: dict[str | None, dict[str, Any]] = {None: dict(ladder.base)}
    for stage in ladder.stages:
        new = found[stage.name] = settings(ladder, stage.name)
        # What other scales change does not depend on the stage.
        if scale == "smoke" or stage.name in ("step01", "step10"):
            assert new == composed(f"+stage={stage.name}", scale=scale)
        assert stage.about.name == stage.name
        # A key may repeat the parent's value only where the scale has the same one.
        repeated = stage.changes.keys() - differing(new, found[stage.parent])
        assert repeated <= {"train.context", "train.micro_batch_size", "model.gain"}, stage.name


def test_all_ten_deltas_together_are_the_last_stage() -> None:
    wanted = {
        "train.steps": 50, "train.total_batch_tokens": 2048, "model.norm": "layer",
        "model.residual": True, "model.attention": "flash", "train.compile": True,
        "train.clip_grad_norm": 1.0, "train.fused": True,
    }  # fmt: skip
    assert wanted.items() <= composed("+stage=step10", scale="cpu").items()


def test_a_users_stage_is_placed_after_its_parent(tmp_path: Path) -> None:
    own = "stage: {name: step07b, aim: loss}\nmodel: {norm: rms}\n"
    ladder = ladder_with(tmp_path, "step07b", f"defaults: [step07, _self_]\n{own}")
    found = ladder.stages[7]
    assert (found.number, found.parent, found.changes) == (8, "step07", {"model.norm": "rms"})
    assert [stage.name for stage in ladder.stages[7:11]] == ["step07b", *NAMES[7:]]


def test_a_users_stage_on_one_beyond_the_guide_is_beyond_it_too(tmp_path: Path) -> None:
    own = "defaults: [muon, _self_]\nstage: {name: cold, aim: loss}\nmodel: {dropout: 0.2}\n"
    *before, found = ladder_with(tmp_path, "cold", own).stages
    assert (found.name, found.beyond, found.number) == ("cold", True, 12)
    assert [stage.name for stage in before if not stage.beyond] == NAMES


@pytest.mark.parametrize(
    ("stage", "lists", "same_as"),
    [
        ("step09", {"without": ("step09",)}, "step08"),
        ("step02", {"plus": ("step03", "step04", "step05")}, "step05"),
        ("step09", {"without": ("step08",)}, None),
    ],
)
def test_the_last_steps_taken_back_or_added_in_order_are_the_ladder(
    ladder: Ladder, stage: str, lists: dict[str, Any], same_as: str | None
) -> None:
    asked = Ablation(stage, **lists)
    assert ladder.plain_stage(asked) == same_as
    assert not same_as or ladder.settings(asked) == composed(f"+stage={same_as}")


def test_a_step_or_a_key_taken_back_has_the_values_from_below_it(ladder: Ladder) -> None:
    without = settings(ladder, "step09", without=["step04"])
    assert differing(composed("+stage=step09"), without) == {"model.norm"}
    assert without["model.norm"] == composed("+stage=step03")["model.norm"]
    without = settings(ladder, "step07", without=["step06:model.pad_vocab"])
    assert differing(composed("+stage=step07"), without) == {"model.pad_vocab"}


def test_an_added_step_or_key_has_its_value_and_its_scale(ladder: Ladder) -> None:
    total = "train.total_batch_tokens"
    assert settings(ladder, "step02", plus=["step10"])[total] == composed("+stage=step10")[total]
    added = Ablation("step05", plus=("step06:train.compile",))
    assert ladder.touched(added) == {"train.compile": True}


def test_a_stage_whose_one_setting_was_typed_is_still_that_stage(ladder: Ladder) -> None:
    typed = Ladder(ladder.stages, {**ladder.base, "model.init": "gpt2"}, ["model.init"])
    assert typed.settings(Ablation("step03")) == typed.settings(Ablation("step02"))
    assert typed.plain_stage(Ablation("step03")) is None
    assert typed.same_but_for(Ablation("step03"), ["model.init"]) == "step02"


def test_a_key_that_a_later_step_sets_again_keeps_that_value(tmp_path: Path) -> None:
    own = "stage: {name: own}\nmodel: {norm: layer, gain: 2.0}\n"
    ladder = ladder_with(tmp_path, "own", f"defaults: [step08, _self_]\n{own}")
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
        (
            {"without": ["step4"]},
            "There is no stage 'step4'. Did you mean step04? There are step01",
        ),
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
    typed = Ladder(ladder.stages, {**ladder.base, "model.norm": "rms"}, {"model.norm"})
    assert typed.settings(Ablation("step05"))["model.norm"] == "rms"
    with pytest.raises(UsageError, match=r"decides model.norm, which was also typed"):
        typed.settings(Ablation("step05", without=("step04",)))


def test_a_step_that_chooses_a_group_is_not_added(tmp_path: Path) -> None:
    defaults = "defaults: [step05, override /model: gpt2_medium, _self_]\n"
    own = f"{defaults}stage: {{name: wide}}\ntrain: {{fused: true}}\n"
    ladder = ladder_with(tmp_path, "wide", own)
    with pytest.raises(UsageError, match=r"only values that its overlay sets"):
        settings(ladder, "step02", plus=["wide"])
    assert ladder.plain_stage(Ablation("wide", without=("step04",))) is None
