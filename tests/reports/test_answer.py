"""The answer at the head of the report, settings side by side, and the guide's claims."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

import reports
from reports import tables
from reports.answer import Answer
from reports.formats import code
from reports.report import Report
from reports.rules import read_rules
from reports.verdicts import Tone
from reports.wording import sentences, words
from tests.reports.conftest import FIVE, ORDER, RATE, question, write_run, write_stages

SAY = words(read_rules())


def answer_of(experiment: Path) -> Answer:
    return Report([experiment]).answer


def said_of(*experiments: Path) -> list[str]:
    return sentences(SAY("answer", Report(experiments)))


def test_a_stage_that_helps_on_one_that_harms_is_to_be_tested_without_it(tmp_path: Path) -> None:
    experiment = write_stages(tmp_path / "u", step02=7.0, step03=7.5, step04=6.5, step05=6.0)
    (found,) = answer_of(experiment).untested
    assert [stage.name for stage in found.stages] == ["step04", "step05"]
    assert [stage.name for stage in found.below] == ["step03"]
    command = "python -m runner -m +stage=step04,step05 'without=[],[step03]' seed=1,2,3,4,5"
    assert found.command == command
    assert any(command in said for said in said_of(experiment))
    for seed in FIVE:
        write_run(experiment, "step04", seed, without=["step03"], floor=6.4 + 0.01 * seed)
    (found,) = answer_of(experiment).untested
    assert [stage.name for stage in found.stages] == ["step05"]


def test_speed_is_to_be_taken_of_any_stage_at_the_same_or_a_lower_loss(tmp_path: Path) -> None:
    for name, floor in (("kept", 6.0), ("changed", 6.5)):
        write_stages(tmp_path / name, step04=6.9, step06=floor)
        for seed in FIVE:
            write_run(tmp_path / name, "step05", seed, floor=6.0 + 0.01 * seed, step_ms=500)
    kept, changed = (Report([tmp_path / name]) for name in ("kept", "changed"))
    assert [stage.name for stage in kept.answer.advice["lower"]] == ["step05"]
    assert [stage.name for stage in kept.answer.advice["faster"]] == ["step05", "step06"]
    assert [stage.name for stage in changed.answer.advice["faster"]] == ["step05"]
    assert [stage.name for stage in changed.answer.advice["costly"]] == ["step06"]
    assert (kept.verdicts["step06"].tone, changed.verdicts["step06"].tone) == (Tone.good, Tone.bad)


def test_every_branch_of_the_ladder_has_a_sentence_on_the_whole(tmp_path: Path) -> None:
    write_stages(tmp_path / "branches", step02=None, step03=None, step04=None)
    for seed in FIVE:
        write_run(tmp_path / "branches", "mine", seed, parent="step03", floor=6.0)
    assert [top.name for top in answer_of(tmp_path / "branches").tops] == ["step04", "mine"]
    together = [said for said in said_of(tmp_path / "branches") if said.startswith("Together")]
    for said, name, loss in zip(together, ("step04", "mine"), ("6.300", "6.150"), strict=True):
        assert said.startswith(f"Together, from the baseline to {name}: 7.550 to {loss} held-out")


def test_the_lowest_loss_of_all_is_named_where_later_stages_lost_it(tmp_path: Path) -> None:
    experiment = write_stages(tmp_path / "lost", [1], step02=7.0, step03=6.0, step04=6.5)
    lowest = answer_of(experiment).lowest
    assert lowest is not None
    assert lowest.name == "step03"
    write_run(experiment, "step04", floor=6.0)
    assert answer_of(experiment).lowest is None


def test_without_a_baseline_the_answer_says_how_to_get_one(tmp_path: Path) -> None:
    write_run(tmp_path / "none", "step07")
    said = " ".join(said_of(tmp_path / "none"))
    assert "No baseline has finished" in said
    assert f"train one with {code('python -m runner +stage=step02 seed=1')}" in said


def test_a_sweep_over_settings_is_answered_without_a_ladder(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        for rate, floor in ((0.0001, 7.0), (0.001, 6.0 + 0.001 * seed)):
            write_run(tmp_path / "sweep", "step05", seed, floor=floor, typed={RATE: rate})
    write_run(tmp_path / "sweep", "step05", status="diverged", typed={RATE: 9.0}, at=40)
    report = Report([tmp_path / "sweep"])
    (sweep,) = report.answer.sweeps
    assert report.alternatives == [sweep]
    assert [(row.differs, dict(row.found.arm.statuses)) for row in sweep.rows] == [
        ({RATE: 0.0001}, {"finished": 3}), ({RATE: 0.001}, {"finished": 3}),
        ({RATE: 9.0}, {"diverged": 1}),
    ]  # fmt: skip
    assert sweep.lowest is sweep.rows[1]
    more = sweep.rows[0].more
    assert more is not None
    assert (more.value, more.n) == (pytest.approx(0.998), 3)
    assert report.main.stages[0].arm.finished, "a diverged run displaces no finished one"
    assert report.apart == []
    assert said_of(tmp_path / "sweep")[0].startswith(
        "Residual stream (step05) has its lowest held-out loss, 6.152, with "
        f"{RATE}=0.001 (3 seeds): {RATE}=0.0001 is +0.998 (+0.996 to +1.000) from it over 3 seeds"
    )
    said = io.StringIO()
    page = reports.write_report([tmp_path / "sweep"], console=Console(file=said, width=150))
    table = said.getvalue().partition("\n\n")[0]
    assert [f"{RATE}={rate}" in table for rate in ("0.0001", "0.001", "9")] == [True] * 3
    assert (page.parent / "figures" / "settings-step05.svg").exists()


def test_experiments_are_side_by_side_and_each_keeps_its_own_report(tmp_path: Path) -> None:
    one = write_stages(tmp_path / "one", (1, 2), step02=7.0)
    two = write_stages(tmp_path / "two", (1, 2), step02=6.5)
    own = reports.write_report([one])
    before = own.read_bytes()
    assert reports.write_report([one, two]) == tmp_path / "one-and-two" / "index.html"
    assert own.read_bytes() == before
    page = reports.write_report([one, two], output=tmp_path / "elsewhere")
    assert page == tmp_path / "elsewhere" / "index.html"
    assert "the report has the experiments side by side" in page.read_text("utf-8")
    (stage,) = Report([one, two]).alternatives
    assert [(row.differs, len(row.found.arm.finished)) for row in stage.rows] == [
        ({"experiment": "one"}, 2), ({"experiment": "two"}, 2),
    ]  # fmt: skip
    assert stage.rows[0].more is not None
    assert stage.rows[0].more.value == pytest.approx(0.5, abs=0.01)


def test_losses_on_other_text_are_shown_and_not_compared(tmp_path: Path) -> None:
    write_run(tmp_path / "one", floor=7.0)
    write_run(tmp_path / "two", floor=6.5, data__sha256="00" * 32)
    report = Report([tmp_path / "one", tmp_path / "two"])
    (stage,) = report.alternatives
    assert [row.more for row in stage.rows] == [None, None]
    assert stage.rows[1].differs == {"experiment": "two", "text": "00000000"}
    assert report.answer.sweeps == [], "neither is the lowest"


def claimed(experiment: Path) -> dict[str, str]:
    """What the report says of the guide's speed-ups, by what is compared."""
    found = Report([experiment]).comparisons
    return {each.what: SAY("claimed", each) for each in found if each.claimed}


