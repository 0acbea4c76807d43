"""Several experiments, and several settings, side by side."""

from __future__ import annotations

from pathlib import Path

import pytest

import reports
from conf.errors import UsageError
from reports.findings import Findings
from tests.reports.conftest import write_run

RATE = "train.learning_rate"


def test_settings_of_a_sweep_are_compared_on_an_equal_footing(tmp_path: Path) -> None:
    experiment = tmp_path / "sweep"
    for seed in (1, 2, 3):
        for rate, floor in (("0.0001", 7.0), ("0.001", 6.0)):
            write_run(
                experiment, "step05", seed, floor=floor, variant=[f"{RATE}={rate}"],
                label=f"seed{seed}-{rate}",
            )  # fmt: skip
    write_run(
        experiment, "step05", 1, status="diverged", variant=[f"{RATE}=9.0"], label="seed1-nine",
        started="2026-12-01T00:00:00+00:00",
    )  # fmt: skip
    found = Findings.of([experiment])
    (stage,) = found.alternatives
    assert [row.what for row in stage.rows] == [f"{RATE}={v}" for v in ("0.0001", "0.001", "9.0")]
    assert [row.statuses for row in stage.rows] == ["finished", "finished", "diverged"]
    assert stage.lowest is stage.rows[1]
    assert stage.rows[0].more is not None
    assert stage.rows[0].more.value == pytest.approx(1.0, abs=0.02)
    assert found.main.stages[0].finished, "a diverged run displaces no finished one"
    assert found.others == []
    text = (reports.write_report([experiment]).parent / "report.md").read_text()
    assert f"lowest held-out loss, 6.150, with {RATE}=0.001 (3 seeds)".replace(
        "_", "\\_"
    ) in text.replace("=0.001 (", "=0.001 (")
    assert "diverged" in text.partition("## Side by side")[2].partition("##")[0]


def test_experiments_are_side_by_side_and_each_keeps_its_own_report(tmp_path: Path) -> None:
    for name, floor in (("one", 7.0), ("two", 6.5)):
        for seed in (1, 2):
            write_run(tmp_path / name, "step02", seed, floor=floor)
    own = reports.write_report([tmp_path / "one"])
    before = own.read_bytes()
    page = reports.write_report([tmp_path / "one", tmp_path / "two"])
    assert page == tmp_path / "one-and-two" / "index.html"
    assert own.read_bytes() == before
    (stage,) = Findings.of([tmp_path / "one", tmp_path / "two"]).alternatives
    assert [(row.what, len(row.runs.finished)) for row in stage.rows] == [("one", 2), ("two", 2)]
    assert stage.rows[0].more is not None
    assert stage.rows[0].more.value == pytest.approx(0.5, abs=0.01)
    elsewhere = tmp_path / "elsewhere"
    page = reports.write_report([tmp_path / "one", tmp_path / "two"], output=elsewhere)
    assert page == elsewhere / "index.html"
    assert "the experiments are side by side below" in page.read_text()


def test_losses_on_other_text_are_shown_and_not_compared(tmp_path: Path) -> None:
    write_run(tmp_path / "one", "step02", floor=7.0)
    write_run(tmp_path / "two", "step02", floor=6.5, data__sha256="00" * 32)
    (stage,) = Findings.of([tmp_path / "one", tmp_path / "two"]).alternatives
    assert [row.more for row in stage.rows] == [None, None]
    assert "text=00000000" in stage.rows[1].what


def test_no_experiment_is_one_sentence() -> None:
    with pytest.raises(UsageError, match="No experiment was named"):
        reports.write_report([])
