"""The answer at the head of the report, settings side by side, and the guide's claims."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

import reports
from reports import tables
from reports.page import build
from reports.report import Report
from reports.summary import show
from reports.verdicts import Tone
from reports.wording import sentences
from tests.reports.conftest import ORDER, RATE, SAY, Lab, names, question


def said_of(report: Report) -> list[str]:
    return sentences(SAY("answer", report))


def test_a_stage_that_helps_on_one_that_harms_is_to_be_tested_without_it(lab: Lab) -> None:
    lab.stages(step02=7.0, step03=7.5, step04=6.5, step05=6.0)
    (found,) = lab.report.answer.untested
    assert (names(found.stages), names(found.below)) == (["step04", "step05"], ["step03"])
    command = "python -m runner -m +stage=step04,step05 'without=[],[step03]' seed=1,2,3,4,5"
    assert found.command == command
    assert any(command in said for said in said_of(lab.report))
    lab.seeds("step04", 6.4, without=["step03"])
    (found,) = lab.report.answer.untested
    assert names(found.stages) == ["step05"]


def test_speed_is_to_be_taken_of_any_stage_at_the_same_or_a_lower_loss(tmp_path: Path) -> None:
    speed = "1.25× the tokens/s (1.25 to 1.25)"
    for name, floor, tone, said in (
        ("kept", 6.0, Tone.good, f"take it, {speed} at the same loss"),
        ("changed", 6.5, Tone.bad, f"leave it out, {speed}; its loss differs by +0.500"),
    ):
        lab = Lab(tmp_path / name).stages(step04=6.9, step06=floor)
        lab.seeds("step05", 6.0, step_ms=500)
        assert lab.stage("step05")[2].endswith("; 1.90× the tokens/s (1.90 to 1.90)")
        _, verdict, line = lab.stage("step06")
        assert verdict.tone is tone
        assert line.startswith(said)


def test_every_branch_of_the_ladder_has_a_sentence_on_the_whole(lab: Lab) -> None:
    lab.stages(step02=None, step03=None, step04=None)
    lab.seeds("mine", parent="step03")
    report = lab.report
    assert names(report.answer.tops) == ["step04", "mine"]
    together = [said for said in said_of(report) if said.startswith("Together")]
    for said, name, loss in zip(together, ("step04", "mine"), ("6.300", "6.150"), strict=True):
        assert said.startswith(f"Together, from the baseline to {name}: 7.550 to {loss} held-out")


def test_the_lowest_loss_of_all_is_named_where_later_stages_lost_it(lab: Lab) -> None:
    lab.stages([1], step02=7.0, step03=6.0, step04=6.5)
    assert lab.report.answer.lowest.name == "step03"
    lab.run("step04", floor=6.0)
    assert lab.report.answer.lowest is None


def test_a_sweep_over_settings_is_answered_without_a_ladder(lab: Lab) -> None:
    for rate, floor in ((0.0001, 7.0), (0.001, 6.0)):
        lab.seeds("step05", floor, (1, 2, 3), typed={RATE: rate})
    lab.run("step05", status="diverged", typed={RATE: 9.0}, at=40)
    report = lab.report
    (sweep,) = report.answer.sweeps
    assert report.alternatives == [sweep]
    assert [row.differs for row in sweep.rows] == [{RATE: 0.0001}, {RATE: 0.001}, {RATE: 9.0}]
    ends = [dict(row.found.arm.statuses) for row in sweep.rows]
    assert ends == [{"finished": 3}, {"finished": 3}, {"diverged": 1}]
    assert sweep.lowest is sweep.rows[1]
    assert (sweep.rows[0].more.value, sweep.rows[0].more.n) == (pytest.approx(1), 3)
    assert report.main.stages[0].arm.finished, "a diverged run displaces no finished one"
    assert report.apart == []
    assert said_of(report)[0].startswith(
        "Residual stream (step05) has its lowest held-out loss, 6.170, with "
        f"{RATE}=0.001 (3 seeds): {RATE}=0.0001 is +1.000 (+1.000 to +1.000) from it over 3 seeds"
    )
    said = io.StringIO()
    show(report, lab.path, Console(file=said, width=150))
    table = said.getvalue().partition("\n\n")[0]
    assert [f"{RATE}={rate}" in table for rate in ("0.0001", "0.001", "9")] == [True] * 3
    assert "figures/settings-step05.svg" in build(report)
    (more,) = tables.ladder(report, {}, SAY).more
    assert "step04 was never run; train it with" in more["Verdict"][0], "there is no line for it"


def test_experiments_are_side_by_side_and_each_keeps_its_own_report(tmp_path: Path) -> None:
    one, two = Lab(tmp_path / "one"), Lab(tmp_path / "two")
    one.seeds("step02", 7.0, (1, 2))
    two.seeds("step02", 6.5, (1, 2))
    own = reports.write_report([one.path])
    before = own.read_bytes()
    assert reports.write_report([one.path, two.path]) == tmp_path / "one-and-two" / "index.html"
    assert own.read_bytes() == before
    report = Report([one.path, two.path])
    assert "the report has the experiments side by side" in said_of(report)[0]
    (stage,) = report.alternatives
    assert [row.differs for row in stage.rows] == [{"experiment": "one"}, {"experiment": "two"}]
    assert [len(row.found.arm.finished) for row in stage.rows] == [2, 2]
    assert stage.rows[0].more.value == pytest.approx(0.5, abs=0.01)


def test_losses_on_other_text_are_shown_and_not_compared(tmp_path: Path) -> None:
    one, two = Lab(tmp_path / "one"), Lab(tmp_path / "two")
    one.run(floor=7.0)
    two.run(floor=6.5, data__sha256="00" * 32)
    report = Report([one.path, two.path])
    (stage,) = report.alternatives
    assert [row.more for row in stage.rows] == [None, None]
    assert stage.rows[1].differs == {"experiment": "two", "text": "00000000"}
    assert report.answer.sweeps == [], "neither is the lowest"


def claimed(lab: Lab) -> dict[str, str]:
    """What the report says of the guide's speed-ups, by what is compared."""
    return {each.what: SAY("claimed", each) for each in lab.report.comparisons if each.claimed}


