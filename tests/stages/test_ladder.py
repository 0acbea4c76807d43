"""The ladder that is read from the overlays is the one Hydra composes."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from conf.reading import register
from runner.identity import resolved
from stages.ladder import CONF, flatten, read_ladder

NAMES = [f"step{n:02}" for n in range(1, 11)]


def test_the_chain_starts_at_the_baseline_and_the_flow_check_is_beside_it() -> None:
    ladder = read_ladder()
    assert [stage.name for stage in ladder] == NAMES
    assert [stage.parent for stage in ladder] == [None, None, *NAMES[1:-1]]
    assert [stage.number for stage in ladder] == list(range(1, 11))
    assert [stage.about.aim.name for stage in ladder] == [
        "flow", "baseline", "loss", "loss", "loss", "speed", "speed", "stability", "loss", "loss",
    ]  # fmt: skip


@pytest.mark.parametrize("scale", ["cpu", "cuda", "mps", "smoke"])
def test_an_overlay_holds_its_delta_and_nothing_else(scale: str) -> None:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = {None: flatten(resolved(compose("config", [f"scale={scale}"])))}
        for stage in read_ladder():
            after = compose("config", [f"scale={scale}", f"+stage={stage.name}"])
            old, new = composed[stage.parent], flatten(resolved(after))
            composed[stage.name] = new
            delta = {k for k in new if new[k] != old.get(k) and not k.startswith("stage.")}
            assert delta <= stage.changes.keys(), stage.name
            # A key may repeat the parent's value only where the scale has the same one.
            repeated = stage.changes.keys() - delta
            assert repeated <= {"train.context", "train.micro_batch_size", "model.gain"}, stage.name
            assert after.stage.name == stage.name


def test_all_ten_deltas_together_are_the_last_stage() -> None:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        last = compose("config", ["scale=cpu", "+stage=step10"])
    assert (last.train.steps, last.train.total_batch_tokens) == (50, 2048)
    assert (last.model.norm.name, last.model.residual, last.model.attention.name) == (
        "layer", True, "flash",
    )  # fmt: skip
    assert (last.train.compile, last.train.clip_grad_norm, last.train.fused) == (True, 1.0, True)


def test_a_users_stage_is_placed_after_its_parent(tmp_path: Path) -> None:
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / "step07b.yaml").write_text(
        "# @package _global_\ndefaults: [step07, _self_]\n"
        "stage: {name: step07b, title: RMS norm, aim: loss}\nmodel: {norm: rms}\n"
    )
    ladder = read_ladder([tmp_path])
    own = next(stage for stage in ladder if stage.name == "step07b")
    assert (own.number, own.parent, own.changes) == (8, "step07", {"model.norm": "rms"})
    assert [stage.name for stage in ladder if stage.number >= 8] == [
        "step07b", "step08", "step09", "step10",
    ]  # fmt: skip
