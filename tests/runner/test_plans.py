"""Plans, `without`, `plus` and `dry_run` on the real command line."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from runner.dry_run import Pace
from tests.conftest import CommandLine

SHORT = "train.steps=4"


def write_plan(folder: Path, **params: str) -> str:
    (folder / "plan").mkdir(exist_ok=True)
    plan = {
        "plan": {"title": "Own", "question": "What does it do?"},
        "hydra": {"mode": "MULTIRUN", "sweeper": {"params": params}},
    }
    text = "# @package _global_\n" + yaml.safe_dump(plan, sort_keys=False)
    (folder / "plan" / "own.yaml").write_text(text)
    return f"--config-dir={folder}"


def trained(tmp_path: Path) -> dict[str, dict]:  # type: ignore[type-arg]
    files = (tmp_path / "outputs").glob("*/*/*/run.json")
    return {"/".join(file.parts[-3:-1]): json.loads(file.read_text()) for file in files}


@pytest.mark.slow
def test_the_configuration_that_is_shown_is_the_one_that_trains(
    command_line: CommandLine, tmp_path: Path
) -> None:
    asked = ("+stage=step09", "without=[step04,step09:train.betas]", "plus=[step10]", SHORT)
    shown = yaml.safe_load(command_line("--cfg=job", *asked).stdout)
    done = command_line(*asked, "train.compile=false")
    assert done.returncode == 0, done.stderr
    (record,) = trained(tmp_path).values()
    for config in (shown, record["config"]):
        assert config["model"]["norm"] == "none"
        assert config["train"]["betas"] == [0.9, 0.999]
        assert config["train"]["total_batch_tokens"] == 128
    assert record["conditions"]["train.total_batch_tokens"] is None
    assert record["stage"]["name"] == "step09"
    assert record["stage"]["changes"]["model.norm"] == ["layer", "none"]
    again = command_line(*shlex.split(record["command"])[3:], smoke=False)
    assert "step09: already finished" in again.stdout, again.stderr


@pytest.mark.slow
def test_a_plan_trains_once_what_was_asked_for_in_other_words(
    command_line: CommandLine, tmp_path: Path
) -> None:
    folder = write_plan(tmp_path, **{"+stage": "step02", "plus": "[],[step03],[step03,step05]"})
    done = command_line(folder, "+plan=own", SHORT, report=True)
    assert done.returncode == 0, done.stderr
    records = trained(tmp_path)
    assert sorted(name.split("/")[0] for name in records) == ["step02", "step02", "step03"]
    assert all("plan" not in record["config"] for record in records.values())
    assert "Own" in (tmp_path / "outputs/ladder/report/report.md").read_text()
    # the same two trainings, as steps left out of step05 instead of added to step02
    write_plan(tmp_path, **{"+stage": "step05", "without": "[step04],[step04,step05]"})
    again = command_line(folder, "+plan=own", SHORT)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("already finished") == 2
    assert trained(tmp_path).keys() == records.keys()


@pytest.mark.slow
def test_a_dry_run_counts_what_is_finished_and_trains_nothing(
    command_line: CommandLine, tmp_path: Path
) -> None:
    folder = write_plan(tmp_path, **{"seed": "1,2", "+stage": "step02", "plus": "[],[step03]"})
    asked = (folder, "+plan=own", SHORT)
    before = command_line(*asked, "dry_run=true")
    assert before.returncode == 0, before.stderr
    assert "4 runs: 0 finished, 4 to train." in before.stdout
    assert "How long they take is not known" in before.stdout
    assert not trained(tmp_path)
    assert command_line("+stage=step03", "seed=2", SHORT).returncode == 0
    after = command_line(*asked, "dry_run=true")
    assert "4 runs: 1 finished, 3 to train." in after.stdout
    assert re.search(r"they will take about \d+ (s|min)", after.stdout)
    assert re.search(r"plus=\[step03\]  \(is step03\) +1 of 2", after.stdout)
    assert len(trained(tmp_path)) == 1


def test_a_dry_run_counts_evaluations_apart_from_steps() -> None:
    pace = Pace({}, fixed=100, token=0.5 / 64, evaluation=20)

    def seconds(steps: int, every: int | None, total: int | None = None) -> float:
        size = {"train.micro_batch_size": 2, "train.context": 32, "train.total_batch_tokens": total}
        return pace.seconds({**size, "train.steps": steps, "evaluation.every": every})

    assert seconds(50, None) == 100 + 25 + 20
    assert seconds(50, None, total=128) == 100 + 50 + 20, "for each token"
    assert seconds(50, 25) == 100 + 25 + 2 * 20, "after step 25, and at the end"
    assert seconds(19073, 250) == 100 + 0.5 * 19073 + 77 * 20


@pytest.mark.slow
def test_every_second_round_of_the_speed_plan_runs_backwards(
    command_line: CommandLine, tmp_path: Path
) -> None:
    done = command_line("+plan=speed", "+stage=step05,step07", "repeat=1,2", SHORT, report=True)
    assert done.returncode == 0, done.stderr
    began = sorted(trained(tmp_path).items(), key=lambda item: item[1]["started"])
    order = [name.split("-")[0].split("/")[0] for name, _ in began]
    assert order == ["step05", "step07", "step07", "step05"]
    report = (tmp_path / "outputs/ladder/report/report.md").read_text()
    assert "## Steps for speed" in report