def test_a_claim_of_the_guide_stands_beside_what_was_measured_for_its_change_alone(
    tmp_path: Path,
) -> None:
    seeds, pad, inside = (Lab(tmp_path / name) for name in ("seeds", "pad", "inside"))
    seeds.stages(**dict.fromkeys(ORDER[4:7]))
    assert claimed(seeds) == {"step07": "1.35×; here 1.21× the tokens/s (1.21 to 1.21)"}, (
        "step06 changes more than the claim is about"
    )
    for repeat in range(2, 7):
        step_ms = 440 * (1 + 0.01 * (repeat - 4))
        pad.run("step06", repeat=repeat, step_ms=400)
        for at, entry in ((7, "step06:model.pad_vocab"), (8, "step04")):
            pad.run("step06", without=[entry], repeat=repeat, step_ms=step_ms, at=at)
    assert claimed(pad) == {
        "step06 without step06:model.pad_vocab": "0.77×; here 0.91× the tokens/s (0.89 to 0.93)"
    }
    (plan,) = pad.report.plans
    speeds = [row[5] for row in tables.rows(plan.rows, SAY, plan).rows]
    assert sorted(speed.notes[1:] for speed in speeds) == [[], ["guide: 0.77×"]]
    for added in ([], ["step06:model.pad_vocab"]):
        inside.run("step09", without=["step06"], plus=added)
    other, asked = "python -m runner +stage=step02", question("step09", without=["step07"])
    elsewhere = replace(asked, reference_command=other)
    inside.run("step09", without=["step07"], asked=[elsewhere])
    (said,) = claimed(inside).values()
    assert said.startswith("1.30×"), "step09 less step07 is not against step09"
