"""What the report says of stages beyond the guide, beside its ladder and alone."""

from itertools import combinations

import pytest

from reports.page import build
from reports.verdicts import Kind
from reports.wording import sentences
from reports.worth import Way
from tests.reports.conftest import FIVE, ORDER, SAY, Lab, names

BEYOND = {"rotary": 5.8, "muon": 5.3, "dropout": 6.4, "together": 5.1}


def test_stages_beyond_the_guide_change_no_verdict_on_it_and_follow_it(lab: Lab) -> None:
    lab.stages(**dict.fromkeys(ORDER[1:]))
    before = lab.report
    lab.stages(**BEYOND)
    report = lab.report
    assert names(report.main.stages) == [*ORDER[1:], *sorted(BEYOND)]
    assert {name: report.verdicts[name] for name in before.verdicts} == before.verdicts
    assert names(report.answer.tops) == names(before.answer.tops) == ["step10"]
    said = SAY("answer", report)
    assert "from the baseline to step10" in said
    assert "from the baseline to muon" not in said
    assert "The lowest held-out loss is that of All beyond the guide (together), 5.280." in said


def test_alone_they_are_compared_with_the_stage_that_they_are_built_on(lab: Lab) -> None:
    lab.stages(step09=6.0, **BEYOND)
    report = lab.report
    kinds = {name: verdict.kind for name, verdict in report.verdicts.items()}
    assert kinds == {"step09": Kind.baseline, **dict.fromkeys(BEYOND, Kind.tested)}
    assert lab.stage("step09")[2] == "reference, 6.180 held-out loss"
    assert lab.stage("muon")[2].startswith("take it, −0.700 (")
    assert lab.stage("dropout")[2].startswith("leave it out, +0.400 (")
    page = build(report)["report.md"].decode()
    assert "No baseline" not in page
    assert "Signed numbers are the change of the held-out loss" in page
    assert "9 AdamW groups and schedule" in page
    assert "11 " not in SAY("answer", report)


def test_a_factorial_beyond_the_guide_says_what_each_is_worth(lab: Lab) -> None:
    alone = {"rotary": -0.2, "relu2": 0.1, "muon": -0.5}
    sets = [each for n in range(len(alone) + 1) for each in combinations(alone, n)]
    for seed in FIVE:
        for plus in sets:
            floor = 6 + 0.01 * seed + sum(alone[step] for step in plus)
            lab.run("step09", seed, plus=plus, plan="beyond_factorial", floor=floor)
    report = lab.report
    assert report.worth is None
    assert report.beyond
    assert (report.beyond.base, report.beyond.factorial) == ("step09", sorted(alone))
    for step in report.beyond.steps:
        assert step.ways[Way.average].value == pytest.approx(alone[step.stage.name])
        assert step.ways[Way.alone].value == pytest.approx(alone[step.stage.name])
    assert "over all 6 orders of 3 steps" in SAY("worths", report.beyond)
    files = build(report)
    assert "## What each step beyond the guide is worth" in files["report.md"].decode()
    assert {"figures/beyond.svg", "figures/beyond-interactions.svg"} <= files.keys()
    assert "Alone: added to step09." in sentences(SAY("beyond", report))[0]


def test_what_one_stage_beyond_the_guide_lacks_is_said(lab: Lab) -> None:
    lab.seeds("muon", 5.3)
    assert "step09 was never run; train it with" in lab.stage("muon")[2]
    assert SAY("answer", lab.report) == "Muon (muon) ended at 5.480 held-out loss."
    lab.seeds("step02", 7.4)
    said = SAY("answer", lab.report)
    assert "No later stage" not in said
    assert "The lowest held-out loss is that of Muon (muon), 5.480." in said


def test_one_with_fewer_seeds_silences_nothing_about_the_others(lab: Lab) -> None:
    lab.stages(step02=7.4, step08=5.5, step09=5.9)
    lab.seeds("muon", 5.0, seeds=(1, 2, 3))
    said = SAY("answer", lab.report)
    assert "The lowest held-out loss is that of Gradient clipping (step08)" in said


def test_only_without_a_baseline_is_another_stage_the_reference(lab: Lab) -> None:
    lab.stages(step05=6.0, step06=6.0)
    assert lab.report.verdicts["step05"].kind is Kind.baseline
    lab.stages(step02=7.4)
    assert lab.report.verdicts["step05"].kind is Kind.no_reference


def test_a_set_on_another_stage_takes_nothing_from_a_factorial(lab: Lab) -> None:
    for seed in FIVE:
        for plus in ((), ("rotary",), ("muon",), ("rotary", "muon")):
            lab.run("step09", seed, plus=plus, floor=6.0 + 0.01 * seed)
        for plus in ((), ("rotary",)):
            lab.run("step02", seed, plus=plus, floor=7.0 + 0.01 * seed)
    found = lab.report.beyond
    assert found
    assert (found.base, found.factorial) == ("step09", ["muon", "rotary"])
