"""Texts and folders of commands, beside what test_drawn.py draws."""

from pathlib import Path

from conf.reading import as_typed
from tests.faults import odd_commands as odd
from tests.faults.fuzz import Sandbox


def test_every_text_of_every_command_is_kept() -> None:
    keys = {*odd.text_keys(odd.Config), *odd.other_text_keys()}
    assert {"experiment", "data.path", "sample.prompt", "weights", "folder", "stage.title"} <= keys
    for key in keys:
        assert as_typed([f"{key}=1.10"]) == [f"{key}='1.10'"]
        for text in ("null", "${seed}", "glob(*)", "range(1,3)", "[1]", "'1.10'", "a\\,1"):
            assert as_typed([f"{key}={text}"]) == [f"{key}={text}"]
    assert as_typed(["seed=1.10", "~experiment=5", "experiment"]) == [
        "seed=1.10", "~experiment=5", "experiment",
    ]  # fmt: skip


def test_paths_stay_relative_to_the_folder_one_works_in(box: Sandbox) -> None:
    assert box.runner("hydra.job.chdir=true", "data.path=text.txt", "seed=7") == 0
    assert list(Path("outputs/ladder/step02").glob("seed7-*/run.json"))
