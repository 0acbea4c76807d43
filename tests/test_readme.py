"""Every command and file of the README and of the pages in docs/, tried in an empty folder.

At the smallest scale; sweeps of many runs are listed and not trained, but for the README's ladder.
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

FILE = re.compile(r"`(my_model\.py|mine/\w+/\w+\.yaml)`.*?```\w+\n(.*?)```", re.DOTALL)
# Several machines are in tests/runner/test_torchrun.py, the hub in data/test_hub.py there.
ELSEWHERE = re.compile("--nnodes|fineweb|huggingface")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TUTORIAL = ROOT / "docs" / "your_own_model.md"


def commands(page: Path) -> list[str]:
    """What a page tells to type, without its comments."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    lines = [line.partition(" #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if re.match("python -m (runner|reports)|torchrun ", line)]


TRIED = {page.name: commands(page) for page in PAGES if page != TUTORIAL and commands(page)}
SMALL = {"scale": "smoke", "train.steps": "2", "data": "text"}
WHOLE_LADDER = "python -m runner -m '+stage=glob(step*)' seed=1,2,3,4,5"

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


def write_files(folder: Path, page: Path) -> None:
    """The files that a page tells to write."""
    for name, content in FILE.findall(page.read_text(encoding="utf-8")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def small(command: str) -> list[str]:
    """What makes a run of the README short: settings that it does not have itself."""
    keys = {word.lstrip("+").partition("=")[0] for word in shlex.split(command)}
    if not keys & {"stage", "plan", "recipe"}:
        return []
    wanted = {**SMALL, "data.path": "book.txt"}
    return [f"{key}={value}" for key, value in wanted.items() if key not in keys]


def test_the_pages_have_commands() -> None:
    assert WHOLE_LADDER in TRIED["README.md"]
    assert len(TRIED) >= 7
    assert sum(map(len, TRIED.values())) >= 40
    told = {page.name: {*dict(FILE.findall(page.read_text("utf-8")))} for page in PAGES}
    assert {page: files for page, files in told.items() if files} == {
        "plans.md": {"mine/plan/norms.yaml"},
        "your_own_stage.md": {"mine/stage/step07b.yaml", "mine/recipe/week.yaml"},
        "your_own_model.md": {
            "my_model.py", "mine/model/recurrent.yaml", "mine/stage/step04b.yaml",
            "mine/plan/skip.yaml",
        },
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", TRIED)
def test_every_command_of_a_page_works(
    name: str, tmp_path: Path, text_file: Path, tried: Tried
) -> None:
    page = next(page for page in PAGES if page.name == name)
    (tmp_path / "book.txt").write_bytes(text_file.read_bytes())
    (tmp_path / "web").mkdir()
    rows = {"text": text_file.read_text(encoding="utf-8").split("\n\n")}
    parquet.write_table(pyarrow.table(rows), tmp_path / "web" / "a.parquet")
    write_files(tmp_path, page)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    if name in ("plans.md", "reading_the_report.md"):
        tried("python -m runner +stage=step02", *small("+stage=step02"))
        for copy in ("a", "b"):
            (tmp_path / "outputs" / copy).symlink_to(tmp_path / "outputs" / "ladder")
    for command in TRIED[name]:
        if ELSEWHERE.search(command):
            continue
        many = "+plan" in command or " -m " in command.partition("-m runner")[2]
        listed = ["dry_run=true"] if many and "dry_run" not in command else []
        if command == WHOLE_LADDER:
            command, listed = command.replace("1,2,3,4,5", "1"), []
        if "LABEL" in command:
            (weights,) = tmp_path.glob("outputs/ladder/step10/*/weights.safetensors")
            command = command.replace("LABEL", weights.parent.name)
        assert tried(command, *listed, *small(command)).strip(), command
    if name == "README.md":
        report = (tmp_path / "outputs/ladder/report/index.html").read_text(encoding="utf-8")
        assert "10 Gradient accumulation" in report
    if name == "reading_the_report.md":
        assert (tmp_path / "outputs/a-and-b/index.html").exists()
    if name == "long_runs.md":
        assert (tmp_path / "gpt2-mine/config.json").exists()
    if name == "your_own_stage.md":
        assert "RMS norm" in tried("python -m runner --config-dir=mine")


@pytest.mark.slow
def test_the_tutorial_goes_the_whole_way(tmp_path: Path, tried: Tried) -> None:
    write_files(tmp_path, TUTORIAL)
    make_text = re.search(r"python -c .*", TUTORIAL.read_text(encoding="utf-8"))
    assert make_text
    typed = [make_text[0], *commands(TUTORIAL)]
    assert len(set(typed)) == 7
    printed = []
    for command in typed:
        trains = "stage" in command or "plan" in command
        printed.append(tried(command, *(["train.steps=3", "device=cpu"] if trains else [])))
    same = "step03 Initialisation: not applicable, trains exactly as step02"
    assert any(same in " ".join(text.split()) for text in printed)
    assert any("Skip connection" in text for text in printed)
    runs = read_runs(tmp_path / "outputs" / "ladder").values()
    assert all(run.status is Status.finished for run in runs)
    assert {run.stage.name for run in runs} == {"step01", "step02", "step04", "step04b"}
    skip = [run for run in runs if run.stage.name == "step04b"]
    assert sorted(run.seed for run in skip) == [1, 2, 3]
    assert skip[0].stage.changes == {"model.arguments.skip": (False, True)}
    assert "Skip connection" in (tmp_path / "outputs/ladder/report/report.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_files_that_a_page_links_to_exist(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)[)#]", page.read_text(encoding="utf-8"))
    assert len(links) > 8 or "README" not in page.name
    assert not [link for link in links if not (page.parent / link).exists()]


def test_the_list_of_pages_is_whole() -> None:
    listed = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert not [
        page.name
        for page in PAGES[1:]
        if f"({page.name})" not in listed and page.name != "README.md"
    ]
