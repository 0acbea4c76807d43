"""What a command asks of a run, what that is compared with, and where it is kept."""

import io
import json
import shlex
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from rich.console import Console

import runner
from conf.reading import register
from runner.command import composed, read_command
from runner.dry_run import list_runs
from runner.files import seal, unseal
from runner.folder import RunFolder
from runner.overrides import hydra_open
from runner.record import Status, UnreadableRecord, read_run
from runner.rows import Asked, read_asked
from stages.ladder import read_ladder
from tests.records import synthetic_run

SCALE = "scale=smoke"
CUSTOM = ("model=custom", "model.target=own:Net")
Ask = Callable[..., Asked]


OWN = {
    "stage/branch": "defaults: [step05, _self_]\nmodel: {norm: rms}",
    "stage/wide": "defaults: [step05, override /model: mini, _self_]\nstage: {title: Wide}",
    "stage/wider": "defaults: [wide, _self_]\ntrain: {clip_grad_norm: 1.0}",
    "plan/own": "plan: {reference: {without: [step04], train.eps: 1e-7, model: mini}}\n"
    "hydra: {mode: MULTIRUN, sweeper: {params: {+stage: step09}}}",
}


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Ask:
    """What is kept of a command with these overrides, where there are files of one's own."""
    mine = tmp_path_factory.mktemp("mine")
    for name, content in OWN.items():
        (mine / name).parent.mkdir(exist_ok=True)
        (mine / f"{name}.yaml").write_text(f"# @package _global_\n{content}\n")
    register()
    composed.cache_clear()

    @cache
    def asked(*overrides: str) -> Asked:
        words = [SCALE, *overrides]
        with hydra_open([mine]):
            return read_command(composed(*words), words, read_ladder([mine]))[1].asked

    return asked


@pytest.mark.parametrize(
    ("asked", "reference"),
    [
        (["+stage=step04"], ["+stage=step03"]),
        (["seed=2", "+stage=step10", "train.steps=20"],
         ["seed=2", "train.steps=20", "+stage=step09"]),
        (["+stage=step02", "plus=[step03]"], ["+stage=step02"]),
        (["+stage=step09", "plus=[step10]"], ["+stage=step09"]),
        (["+stage=step09", "without=[step04]"], ["+stage=step09"]),
        (["+stage=step09", "without=[step09]"], ["+stage=step09"]),
        (["+stage=step09", "without=[step06,step09:train.betas]", "plus=[step06:train.compile]"],
         ["+stage=step09", "without=[step06,step09:train.betas]"]),
        (["+stage=step09", "without=[step09]", "plus=[step09:train.fused]"],
         ["+stage=step09", "without=[step09]"]),
        (["+stage=branch"], ["+stage=step05"]),
        (["+stage=wide"], ["+stage=step05"]),
        (["+stage=wider"], ["+stage=wide"]),
        (["+stage=wider", "without=[step04]"], ["+stage=wider"]),
        (["+stage=wider", "without=[step04]", "plus=[step10]"],
         ["+stage=wider", "without=[step04]"]),
    ],
)  # fmt: skip
def test_a_run_names_what_it_is_compared_with_as_that_names_itself(
    ask: Ask, asked: list[str], reference: list[str]
) -> None:
    found = ask(*asked)
    assert shlex.split(found.reference_command) == ["python", "-m", "runner", SCALE, *reference]
    other = ask(*reference)
    assert found.reference == other.settings != found.settings
    assert found.base == other.base


def test_the_stages_of_a_recipe_are_one_ladder_on_the_baseline_too(ask: Ask) -> None:
    stages = [ask("+recipe=gpt2_124m", f"stage={name}") for name in ("step02", "step03", "step10")]
    assert len({asked.base for asked in stages}) == 1
    assert len({asked.settings for asked in stages}) == 3


@pytest.mark.parametrize("asked", ["+stage=step01", "+stage=step02", "+recipe=gpt2_124m"])
def test_flow_check_baseline_and_recipe_are_compared_with_nothing(ask: Ask, asked: str) -> None:
    found = ask(asked)
    assert (found.reference, found.reference_command) == ("", "")


def test_a_stage_is_kept_as_it_was_asked_for(ask: Ask) -> None:
    found = ask("+stage=step09", "without=[step08,step09]", "plus=[]")
    assert (found.stage, found.without, found.plus, found.plan) == (
        "step09", "step08,step09", "", "",
    )  # fmt: skip
    assert found.settings == ask("+stage=step07").settings


def test_the_control_is_compared_with_accumulation_under_the_untyped_steps(ask: Ask) -> None:
    rate = "train.learning_rate=0.001"
    plan = ("+plan=control", "seed=3", "+stage=step09", "train.steps=400", "train.warmup_steps=80")
    found = ask(*plan, rate)
    assert found.plan == "control"
    assert found.reference_command == f"python -m runner {SCALE} seed=3 {rate} +stage=step10"
    assert found.reference == ask("+stage=step10", rate).settings
    assert json.loads(found.typed) == {
        "train.learning_rate": 0.001, "train.steps": 400, "train.warmup_steps": 80,
    }  # fmt: skip


def test_a_plan_may_name_any_reference(ask: Ask) -> None:
    found = ask("+plan=own", "+stage=step09", "model=gpt2")
    expected = ("+stage=step09", "without=[step04]", "train.eps=1e-7", "model=mini")
    assert found.reference == ask(*expected).settings


