"""Records read back as frames, whatever has become of their files."""

from __future__ import annotations

import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import reports
from conf.errors import UsageError
from reports.read import RUN_COLUMNS, STEP_COLUMNS, WINDOW_COLUMNS
from reports.report import Report
from tests.conftest import ROOT
from tests.reports.conftest import ORDER, WINDOWS, question, write_run


def test_the_columns_are_the_documented_ones(ladder: Path) -> None:
    records = reports.load(ladder)
    assert list(records.runs.columns) == list(RUN_COLUMNS)
    assert list(records.steps.columns) == list(STEP_COLUMNS)
    assert list(records.windows.columns) == list(WINDOW_COLUMNS)
    assert len(records.runs) == 10
    assert len(records.steps) == 5 + 9 * 50
    assert len(records.windows) == 10 * WINDOWS


def test_differences_and_speed_ups_are_those_of_the_records(ladder: Path) -> None:
    table = reports.stages(ladder).set_index("stage")
    assert list(table.index) == ORDER
    floors = {"step02": 7.4, "step03": 6.5, "step10": 5.6}
    for stage, floor in floors.items():
        assert table.held_out[stage] == pytest.approx(floor + 0.15)
    assert table.baseline_loss_value["step03"] == pytest.approx(6.5 - 7.4)
    assert table.reference_loss_value["step10"] == pytest.approx(5.6 - 5.84)
    ratio = table.tokens_per_second["step07"] / table.tokens_per_second["step02"]
    assert table.baseline_speed_estimate_value["step07"] == pytest.approx(ratio)
    assert ratio == pytest.approx(900 / 330, rel=0.05)
    steps = reports.load(ladder).steps
    assert table.worst["step04"] == pytest.approx(steps[steps.stage == "step04"].loss.max())
    assert np.isnan(table.baseline_loss_value["step01"]), "a flow check is compared with nothing"


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b'{"status": "fin', b"[]", b"null", b"\xff\xfe\x00", b'{"stage": 3}',
     "2026-11-24T00:00:00", "yesterday"],
)  # fmt: skip
def test_a_damaged_record_is_named_and_the_rest_goes_on(
    tmp_path: Path, damage: bytes | str
) -> None:
    write_run(tmp_path / "damaged", "step02")
    if isinstance(damage, str):  # a moment without a time zone, or none
        write_run(tmp_path / "damaged", "step03", ended=damage)
    else:
        (write_run(tmp_path / "damaged", "step03") / "run.json").write_bytes(damage)
    report = Report([tmp_path / "damaged"])
    (problem,) = report.records.problems
    assert "step03" in problem
    assert isinstance(damage, bytes) or damage in problem
    assert [stage.stage for stage in report.main.stages] == ["step02"]


@pytest.mark.parametrize("damage", [b"", b"step,loss\n1,", b"\x00\x01\x02", None])
def test_torn_or_missing_steps_lose_no_more_than_themselves(
    tmp_path: Path, damage: bytes | None
) -> None:
    write_run(tmp_path / "torn", "step02")
    steps = write_run(tmp_path / "torn", "step03", status="running") / "steps.csv"
    whole = steps.read_bytes()
    steps.unlink() if damage is None else steps.write_bytes(damage)
    stages = Report([tmp_path / "torn"]).main.stages
    assert [stage.stage for stage in stages] == ["step02", "step03"]
    steps.write_bytes(whole[:-9])
    assert len(reports.load(tmp_path / "torn").steps.query("stage == 'step03'")) == 49


def test_numbers_are_read_back_to_the_last_digit(tmp_path: Path) -> None:
    losses = np.random.default_rng(3).uniform(2, 11, 400)
    write_run(tmp_path / "exact", losses=losses)
    assert reports.load(tmp_path / "exact").steps.loss.tolist() == losses.tolist()


