"""A sample of the odd commands and surroundings that the benchmark tries by the thousand."""

from pathlib import Path
from typing import Any

from hypothesis import given

from conf.reading import as_typed
from tests.faults import odd_commands as odd
from tests.faults.fuzz import Sandbox, few


@few(6)
@given(case=odd.TYPED)
def test_a_text_of_the_configuration_is_what_was_typed(box: Sandbox, case: odd.Typed) -> None:
    odd.check_typed(box, case)


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


@few(3)
@given(case=odd.QUOTED)
def test_a_dry_run_reads_quoted_values_as_plain_ones(
    box: Sandbox, case: tuple[list[str], str]
) -> None:
    odd.check_quoted(box, case)


@few(12)
@given(case=odd.FILES)
def test_a_file_of_ones_own_is_read_or_named(box: Sandbox, case: tuple[str, str, str]) -> None:
    odd.check_file(box, case)


@few(6)
@given(case=odd.STREAMS)
def test_what_happens_to_the_output_changes_nothing(
    box: Sandbox, case: tuple[str, str, str, str]
) -> None:
    odd.check_streams(box, case)


@few(3)
@given(case=odd.NAMES)
def test_modules_that_are_called_as_this_projects_break_no_command(
    box: Sandbox, case: tuple[set[str], str, list[str]]
) -> None:
    odd.check_names(box, case)


@few(10)
@given(case=odd.MODULES)
def test_a_custom_models_module_that_is_called_as_this_projects_is_named(
    box: Sandbox, case: tuple[str, bool, str]
) -> None:
    odd.check_module(box, case)


@few(3)
@given(case=odd.ENDS)
def test_the_exit_status_is_that_of_the_record(box: Sandbox, case: Any) -> None:
    odd.check_end(box, case)


def test_paths_stay_relative_to_the_folder_one_works_in(box: Sandbox) -> None:
    assert box.runner("hydra.job.chdir=true", "data.path=text.txt", "seed=7") == 0
    assert list(Path("outputs/ladder/step02").glob("seed7-*/run.json"))