def test_a_step_without_effect_on_a_custom_model_is_in_no_hash(ask: Ask) -> None:
    step02, step03, step04 = (
        ask(f"+stage={stage}", *CUSTOM, "model.knobs={norm: kind}")
        for stage in ("step02", "step03", "step04")
    )
    assert step02.settings == step03.settings == step03.reference == step04.reference
    assert step04.settings != step02.settings
    assert ask("+stage=step02", *CUSTOM, "model.gain=2") == ask("+stage=step02", *CUSTOM)


def test_equal_numbers_are_the_same_setting_and_truth_values_are_no_numbers(ask: Ask) -> None:
    def settings(given: str) -> str:
        return ask("+stage=step02", *CUSTOM, f"model.arguments={given}").settings

    assert settings("{width: 1, of: [1, {a: 2}]}") == settings("{width: 1.0, of: [1.0, {a: 2.0}]}")
    assert settings("{width: 1}") != settings("{width: true}")
    assert settings("{width: 1}") != settings("{width: 1.5}")


def test_a_typed_key_that_a_stage_changes_makes_another_ladder(ask: Ask) -> None:
    plain, default = ask("+stage=step02"), ask("+stage=step02", "model.norm=none")
    assert plain.settings == default.settings
    assert plain.base != default.base
    assert plain.base == ask("+stage=step05", "train.eps=1e-8", "device=cpu", "seed=7").base
    assert plain.base != ask("+stage=step05", "train.eps=1e-7").base


def test_typed_settings_are_those_that_decide_losses_and_no_recipes(ask: Ask) -> None:
    typed = ask("+recipe=gpt2_124m", "train={steps: 9}", "sample.tokens=3", "checkpoint=none").typed
    assert json.loads(typed) == {"train.steps": 9}


LINES = [
    Asked("step02", "", "", "{}", "", "0a", "1b", "", ""),
    Asked("step09", "step04", "a,b", '{"x": "\\n"}', "own", "2c", "1b", "0a", "run 'a \"q\"\nb'"),
    Asked("step03", "", "", '{"data.path": "ä"}', "", "3d", "1b", "0a", "run \u2028é"),
]


def test_what_was_asked_is_kept_in_order_and_read_once(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert read_asked(tmp_path) == []
    for asked in (*LINES, LINES[0]):
        folder.ask(asked)
    assert read_asked(tmp_path) == LINES
    folder.start(synthetic_run(), afresh=True)
    assert read_asked(tmp_path) == LINES


def test_a_line_cut_short_loses_itself_alone(tmp_path: Path) -> None:
    folder, file = RunFolder(tmp_path), tmp_path / "asked.csv"
    folder.ask(LINES[0])
    begun = file.stat().st_size
    folder.ask(LINES[1])
    content = file.read_bytes()
    for cut in range(begun, len(content)):
        file.write_bytes(content[:cut])
        assert read_asked(tmp_path) == LINES[:1], content[begun:cut]
        folder.ask(LINES[2])
        assert read_asked(tmp_path) == [LINES[0], LINES[2]], content[begun:cut]


def test_lines_with_other_columns_or_characters_are_left_out_or_replaced(tmp_path: Path) -> None:
    RunFolder(tmp_path).ask(LINES[0])
    file = tmp_path / "asked.csv"
    file.write_bytes(
        file.read_bytes() + b'"step03","1"\n\n' + b'"a\x1b\xff",' + b'"",' * 7 + b'""\n'
    )
    assert [asked.stage for asked in read_asked(tmp_path)] == ["step02", "a\ufffd\ufffd"]
    file.unlink()
    file.mkdir()
    assert read_asked(tmp_path) == []


def test_a_record_of_another_format_is_not_read(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.start(synthetic_run(), afresh=True)
    folder.end(Status.finished)
    content = unseal((tmp_path / "run.json").read_bytes())
    assert content["format"] == 1
    (tmp_path / "run.json").write_bytes(seal({**content, "format": 4}))
    with pytest.raises(UnreadableRecord, match="has 4 as its format, and this reads 1"):
        read_run(tmp_path)


def test_a_run_asked_for_twice_is_trained_once_and_keeps_both(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    common = [*words, "train.steps=2", "train.compile=false", "quiet=true"]
    first = runner.train("step09", *common, "without=[step09]")
    capsys.readouterr()
    again = runner.train("step08", *common)
    assert "already finished" in capsys.readouterr().out
    assert again.folder == first.folder
    kept = read_asked(first.folder)
    assert [(asked.stage, asked.without) for asked in kept] == [
        ("step09", "step09"),
        ("step08", ""),
    ]
    assert len({asked.settings for asked in kept}) == len({asked.base for asked in kept}) == 1
    assert len({asked.reference for asked in kept}) == 2

    (first.folder / "asked.csv").unlink()
    (first.folder / "asked.csv").mkdir()  # as on a disk that cannot be written
    assert runner.train("step08", *common).record.status is Status.finished
    assert "The report will not know of this request: " in capsys.readouterr().out


def test_what_trains_the_same_with_a_custom_model_is_trained_once(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.py").write_text(
        "from torch import nn\n\n\ndef Net():\n"
        "    return nn.Sequential(nn.Embedding(50257, 8), nn.Linear(8, 50257))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    common, said = [*words, *CUSTOM, "train.steps=2", "quiet=true"], io.StringIO()
    list_runs([*common, "+stage=step02,step03"], [], Console(file=said, width=200))
    assert "2 runs: 0 finished, 1 to train, 1 the same as one of these." in said.getvalue()
    first, again = (runner.train(stage, *common) for stage in ("step02", "step03"))
    assert again == first
    assert [asked.stage for asked in read_asked(first.folder)] == ["step02", "step03"]
