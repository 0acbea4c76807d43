"""Every command and file of the README and of docs/your_own_model.md, tried in an empty folder.

At the smallest scale; sweeps of many runs of the README are listed and not trained, but for the one
over the whole ladder.
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from runner.record import Status, read_runs
from tests.conftest import ROOT
from tests.environment import environment

README = (ROOT / "README.md").read_text(encoding="utf-8")
TUTORIAL = (ROOT / "docs" / "your_own_model.md").read_text(encoding="utf-8")
FILE = re.compile(r"`(my_model\.py|mine/\w+/\w+\.yaml)`.*?```\w+\n(.*?)```", re.DOTALL)
# Several machines are in tests/runner/test_torchrun.py, the hub in data/test_hub.py there.
COMMANDS = [
    line.partition(" #")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.startswith(("python -m ", "torchrun "))
    and not re.search("--nnodes|fineweb|huggingface", line)
]
# What is typed in the text between the blocks.
IN_TEXT = (
    "python -m runner --config-dir=mine",
    "python -m runner --config-dir=mine +stage=step07b",
    "python -m runner --config-dir=mine +plan=norms",
    "python -m runner +plan=inside_step09",
    "python -m runner --config-dir=mine +recipe=week",
    "python -m reports --config-dir=mine outputs/ladder",
    "python -m runner --cfg job +stage=step02 'plus=[step03]'",
)
SMALL = {"scale": "smoke", "train.steps": "2", "data": "text"}
WHOLE_LADDER = "python -m runner -m '+stage=glob(step*)'"

Tried = Callable[..., str]


@pytest.fixture
def tried(tmp_path: Path, cache_dir: Path) -> Tried:
    """What a command prints, with more words for the runner, in an empty folder."""
    variables = environment(GPT2_LADDER_CACHE=str(cache_dir), PYTHONPATH=str(ROOT))

    def run(command: str, *more: str) -> str:
        program, *words = shlex.split(command)
        words = ["-m", "torch.distributed.run", *words] if program == "torchrun" else words
        words = [sys.executable, *words, *(more if "runner" in words else ())]
        done = subprocess.run(words, cwd=tmp_path, env=variables, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stdout[-500:]}{done.stderr[-500:]}"
        return done.stdout

    return run


def write_files(folder: Path, page: str, names: list[str]) -> None:
    """The files that a page tells to write, which are my_model.py and these in mine/."""
    files = dict(FILE.findall(page))
    assert {*files} == {"my_model.py", *(f"mine/{name}.yaml" for name in names)}
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def small(command: str) -> list[str]:
    """What makes a run of the README short: settings that it does not have itself."""
    keys = {word.lstrip("+").partition("=")[0] for word in shlex.split(command)}
    if not keys & {"stage", "plan", "recipe"}:
        return []
    wanted = {**SMALL, "data.path": "book.txt"}
    return [f"{key}={value}" for key, value in wanted.items() if key not in keys]


@pytest.mark.slow
def test_every_command_of_the_readme_works(tmp_path: Path, text_file: Path, tried: Tried) -> None:
    assert len(COMMANDS) >= 18
    (tmp_path / "book.txt").write_bytes(text_file.read_bytes())
    (tmp_path / "web").mkdir()
    rows = {"text": text_file.read_text(encoding="utf-8").split("\n\n")}
    parquet.write_table(pyarrow.table(rows), tmp_path / "web" / "a.parquet")
    names = ["plan/norms", "stage/step07b", "recipe/week"]
    write_files(tmp_path, README, names)
    assert WHOLE_LADDER in COMMANDS
    tried(WHOLE_LADDER, "checkpoint=last", *small(WHOLE_LADDER))
    for copy in ("a", "b"):
        (tmp_path / "outputs" / copy).symlink_to(tmp_path / "outputs" / "ladder")
    (weights,) = tmp_path.glob("outputs/ladder/step10/*/weights.safetensors")
    for command in [*COMMANDS, *IN_TEXT]:
        many = "+plan" in command or " -m " in command.partition("-m runner")[2]
        command = command.replace("LABEL", weights.parent.name)
        listed = ["dry_run=true"] if many and "dry_run" not in command else []
        assert tried(command, *listed, *small(command)).strip(), command
    assert (tmp_path / "outputs/a-and-b/index.html").exists()
    assert (tmp_path / "gpt2-mine/config.json").exists()
    assert "RMS norm" in tried("python -m runner --config-dir=mine")


@pytest.mark.slow
def test_the_tutorial_goes_the_whole_way(tmp_path: Path, tried: Tried) -> None:
    write_files(tmp_path, TUTORIAL, ["model/recurrent", "stage/step04b", "plan/skip"])
    blocks = re.findall(r"```sh\n(.*?)```", TUTORIAL, re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    assert len(set(commands)) == 7
    printed = []
    for command in commands:
        trains = "stage" in command or "plan" in command
        printed.append(tried(command, *(["train.steps=3", "device=cpu"] if trains else [])))
    same = "step03: not applicable to this model: trains exactly as step02"
    assert any(same in text for text in printed)
    assert any("Skip connection" in text for text in printed)
    runs = read_runs(tmp_path / "outputs" / "ladder").values()
    assert all(run.status is Status.finished for run in runs)
    assert {run.stage.name for run in runs} == {"step01", "step02", "step04", "step04b"}
    skip = [run for run in runs if run.stage.name == "step04b"]
    assert sorted(run.seed for run in skip) == [1, 2, 3]
    assert skip[0].stage.changes == {"model.arguments.skip": (False, True)}
    assert "Skip connection" in (tmp_path / "outputs/ladder/report/report.md").read_text()


def test_the_files_that_the_readme_links_to_exist() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert len(links) > 8
    assert not [link for link in links if not (ROOT / link).exists()]
