"""What the report says is what the records hold, whatever the records are."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import reports
from tests.conftest import ROOT
from tests.reports.conftest import ORDER, write_run


def page_of(*experiments: Path) -> str:
    return reports.write_report(experiments).read_text(encoding="utf-8")


def stages_of(experiment: Path) -> pd.DataFrame:
    reports.write_report([experiment])
    return pd.read_csv(experiment / "report" / "stages.csv").set_index("stage")


def test_differences_and_speed_ups_are_those_of_the_records(ladder: Path) -> None:
    stages = stages_of(ladder)
    assert list(stages.index) == ORDER
    floors = {"step02": 7.4, "step03": 6.5, "step10": 5.6}
    for stage, floor in floors.items():
        assert stages.held_out[stage] == pytest.approx(floor + 0.15)
    assert stages.loss_vs_baseline["step03"] == pytest.approx(6.5 - 7.4)
    assert stages.loss_vs_previous["step10"] == pytest.approx(5.6 - 5.84)
    ratio = stages.tokens_per_second["step07"] / stages.tokens_per_second["step02"]
    assert stages.speed_vs_baseline["step07"] == pytest.approx(ratio)
    assert ratio == pytest.approx(900 / 330, rel=0.05)
    steps = pd.read_csv(ladder / "report" / "steps.csv")
    worst = steps[steps.stage == "step04"].loss.max()
    assert stages.worst["step04"] == pytest.approx(worst)
    assert np.isnan(stages.loss_vs_baseline["step01"]), "a flow check is compared with nothing"


def test_every_file_carries_the_same_held_out_loss(ladder: Path) -> None:
    page = page_of(ladder)
    shown = f"{stages_of(ladder).held_out['step07']:.3f}"
    assert shown in page
    assert shown in (ladder / "report" / "report.md").read_text(encoding="utf-8")
    assert json.loads((ladder / "report" / "report.json").read_text(encoding="utf-8"))


def test_a_thing_not_applied_is_never_among_what_was_applied(ladder: Path) -> None:
    page = page_of(ladder)
    assert "Not applied: TF32" in page
    assert "Applied: TF32" not in page


def test_several_seeds_are_averaged_and_differenced_in_pairs(tmp_path: Path) -> None:
    experiment = tmp_path / "seeds"
    for seed, shift in ((1, 0.0), (2, 0.3), (3, -0.3)):
        write_run(experiment, "step02", seed, floor=7.0 + shift)
        write_run(experiment, "step03", seed, floor=6.0 + shift + 0.01 * seed)
    stages = stages_of(experiment)
    assert stages.held_out["step03"] == pytest.approx(6.02 + 0.15)
    assert stages.loss_vs_baseline["step03"] == pytest.approx(-0.98)
    # Student's t for three paired differences -0.99, -0.98, -0.97: 4.303 x 0.01 / sqrt(3).
    low = stages.loss_vs_baseline_low["step03"]
    assert low == pytest.approx(-0.98 - 4.3027 * 0.01 / np.sqrt(3), rel=1e-3)


@pytest.mark.parametrize("status", ["failed", "diverged", "running", "interrupted"])
def test_a_stage_that_did_not_finish_is_a_row_that_says_so(tmp_path: Path, status: str) -> None:
    experiment = tmp_path / "partly"
    write_run(experiment, "step02")
    write_run(
        experiment, "step03", status=status, losses=[10.9, 9.0, float("nan")], message="It went so."
    )
    assert status in page_of(experiment)
    assert stages_of(experiment).status["step03"] == status


@pytest.mark.parametrize("only", ["step02", "step07", "my_own_stage"])
def test_one_stage_alone_makes_a_report(tmp_path: Path, only: str) -> None:
    write_run(tmp_path / "one", only)
    assert only in page_of(tmp_path / "one")


def test_other_data_is_shown_apart_and_never_compared(tmp_path: Path) -> None:
    experiment = tmp_path / "mixed"
    write_run(experiment, "step02")
    write_run(experiment, "step03")
    write_run(experiment, "step04", data__sha256="77" * 32, data__name="another text")
    page = page_of(experiment)
    assert "another text" in page
    assert "Shown apart" in page
    assert "step04" not in page.split("Shown apart")[0].split("<table")[1].split("</table")[0]


def test_records_of_format_2_are_read_and_shown_apart(tmp_path: Path) -> None:
    experiment = tmp_path / "older"
    write_run(experiment, "step02")
    write_run(experiment, "step03")
    write_run(experiment, "step02", old=True, code="older", label="seed1-older")
    write_run(experiment, "step04", old=True, code="older", status="failed", message="No text.")
    page = page_of(experiment)
    records = reports.load(experiment)
    assert records.problems == []
    assert len(records.runs) == 4
    assert "2 runs with other training code" in page
    assert "failed: No text." in page


def test_two_experiments_lie_side_by_side(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "step02")
    write_run(tmp_path / "b", "step03")
    page = page_of(tmp_path / "a", tmp_path / "b")
    assert "step02" in page
    assert "step03" in page


@pytest.mark.parametrize(
    "damage", [b"", b"{", b'{"status": "fin', b"[]", b"null", b"\xff\xfe\x00", b'{"stage": 3}']
)
def test_a_damaged_record_is_named_and_the_rest_goes_on(tmp_path: Path, damage: bytes) -> None:
    experiment = tmp_path / "damaged"
    write_run(experiment, "step02")
    bad = write_run(experiment, "step03")
    (bad / "run.json").write_bytes(damage)
    records = reports.load(experiment)
    assert any("step03" in problem for problem in records.problems)
    assert list(records.runs.stage) == ["step02"]
    assert "step02" in page_of(experiment)


@pytest.mark.parametrize("damage", [b"", b"step,loss\n1,", b"\x00\x01\x02", None])
def test_torn_or_missing_steps_lose_no_more_than_themselves(
    tmp_path: Path, damage: bytes | None
) -> None:
    experiment = tmp_path / "torn"
    write_run(experiment, "step02")
    steps = write_run(experiment, "step03", status="running") / "steps.csv"
    whole = steps.read_bytes()
    steps.unlink() if damage is None else steps.write_bytes(damage)
    assert "step03" in page_of(experiment)
    steps.write_bytes(whole[:-9])
    assert len(reports.load(experiment).steps.query("stage == 'step03'")) == 49


@pytest.mark.parametrize("file", ["run.json", "steps.csv", "held_out.csv"])
def test_a_single_flipped_bit_in_a_finished_run_is_noticed(tmp_path: Path, file: str) -> None:
    experiment = tmp_path / "flipped"
    write_run(experiment, "step02")
    path = write_run(experiment, "step03") / file
    content = path.read_bytes()
    for position in range(40, len(content), 97):
        path.write_bytes(
            content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]
        )
        records = reports.load(experiment)
        assert any("step03" in problem for problem in records.problems), position
        table = records.held_out if file == "held_out.csv" else records.steps
        assert table.query("stage == 'step03'").empty


def test_a_run_whose_process_is_gone_is_not_still_running(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    process = {"host": platform.node(), "pid": gone.pid}
    write_run(tmp_path / "left", "step02", status="running", process=process)
    write_run(tmp_path / "left", "step03", status="running")
    runs = reports.load(tmp_path / "left").runs
    assert runs.set_index("stage").status.to_dict() == {
        "step02": "interrupted",
        "step03": "running",
    }


def test_what_a_record_says_is_text_and_never_markup(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    experiment = tmp_path / "evil"
    write_run(experiment, "step02", stage__title=evil, data__name=evil)
    write_run(experiment, "step03", stage__name=evil, command=evil, config__model__name=evil)
    write_run(experiment, "step04", status="failed", message=evil)
    write_run(experiment, "step05", samples=[{"prompt": evil, "seed": 1, "text": evil}])
    write_run(experiment, "step06", not_applied={evil: evil})
    page = page_of(experiment)
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;" in page


def test_the_page_needs_nothing_from_anywhere(ladder: Path) -> None:
    page = page_of(ladder).replace('<link rel="icon" href="data:,">', "")
    for reference in ("<link", 'src="http', "@import", "url(http", 'href="http://'):
        assert reference not in page


def reports_command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "reports", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_the_command_writes_the_report_and_names_the_page(ladder: Path) -> None:
    done = reports_command(str(ladder))
    assert done.returncode == 0, done.stderr
    assert "index.html" in done.stdout
    assert (ladder / "report" / "index.html").exists()


def test_settings_of_the_statistics_follow_the_folder(ladder: Path) -> None:
    assert reports_command(str(ladder), "margin=0.5", "minimum_seeds=3").returncode == 0
    rules = json.loads((ladder / "report" / "report.json").read_text(encoding="utf-8"))["rules"]
    assert (rules["margin"], rules["minimum_seeds"], rules["confidence"]) == (0.5, 3, 0.95)


@pytest.mark.parametrize("setting", ["margin=0", "confidence=2", "margins=1", "margin=wide"])
def test_a_wrong_setting_is_one_sentence(ladder: Path, setting: str) -> None:
    done = reports_command(str(ladder), setting)
    assert done.returncode == 2
    assert setting.partition("=")[0] in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["nobody", "empty"])
def test_a_folder_without_records_is_one_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    done = reports_command(str(tmp_path / name))
    assert done.returncode == 2
    assert name in done.stderr
    assert "Traceback" not in done.stderr


def test_reports_never_import_torch(ladder: Path) -> None:
    write = f"import sys, reports; reports.write_report([{str(ladder)!r}])"
    code = f"{write}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