@pytest.mark.parametrize("losses", [[float("nan")], [11.0, float("nan")]])
def test_losses_that_were_hardly_finite_stop_no_report(tmp_path: Path, losses: list[float]) -> None:
    for seed in (1, 2):
        write_run(tmp_path / "nan", seed=seed, status="diverged", losses=losses)
    page = reports.write_report([tmp_path / "nan"])
    assert "diverged" in page.read_text("utf-8")


def test_a_damaged_step_time_stops_no_report(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "odd", status="interrupted")
    write_run(tmp_path / "odd", seed=2)
    lines = (folder / "steps.csv").read_text().splitlines()
    fields = lines[-1].split(",")
    fields[list(STEP_COLUMNS).index("step_ms") - 4] = "1e300"
    (folder / "steps.csv").write_text("\n".join([*lines[:-1], ",".join(fields)]) + "\n")
    assert len(reports.stages(tmp_path / "odd")) == 1
    assert reports.load(tmp_path / "odd").steps.step_ms.max() == 1e300


def test_a_window_that_is_no_number_loses_itself_alone(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "torn", status="running", every=10)
    lines = (folder / "held_out.csv").read_text().splitlines()
    lines[5] = lines[5].replace(",64,", ",x,", 1)
    (folder / "held_out.csv").write_text("\n".join(lines) + "\n")
    assert len(reports.load(tmp_path / "torn").windows) == 4 * WINDOWS - 1


@pytest.mark.parametrize(
    "damage", [{"typed": "{"}, {"typed": "[1]"}, {"typed": "null"}, {"settings": "0"}]
)
def test_a_damaged_question_is_named_and_the_rest_goes_on(
    tmp_path: Path, damage: dict[str, str]
) -> None:
    asked = question("step03")
    write_run(tmp_path / "damaged", "step02")
    write_run(tmp_path / "damaged", "step03", asked=[asked, replace(asked, **damage)])
    report = Report([tmp_path / "damaged"])
    assert [stage.name for stage in report.main.stages] == ["step02", "step03"]
    (problem,) = report.records.problems
    assert "step03" in problem


@pytest.mark.parametrize("file", ["run.json", "steps.csv", "held_out.csv"])
def test_a_single_flipped_bit_in_a_finished_run_is_noticed(tmp_path: Path, file: str) -> None:
    write_run(tmp_path / "flipped", "step02")
    path = write_run(tmp_path / "flipped", "step03") / file
    content = path.read_bytes()
    for position in range(40, len(content), 97):
        flipped = bytes([content[position] ^ 1])
        path.write_bytes(content[:position] + flipped + content[position + 1 :])
        records = reports.load(tmp_path / "flipped")
        assert any("step03" in problem for problem in records.problems), position
        table = records.windows if file == "held_out.csv" else records.steps
        assert table.query("stage == 'step03'").empty


def test_a_run_that_nothing_was_asked_of_is_named_with_its_command(tmp_path: Path) -> None:
    write_run(tmp_path / "old", "step02")
    (write_run(tmp_path / "old", "step03") / "asked.csv").unlink()
    report = Report([tmp_path / "old"])
    (problem,) = report.records.problems
    assert "step03" in problem
    assert "python -m runner +stage=step03" in problem
    assert [each.stage for each in report.comparisons] == ["step02"]
    assert list(report.records.runs.stage) == ["step02", "step03"]


def test_a_run_whose_process_is_gone_is_not_still_running(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    process = {"host": platform.node(), "pid": gone.pid}
    write_run(tmp_path / "left", "step02", status="running", process=process)
    write_run(tmp_path / "left", "step03", status="running")
    runs = reports.load(tmp_path / "left").runs
    assert list(runs.stage + " " + runs.status) == ["step02 interrupted", "step03 running"]


def test_a_folder_of_experiments_says_which_to_name(ladder: Path) -> None:
    with pytest.raises(UsageError, match=r"holds experiments.*ladder"):
        reports.load(ladder.parent)


def test_importing_reports_brings_in_nothing_heavy() -> None:
    code = "import sys, reports; print({'pandas', 'matplotlib', 'jinja2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"
