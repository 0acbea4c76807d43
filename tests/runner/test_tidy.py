"""What `python -m runner.tidy` lists and removes, and what it never touches."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from rich.console import Console
from safetensors.torch import load_file

from conf.schema import TidierConfig
from runner.folder import RunFolder
from runner.record import Status
from runner.tidy import ABOUT, tidy
from tests.conftest import ROOT, CommandLine
from tests.records import synthetic_run

SHA256 = "ab" * 32
# By kind: each file, and its size in bytes.
FILES = {
    "checkpoints": {
        "outputs/ladder/step03/stopped/checkpoint.safetensors": 3_000_000,
        "outputs/ladder/step03/stopped/weights.safetensors": 1_000_000,
    },
    "weights": {"outputs/ladder/step02/done/weights.safetensors": 2_500_000},
    "events": {"outputs/ladder/step02/done/events.out.tfevents.1.host.2.0": 1_500},
    "leftovers": {
        "outputs/ladder/step02/done/run.json.damaged": 700,
        "outputs/ladder/step02/done/checkpoint.safetensors.damaged": 20_000,
        "outputs/ladder/step03/stopped/.tmpAbC": 300,
        "outputs/ladder/step03/stopped/.weights.safetensors.~host~1.part": 40,
    },
    "reports": {
        "outputs/ladder/report/report.json": 100,
        "outputs/ladder/report/figures/a.svg": 200,
        "outputs/a-and-b/report.json": 30,
    },
    "text": {f"cache/text/{SHA256}.txt": 5_000, "cache/text/pydoc-3.11.7.txt": 600},
    "tokens": {
        f"cache/tokens/{SHA256}/00000.uint16": 7_000,
        f"cache/tokens/{SHA256}/index.json": 10,
        f"cache/tokens/.{SHA256}.uint16.~host~1.part": 6_000,
        f"cache/shards/{SHA256}/00000.uint16": 20_000,
        f"cache/shards/{SHA256}/index.json": 100,
        f"cache/shards/{SHA256}.lock": 0,
    },
    "kernels": {"cache/inductor/ab/kernel.so": 9_000, "cache/inductor/fxgraph/x/y": 50},
    "products": {f"cache/products/{SHA256[:32]}.json": 333},
    "hashes": {f"cache/hashes/{SHA256[:32]}.json": 111},
}
RECORD = ("run.json", "steps.csv", "held_out.csv", "log.txt")


def write(file: Path, size: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"x" * size)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with everything that can be removed, of a run that is done and one that is not."""
    for name, status in (("step02/done", Status.finished), ("step03/stopped", Status.interrupted)):
        folder = RunFolder(tmp_path / "outputs/ladder" / name)
        folder.path.mkdir(parents=True)
        folder.start(synthetic_run(), afresh=True)
        folder.end(status)
    for files in FILES.values():
        for name, size in files.items():
            write(tmp_path / name, size)
    return tmp_path


def files_in(place: Path) -> dict[str, bytes]:
    """Every file by its name, but for locks."""
    files = (path for path in place.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(place)): path.read_bytes() for path in files}


def folders(place: Path) -> tuple[str, str]:
    return f"output_dir={place}/outputs", f"cache_dir={place}/cache"


def test_it_lists_sizes_within_50_columns_and_changes_nothing(
    command_line: CommandLine, place: Path
) -> None:
    before = files_in(place)
    done = command_line(*folders(place), module="runner.tidy", smoke=False, COLUMNS="50")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    rows = {line.split()[0]: line for line in lines if line.split()[0] in ABOUT}
    assert list(rows) == list(FILES)
    assert max(map(len, rows.values())) <= 50
    assert rows["checkpoints"].split()[1:4] == ["2", "4.0", "MB"]
    assert rows["leftovers"].split()[1:4] == ["4", "21.0", "kB"]
    assert rows["reports"].split()[1:4] == ["3", "330", "bytes"]
    assert rows["tokens"].split()[1:4] == ["6", "33.1", "kB"]
    assert f"{place}/outputs: 2 runs" in lines
    at = lines.index("Without their checkpoints these runs start over:")
    assert lines[at + 1 :] == ["  ladder/step03/stopped"]
    assert files_in(place) == before


def test_it_removes_what_is_named_and_says_so(command_line: CommandLine, place: Path) -> None:
    before = files_in(place)
    asked = (*folders(place), "remove=[checkpoints,kernels]")
    done = command_line(*asked, module="runner.tidy", smoke=False)
    assert done.returncode == 0, done.stderr
    removed = {*FILES["checkpoints"], *FILES["kernels"]}
    assert before.keys() - files_in(place).keys() == removed
    first, _, checkpoints, kernels, *rest = done.stdout.splitlines()
    assert first == "Removed:"
    assert checkpoints.split()[:4] == ["checkpoints", "2", "4.0", "MB"]
    assert kernels.split()[:3] == ["kernels", "2", "9.1"]
    assert rest == ["Without their checkpoints these runs start over:", "  ladder/step03/stopped"]
    again = command_line(*asked, module="runner.tidy", smoke=False)
    assert again.returncode == 0
    assert again.stdout == "Nothing was removed: there are no checkpoints, no kernels.\n"


