"""The commands of docs/your_own_model.md, run one after the other with three steps each."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from runner.record import Status, read_runs
from tests.conftest import ROOT
from tests.environment import environment

PAGE = (ROOT / "docs" / "your_own_model.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"`([\w/]+\.(?:py|yaml))`.*?```\w+\n(.*?)```", PAGE, re.DOTALL))
BLOCKS = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines()]


@pytest.mark.slow
def test_the_tutorial_goes_the_whole_way(tmp_path: Path, cache_dir: Path) -> None:
    assert {*FILES} == {
        "my_model.py",
        "mine/model/recurrent.yaml",
        "mine/stage/step04b.yaml",
        "mine/plan/skip.yaml",
    }
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    variables = environment(GPT2_LADDER_CACHE=str(cache_dir), PYTHONPATH=str(ROOT))
    printed = {}
    for command in COMMANDS:
        _, *words = shlex.split(command)
        if "runner" in words and any("stage" in word or "plan" in word for word in words):
            words += ["train.steps=3", "device=cpu"]
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=variables, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}: {done.stdout[-500:]}{done.stderr[-500:]}"
        printed[command] = done.stdout
    assert len(printed) == 7
    same = "step03: not applicable to this model: trains exactly as step02"
    assert any(same in text for text in printed.values())
    assert any("Skip connection" in text for text in printed.values())
    runs = read_runs(tmp_path / "outputs" / "ladder").values()
    assert all(run.status is Status.finished for run in runs)
    assert {run.stage.name for run in runs} == {"step01", "step02", "step04", "step04b"}
    skip = [run for run in runs if run.stage.name == "step04b"]
    assert sorted(run.seed for run in skip) == [1, 2, 3]
    assert skip[0].stage.changes == {"model.arguments.skip": (False, True)}
    assert "Skip connection" in (tmp_path / "outputs/ladder/report/report.md").read_text()
