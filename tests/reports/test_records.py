"""Records read back as frames, whatever has become of their files."""

import platform
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import reports
from conf.errors import UsageError
from reports.read import RUN_COLUMNS, STEP_COLUMNS, WINDOW_COLUMNS
from reports.report import Report
from tests.conftest import ROOT
from tests.reports.conftest import ORDER, WINDOWS, Lab, names, question


def test_the_columns_are_the_documented_ones(ladder: Path) -> None:
    records = reports.load(ladder)
    frames = (records.runs, records.steps, records.windows)
    columns = [RUN_COLUMNS, STEP_COLUMNS, WINDOW_COLUMNS]
    assert [list(frame.columns) for frame in frames] == [*map(list, columns)]
    assert [len(frame) for frame in frames] == [10, 5 + 9 * 50, 10 * WINDOWS]


def test_differences_and_speed_ups_are_those_of_the_records(ladder: Path) -> None:
    table = reports.stages(ladder, columns="all").set_index("stage")
    assert list(table.index) == ORDER
    main = reports.stages(ladder).set_index("stage")
    assert len(main.columns) == 19
    pd.testing.assert_frame_equal(main, table[main.columns])
    assert table.held_out[["step02", "step03", "step10"]].tolist() == pytest.approx(
        [7.4 + 0.15, 6.5 + 0.15, 5.6 + 0.15]
    )
    assert table.baseline_loss_value["step03"] == pytest.approx(6.5 - 7.4)
    assert table.reference_loss_value["step10"] == pytest.approx(5.6 - 5.84)
    ratio = table.tokens_per_second["step07"] / table.tokens_per_second["step02"]
    assert table.baseline_speed_estimate_value["step07"] == pytest.approx(ratio)
    assert ratio == pytest.approx(900 / 330, rel=0.05)
    steps = reports.load(ladder).steps
    assert table.worst["step04"] == pytest.approx(steps[steps.stage == "step04"].loss.max())
    assert np.isnan(table.baseline_loss_value["step01"]), "a flow check is compared with nothing"
    report = Report([ladder])  # of the plan called ladder, which needs no section of its own
    assert (report.worth, report.rates, report.plans, report.apart) == (None, [], [], [])


def test_a_damaged_record_or_question_is_named_and_the_rest_goes_on(lab: Lab) -> None:
    """Also a moment without a time zone, or none, and a run that nothing was asked of."""
    asked, moments = question("step03"), ["2026-11-24T00:00:00", "yesterday"]
    torn = [b"", b"{", b'{"status": "fin', b"[]", b"null", b"\xff\xfe\x00", b'{"stage": 3}']
    damages = [{"typed": "{"}, {"typed": "[1]"}, {"typed": "null"}, {"settings": "0"}]
    lab.run("step02")
    for at, damage in enumerate(torn):
        (lab.run("step04", label=f"torn{at}") / "run.json").write_bytes(damage)
    for moment in moments:
        lab.run("step05", label=moment[:4], ended=moment)
    for at, change in enumerate(damages):
        lab.run("step03", at, label=f"asked{at}", asked=[asked, replace(asked, **change)])
    (lab.run("step06") / "asked.csv").unlink()
    report = lab.report
    named = [f"step04/torn{at}" for at in range(7)] + [f"step03/asked{at}" for at in range(4)]
    for each in (*named, *moments, "python -m runner +stage=step06"):
        assert sum(each in problem for problem in report.records.problems) == 1, each
    assert len(report.records.problems) == 7 + 4 + 2 + 1
    assert [(each.stage, len(each.arm.runs)) for each in report.comparisons] == [
        ("step02", 1), ("step03", 4),
    ]  # fmt: skip
    assert [*report.records.runs.stage.unique()] == ["step02", "step03", "step06"]


def test_torn_or_missing_steps_lose_no_more_than_themselves(lab: Lab) -> None:
    damages = {"step03": b"", "step04": b"step,loss\n1,", "step05": b"\x00\x01\x02", "step06": None}
    lab.run("step02")
    for stage, damage in damages.items():
        steps = lab.run(stage, status="running") / "steps.csv"
        steps.unlink() if damage is None else steps.write_bytes(damage)
    folder = lab.run("step08", status="running", every=10)
    for torn, cut in ((lab.run("step07", status="running"), -9), (folder, -2)):
        (torn / "steps.csv").write_bytes((torn / "steps.csv").read_bytes()[:cut])
    lines = (folder / "held_out.csv").read_text().splitlines()
    lines[5] = lines[5].replace(",64,", ",x,", 1)  # a window that is no number
    (folder / "held_out.csv").write_text("\n".join(lines) + "\n")
    report = lab.report
    assert names(report.main.stages) == ORDER[1:8]
    counts = report.records.steps.stage.value_counts()
    assert counts.to_dict() == {"step02": 50, "step07": 49, "step08": 49}
    assert len(report.records.windows.query("stage == 'step08'")) == 4 * WINDOWS - 1


@pytest.mark.parametrize("losses", [[float("nan")], [11.0, float("nan")]])
def test_losses_that_were_hardly_finite_stop_no_report(lab: Lab, losses: list[float]) -> None:
    for seed in (1, 2):
        lab.run(seed=seed, status="diverged", losses=losses)
    assert "diverged" in reports.write_report([lab.path]).read_text("utf-8")


def test_numbers_are_read_back_to_the_last_digit_and_a_damaged_time_stops_no_report(
    lab: Lab,
) -> None:
    losses = np.random.default_rng(3).uniform(2, 11, 400)
    lab.run(seed=2, losses=losses)
    file = lab.run(status="interrupted") / "steps.csv"
    *lines, last = file.read_text().splitlines()
    fields = last.split(",")
    fields[list(STEP_COLUMNS).index("step_ms") - 4] = "1e300"
    file.write_text("\n".join([*lines, ",".join(fields)]) + "\n")
    assert len(reports.stages(lab.path)) == 1
    steps = reports.load(lab.path).steps
    assert steps.step_ms.max() == 1e300
    assert steps.loss[steps.seed == 2].tolist() == losses.tolist()


@pytest.mark.parametrize("file", ["run.json", "steps.csv", "held_out.csv"])
def test_a_single_flipped_bit_in_a_finished_run_is_noticed(lab: Lab, file: str) -> None:
    lab.run("step02")
    whole = lab.run("step03")
    content = (whole / file).read_bytes()
    places = range(40, len(content), 97)
    for place in places:
        flipped = shutil.copytree(whole, whole.with_name(f"at{place}")) / file
        flipped.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    shutil.rmtree(whole)
    records = reports.load(lab.path)
    for place in places:
        assert any(f"step03/at{place} " in each for each in records.problems), place
    table = records.windows if file == "held_out.csv" else records.steps
    assert [*table.stage.unique()] == ["step02"]


def test_a_run_whose_process_is_gone_is_not_still_running(lab: Lab) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    lab.run("step02", status="running", process={"host": platform.node(), "pid": gone.pid})
    lab.run("step03", status="running")
    runs = reports.load(lab.path).runs
    assert list(runs.stage + " " + runs.status) == ["step02 interrupted", "step03 running"]


def test_what_is_no_experiment_is_one_sentence(ladder: Path) -> None:
    with pytest.raises(UsageError, match=r"holds experiments.*ladder"):
        reports.load(ladder.parent)
    with pytest.raises(UsageError, match="No experiment was named"):
        reports.load()


def test_importing_reports_brings_in_nothing_heavy() -> None:
    code = "import sys, reports; print({'pandas', 'matplotlib', 'jinja2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"