def removed_by(place: Path, *kinds: str) -> set[str]:
    before = files_in(place)
    config = TidierConfig(f"{place}/outputs", f"{place}/cache", list(kinds))
    tidy(config, Console(file=io.StringIO()))
    return before.keys() - files_in(place).keys()


@pytest.mark.parametrize("kind", FILES)
def test_each_kind_is_its_own_files_and_no_others(place: Path, kind: str) -> None:
    assert removed_by(place, kind) == set(FILES[kind])


def test_no_record_is_removed_and_no_file_of_anyone_else(place: Path) -> None:
    others = {
        "outputs/ladder/step02/done/notes.md", "outputs/mine.txt", "cache/text/letter.txt",
        "cache/tokens/mine.uint16", "cache/other/file", "outputs/self/report.json",
        "outputs/x/y/z/weights.safetensors",
    }  # fmt: skip
    for name in others:
        write(place / name, 9)
    itself = RunFolder(place / "outputs/self/step02/done")  # with --output=outputs/self
    itself.path.mkdir(parents=True)
    itself.start(synthetic_run(), afresh=True)
    itself.end(Status.finished)
    assert removed_by(place, *ABOUT) == {name for files in FILES.values() for name in files}
    left = files_in(place)
    assert others <= left.keys()
    for run in ("ladder/step02/done", "ladder/step03/stopped", "self/step02/done"):
        assert {f"outputs/{run}/{name}" for name in RECORD} <= left.keys()


def test_no_link_is_followed_or_removed(place: Path) -> None:
    elsewhere = place / "elsewhere"
    (place / "outputs").rename(elsewhere)
    (place / "cache/inductor").rename(place / "kernels")
    links = {
        place / "outputs/ladder": elsewhere / "ladder",
        place / "outputs/a-and-b": elsewhere / "a-and-b",
        place / "cache/inductor": place / "kernels",
        place / "outputs/new/step02/done/weights.safetensors": place / "precious",
    }
    write(place / "precious", 5)
    run = RunFolder(place / "outputs/new/step02/done")
    run.path.mkdir(parents=True)
    run.start(synthetic_run(), afresh=True)
    run.end(Status.finished)
    for link, target in links.items():
        link.symlink_to(target)
    cached = {name for name in removed_by(place, *ABOUT) if name.startswith("cache")}
    assert removed_by(place, *ABOUT) == set()
    assert all(link.is_symlink() and link.exists() for link in links)
    kinds = ("text", "tokens", "products", "hashes")
    assert cached == {name for kind in kinds for name in FILES[kind]}


def test_what_is_being_trained_is_left_alone_and_named(
    command_line: CommandLine, place: Path
) -> None:
    before = files_in(place)
    with FileLock(place / "outputs/ladder/step03/stopped/.lock"):
        done = command_line(
            *folders(place), f"remove=[{','.join(ABOUT)}]", module="runner.tidy", smoke=False
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == [
        "Being trained, and left alone, as are reports and the cache:",
        "  ladder/step03/stopped",
    ]
    free = {name for name in before if "step02" in name and Path(name).name not in RECORD}
    assert before.keys() - files_in(place).keys() == free


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("remove=[wieghts]", "there is no wieghts. Did you mean weights? There are checkpoints,"),
        ("remove=weights", "remove=weights: write a list, remove=[weights]."),
        ("remove=[records]", "there is no records."),
        ("nothing=1", "There is no setting nothing."),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_is_removed(
    command_line: CommandLine, place: Path, override: str, expected: str
) -> None:
    before = files_in(place)
    done = command_line(*folders(place), override, module="runner.tidy", smoke=False)
    assert done.returncode == 2
    assert expected in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert files_in(place) == before


def test_it_imports_no_torch(place: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "runner.tidy", *folders(place)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "| filelock" in done.stderr.replace("  ", "")
    assert "| torch" not in done.stderr.replace("  ", "")


@pytest.mark.slow
def test_a_run_without_its_weights_is_trained_again_only_for_the_weights(
    command_line: CommandLine, tmp_path: Path
) -> None:
    command = ("+stage=step02", "train.steps=2", "train.compile=false")
    assert command_line(*command, "checkpoint=last", report=True).returncode == 0
    (weights,) = tmp_path.rglob("weights.safetensors")
    record = (weights.parent / "run.json").read_bytes()
    kept = load_file(weights)
    done = command_line(
        f"output_dir={tmp_path}/outputs", f"cache_dir={tmp_path}/cache",
        "remove=[weights,reports]", module="runner.tidy", smoke=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not weights.exists()
    assert not (tmp_path / "outputs/ladder/report").exists()
    assert (weights.parent / "run.json").read_bytes() == record
    assert "already finished" in command_line(*command, report=True).stdout
    assert (tmp_path / "outputs/ladder/report/index.html").exists()
    assert "already finished" not in command_line(*command, "checkpoint=last").stdout
    again = load_file(weights)
    assert again.keys() == kept.keys()
    assert all(torch.equal(again[name], kept[name]) for name in kept)
