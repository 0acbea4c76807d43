"""The report as a whole: its files, from whatever mixture of records."""

from __future__ import annotations

from pathlib import Path

import reports


def test_a_ladder_leaves_every_file_of_the_report(ladder: Path) -> None:
    page = reports.write_report([ladder])
    assert page == ladder / "report" / "index.html"
    names = {path.name for path in page.parent.iterdir()}
    assert names == {"index.html", "report.md", "stages.csv", "steps.csv", "report.json", "figures"}
    figures = {path.name for path in (page.parent / "figures").iterdir()}
    assert {"stage-step07.png", "stage-step07.svg", "loss-steps.png", "speed-tokens.svg"} <= figures