def test_a_claim_of_the_guide_stands_beside_what_was_measured_for_its_change_alone(
    tmp_path: Path,
) -> None:
    write_stages(tmp_path / "seeds", **dict.fromkeys(ORDER))
    assert claimed(tmp_path / "seeds") == {
        "step07": "the guide claims 1.35×, here 1.21× (1.21 to 1.21)"
    }, "step06 changes more than the claim is about"
    for repeat in range(2, 7):
        step_ms = 440 * (1 + 0.01 * (repeat - 4))
        write_run(tmp_path / "pad", "step06", repeat=repeat, step_ms=400)
        for at, entry in ((7, "step06:model.pad_vocab"), (8, "step04")):
            run = {"repeat": repeat, "step_ms": step_ms, "at": at}
            write_run(tmp_path / "pad", "step06", without=[entry], **run)
    assert claimed(tmp_path / "pad") == {
        "step06 without step06:model.pad_vocab": "the guide claims 0.77×, here 0.91× (0.89 to 0.93)"
    }
    (plan,) = Report([tmp_path / "pad"]).plans
    speeds = [row[5] for row in tables.rows(plan.rows, SAY, plan).rows]
    assert sorted(speed.notes[1:] for speed in speeds) == [[], ["guide: 0.77×"]]
    for added in ([], ["step06:model.pad_vocab"]):
        write_run(tmp_path / "inside", "step09", without=["step06"], plus=added)
    elsewhere = replace(
        question("step09", without=["step07"]), reference_command="python -m runner +stage=step02"
    )
    write_run(tmp_path / "inside", "step09", without=["step07"], asked=[elsewhere])
    (said,) = claimed(tmp_path / "inside").values()
    assert said.startswith("the guide claims 1.30×"), "step09 less step07 is not against step09"
