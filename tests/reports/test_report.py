"""The report as a whole: its files, from whatever mixture of records."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import reports
from conf.errors import UsageError
from reports.read import HELD_OUT_COLUMNS, RUN_COLUMNS, STEP_COLUMNS
from tests.conftest import ROOT
from tests.reports.conftest import WINDOWS, write_run


def test_a_ladder_leaves_every_file_of_the_report(ladder: Path) -> None:
    page = reports.write_report([ladder])
    assert page == ladder / "report" / "index.html"
    names = {path.name for path in page.parent.iterdir()}
    assert names - {".lock"} == {
        "index.html",
        "report.md",
        "stages.csv",
        "steps.csv",
        "held_out.csv",
        "report.json",
        "figures",
    }
    figures = {path.name for path in (page.parent / "figures").iterdir()}
    assert {"stage-step07.png", "stage-step07.svg", "loss-steps.png", "speed-tokens.svg"} <= figures


def test_the_columns_are_the_documented_ones(ladder: Path) -> None:
    records = reports.load(ladder)
    assert list(records.runs.columns) == list(RUN_COLUMNS)
    assert list(records.steps.columns) == list(STEP_COLUMNS)
    assert list(records.held_out.columns) == list(HELD_OUT_COLUMNS)
    assert len(records.runs) == 10
    assert len(records.steps) == 5 + 9 * 50
    assert len(records.held_out) == 10 * WINDOWS


def test_the_datasheets_share_is_beside_that_of_the_measured_peak(tmp_path: Path) -> None:
    given = {"results__datasheet_flops": 989.4e12, "results__datasheet_mfu": 0.31}
    for stage in ("step02", "step07"):
        write_run(tmp_path / "gpu", stage, **given)
    folder = reports.write_report([tmp_path / "gpu"]).parent
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert "The GPU's datasheet says 989 TFLOP/s in bfloat16." in text
    assert re.search(
        r"Model FLOPs use \(in brackets: of the datasheet's bf16\): step02 \d+% \(31%\)", text
    )
    assert reports.load(tmp_path / "gpu").runs.datasheet_mfu.tolist() == [0.31, 0.31]
    on_a_cpu = write_run(tmp_path / "cpu", "step02").parent.parent
    assert "datasheet" not in (reports.write_report([on_a_cpu]).parent / "report.md").read_text()


def test_importing_reports_brings_in_nothing_heavy() -> None:
    code = "import sys, reports; print({'pandas', 'matplotlib', 'jinja2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("width", [50, 80, 120])
def test_the_short_table_fits_the_terminal(ladder: Path, width: int) -> None:
    said = io.StringIO()
    reports.write_report([ladder], console=Console(file=said, width=width))
    text = said.getvalue()
    table = text.partition("\n\n")[0].splitlines()
    assert max(map(len, table)) <= width
    assert all(f"step{number:02d}" in text for number in range(1, 11))
    assert ("[10.95, 7.21]" in text) == (width > 50)
    assert "what the others are measured against" in " ".join(text.split())
    assert str(ladder / "report" / "index.html") in text


def test_a_folder_of_experiments_says_which_to_name(ladder: Path) -> None:
    with pytest.raises(UsageError, match=r"holds experiments.*ladder"):
        reports.load(ladder.parent)


def test_a_folder_that_cannot_be_written_is_one_sentence(ladder: Path) -> None:
    (ladder / "report").write_text("in the way")
    with pytest.raises(UsageError, match="cannot be written"):
        reports.write_report([ladder])


def test_the_markdown_shows_text_as_text(tmp_path: Path) -> None:
    write_run(tmp_path / "odd", "step02", stage__title="a|b <i>c</i> *d*")
    text = (reports.write_report([tmp_path / "odd"]).parent / "report.md").read_text("utf-8")
    assert "a\\|b &lt;i&gt;c&lt;/i&gt; \\*d\\*" in text
    assert "<i>" not in text
