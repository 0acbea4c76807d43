"""Logs of other scripts: every format, the published numbers, and what may be wrong with a file."""

from __future__ import annotations

import gzip
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import reports
from conf.errors import UsageError
from reports import __main__ as command
from reports.rules import read_rules_of_logs
from reports.statistics import (
    Estimate,
    Sample,
    difference_of_means,
    seeds_to_decide,
    t_test_power,
)
from reports.verdicts import Outcome, decide
from tests.conftest import ROOT
from tests.reports.conftest import Lab

PUBLIC = ROOT / "docs" / "logs"
# The losses at the end of an earlier record's 14 runs, of which p 0.0059 was published.
SPARSE_GATE = [
    3.2772, 3.2767, 3.2802, 3.2760, 3.2795, 3.2774, 3.2796,
    3.2786, 3.2782, 3.2784, 3.2800, 3.2810, 3.2815, 3.2777,
]  # fmt: skip
# A log of each format: two steps, the second with the last held-out loss, 3.25, or 1.25 bits/byte.
SPEEDRUN = (
    "import torch\nprint0(f'step:{step}/{train_steps} val_loss:{val_loss:.4f}')\n"
    "step:0/2 val_loss:10.8308 train_time:0ms step_avg:nanms\n"
    "step:1/2 train_time:91ms step_avg:91.41ms\n"
    "step:2/2 val_loss:3.2500 train_time:1500ms step_avg:750.00ms unknown:7\n"
)
GOLF = (
    "seed:1337\nstep:1/20000 train_loss:6.9357 train_time:600ms step_avg:600.00ms\n"
    "step:2/20000 val_loss:3.1000 val_bpb:1.9000 train_time:1.5s step_avg:750.00ms\n"
    "stopping_early: wallclock_cap train_time:1500ms step:2/20000\n"
    "final_int8_zlib_roundtrip val_loss:3.2500 val_bpb:1.2500 eval_time:1425ms\n"
    "final_int8_zlib_roundtrip_exact val_loss:3.25000000 val_bpb:1.25000000\n"
)
LLMC = "s:0 tel:11.0092\ns:1 trl:10.9598 lr:0.000002 norm:15.24\ns:2 tel:3.2500\ns:2 eval:0.2914\n"
VIDEO = (
    "validation loss: 10.9500\nHellaSwag accuracy: 2463/10042=0.2453\n"
    "step     1 | loss: 9.500000 | lr 1.0e-04 | norm: 1.2 | dt: 500.00ms | tok/sec: 3000.00\n"
    "validation loss: 3.2500\n"
    "step     2 | loss: 3.300000 | lr 1.0e-04 | norm: 1.2 | dt: 1000.00ms | tok/sec: 3000.00\n"
)
VIDEO_LOG = "1 val 10.9500\n1 hella 0.2463\n1 train 9.500000\n2 val 3.2500\n2 train 3.300000\n"
NANOGPT = (
    "step 0: train loss 10.9, val loss 10.95\niter 1: loss 9.5000, time 500.00ms, mfu 16.68%\n"
    "iter 2: loss 3.3000, time 1000.00ms, mfu 16.68%\nstep 2: train loss 3.2, val loss 3.25\n"
)
NANOCHAT = (
    "Step 00000 | Validation bpb: 3.2282\n"
    "step 00001/00002 (50.00%) | loss: 9.5 | lrm: 1.0 | dt: 1500.00ms | tok/sec: 11,405 | x: 1\n"
    "Step 00002 | Validation bpb: 1.250000\n"
)
LITGPT = (
    "Epoch 1 | iter 1 step 1 | loss train: 9.500, val: n/a | iter time: 500.00 ms (step) rem: 1\n"
    "Epoch 1 | iter 2 step 2 | loss train: 3.300, val: n/a | iter time: 1000.00 ms (step) rem: 0\n"
    "iter 2: val loss 3.2400, val time: 123.00 ms\nFinal evaluation | val loss: 3.250 | ppl: 25\n"
)
TITAN = (
    "\x1b[32m[titan] 2025-01-01 12:00:00,000 - root - INFO - \x1b[31mstep:  1  \x1b[32mloss:  "
    "9.5000  \x1b[38;2;180;60;0mgrad_norm:  1.5  \x1b[34mtps: 5,000\x1b[39m\n"
    "[titan] 2025-01-01 - root - INFO - \x1b[33mvalidate step:  2  \x1b[32mloss:  3.2500  tps: 1\n"
)
GUIDE = (
    "step 0, loss: 9.5, norm: 27.9385, dt: 500.00ms\nstep 1, loss: 3.25, norm: 4.1, dt: 1000.00ms\n"
)
STATE = json.dumps({
    "max_steps": 2, "global_step": 2, "log_history": [
        {"step": 1, "loss": 9.5, "grad_norm": 1.0, "learning_rate": 1e-4, "epoch": 0.5},
        {"step": 2, "eval_loss": 3.25, "eval_runtime": 1.0, "epoch": 1.0},
        {"step": 2, "train_loss": 6.1, "train_runtime": 1.5, "total_flos": 1e15},
    ],
})  # fmt: skip
LIGHTNING = "epoch,step,train_loss_step,val_loss\n0,1,9.5,\n0,2,,3.25\n"
CHART = (
    '"Step","a - val/loss","a - val/loss__MIN","a - val/loss__MAX"\n1,9.5,9.5,9.5\n2,3.25,3.25,4\n'
)
HISTORY = (
    '{"_step": 1, "_runtime": 0.5, "train/loss": 9.5}\n'
    '{"_step": 2, "_runtime": 1.5, "train/loss": 3.3, "val/loss": 3.25, "samples": {"a": [1]}}\n'
)
FORMATS = {
    "guide": ("log.txt", GUIDE, 1.5), "speedrun": ("a.txt", SPEEDRUN, 1.5),
    "llm.c": ("main.log", LLMC, math.nan), "golf": ("train.log", GOLF, 1.5),
    "build-nanogpt": ("out", VIDEO, 1.5), "build-nanogpt-log": ("log.txt", VIDEO_LOG, math.nan),
    "nanogpt": ("a.txt", NANOGPT, 1.5), "nanochat": ("a.txt", NANOCHAT, 1.5),
    "litgpt": ("a.txt", LITGPT, 1.5), "torchtitan": ("a.txt", TITAN, math.nan),
    "hugging face": ("trainer_state.json", STATE, 1.5), "chart": ("a.csv", CHART, math.nan),
    "lightning": ("metrics.csv", LIGHTNING, math.nan), "history": ("a.jsonl", HISTORY, 1.5),
}  # fmt: skip


def write(folder: Path, losses: list[float], log: str = SPEEDRUN) -> Path:
    """A folder with a log for each loss at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, loss in enumerate(losses):
        (folder / f"{i}.txt").write_text(log.replace("3.2500", f"{loss:.4f}"), "utf-8")
    return folder


def one(path: Path, **options: Any) -> dict[str, Any]:
    """The only arm's row."""
    (row,) = reports.compare({"a": path}, **options).to_dict("records")
    return {str(name): value for name, value in row.items()}


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_found_by_itself(name: str, tmp_path: Path) -> None:
    file, text, seconds = FORMATS[name]
    (tmp_path / file).write_text(text, "utf-8", newline="")
    found = one(tmp_path)
    assert found["runs"] == 1
    assert found["lost"] == 0
    assert found["loss_value"] == (1.25 if name == "nanochat" else 3.25)
    measure = {"nanochat": "bits_per_byte", "guide": "loss"}.get(name, "held_out")
    assert found["measure"] == measure
    assert found.get("seconds_value", math.nan) == pytest.approx(seconds, nan_ok=True)


@pytest.mark.parametrize("name", FORMATS)
def test_however_a_file_is_packed_the_numbers_are_the_same(name: str, tmp_path: Path) -> None:
    file, text, _ = FORMATS[name]
    noise = "" if file.endswith(("json", "csv", "jsonl")) else "x = 1  # step\n" * 9000
    for kind in ("plain", "crlf", "gzip", "utf-16"):
        (tmp_path / kind).mkdir()
        lines = (noise + text).replace("\n", "\r\n") if kind == "crlf" else noise + text
        content = lines.encode("utf-16" if kind == "utf-16" else "utf-8")
        to = tmp_path / kind / f"{file}{'.gz' if kind == 'gzip' else ''}"
        to.write_bytes(gzip.compress(content) if kind == "gzip" else content)
    found = reports.compare({each.name: each for each in sorted(tmp_path.iterdir())})
    assert found["loss_value"].nunique() == 1
    assert found["runs"].tolist() == [1] * 4
    assert found.attrs["problems"] == []


def test_the_published_numbers_of_the_speed_run_come_out(tmp_path: Path) -> None:
    arms = {name: PUBLIC / name for name in ("baseline", "unified")}
    base, unified = reports.compare(arms, target=3.28).to_dict("records")
    for row, *published in (
        (base, 3.2783, 0.0008, 0.0003, 105.5361, 0.0923, 1775),
        (unified, 3.2782, 0.0015, 0.0060, 104.4579, 0.1430, 1765),
    ):
        names = ("loss_value", "loss_deviation", "p_target", "seconds_value", "seconds_deviation")
        digits = [round(row[name], 4) for name in names]
        assert [*digits, row["most_steps"]] == published
    assert (base["passed"], unified["passed"]) == (8, 7)
    assert round(unified["loss_difference_value"], 4) == -0.0001
    ends = [round(unified[f"loss_difference_{end}"], 4) for end in ("low", "high")]
    assert ends == [-0.0014, 0.0012]
    assert round(unified["loss_difference_p"], 2) == 0.87
    assert unified["seconds_difference_value"] == pytest.approx(-1.0782, abs=1e-4)
    ends = [round(unified[f"seconds_difference_{end}"], 2) for end in ("low", "high")]
    assert ends == [-1.21, -0.95]
    assert (unified["outcome"], unified["reason"]) == ("inconclusive", "spread")
    earlier = write(tmp_path / "sparse-gate", SPARSE_GATE)
    assert round(one(earlier, target=3.28)["p_target"], 4) == 0.0059


def test_the_statistics_are_those_of_scipy(tmp_path: Path) -> None:
    draws = np.random.default_rng(1)
    before, after, third = (draws.normal(mean, 0.02, n).round(4) for mean, n in
                            ((3.3, 6), (3.25, 4), (3.3, 5)))  # fmt: skip
    arms = {
        name: write(tmp_path / name, values.tolist())
        for name, values in (("a", before), ("b", after), ("c", third))
    }
    found = reports.compare(arms, target=3.27, improvement=0.01, margin=0.1).set_index("arm")
    for name, values in (("b", after), ("c", third)):
        test = stats.ttest_ind(values, before, equal_var=False)
        low, high = test.confidence_interval(0.95)
        row = found.loc[name]
        assert row["loss_difference_value"] == pytest.approx(values.mean() - before.mean())
        assert [row["loss_difference_low"], row["loss_difference_high"]] == pytest.approx(
            [low, high]
        )
        better = stats.ttest_ind(values, before - 0.01, equal_var=False, alternative="less")
        assert row["p_improvement"] == pytest.approx(better.pvalue)
        below = stats.ttest_1samp(values, 3.27, alternative="less")
        assert row["p_target"] == pytest.approx(below.pvalue)
    raw = [stats.ttest_ind(v, before, equal_var=False).pvalue for v in (after, third)]
    holm = [min(1, 2 * min(raw)), max(2 * min(raw), max(raw))]
    assert sorted(found["loss_difference_p"].dropna()) == pytest.approx(holm)
    outcomes = found["outcome"].tolist()
    assert outcomes[1:] == ["equivalent", "equivalent"], "within a margin of 0.1"
    plain = reports.compare(arms)["outcome"].tolist()
    assert plain[1:] == ["lower", "inconclusive"], "no margin, no equivalence"


@pytest.mark.parametrize(
    ("runs", "scatter", "most"), [((3, 3), 1, 0.05), ((8, 8), 3, 0.065), ((8, 3), 3, 0.08)]
)
def test_arms_without_a_difference_are_seldom_called_lower_or_higher(
    runs: tuple[int, int], scatter: float, most: float
) -> None:
    rules, draws, errors = read_rules_of_logs(), np.random.default_rng(3), 0
    for _ in range(2000):
        before, after = draws.normal(0, 1, runs[0]), draws.normal(0, scatter, runs[1])
        found = difference_of_means(before, after, rules)
        errors += decide(found, (False, False), rules)[0] in (Outcome.lower, Outcome.higher)
    assert 0.01 < errors / 2000 < most


def test_the_runs_that_would_decide_have_the_power_that_is_said() -> None:
    draws, effect, n = np.random.default_rng(2), 1.0, 12
    before, after = (draws.normal(mean, 1, (4000, n)) for mean in (effect, 0))
    hits = np.mean(stats.ttest_ind(after, before, axis=1, equal_var=False).pvalue < 0.05)
    said = t_test_power(effect / math.sqrt(2), n, 0.05, 2, samples=2)
    assert said == pytest.approx(hits, abs=0.02)
    found = Estimate(0.5, n=3, over=Sample.runs, deviation=math.sqrt(2))
    needed = seeds_to_decide(found, 1, read_rules_of_logs())
    assert needed
    power = [stats.ttest_ind(*draws.normal([[[0.5]], [[0]]], 1, (2, 4000, n)), axis=1).pvalue < 0.05
             for n in (needed, needed - 5)]  # fmt: skip
    assert np.mean(power[0]) > 0.78
    assert np.mean(power[1]) < 0.8


def test_pairs_are_by_the_seed_of_the_file_or_of_the_log(tmp_path: Path) -> None:
    for arm, shift in (("a", 0.0), ("b", -0.01)):
        (tmp_path / arm).mkdir()
        for seed, loss in ((1, 3.1), (2, 3.5), (3, 3.3)):
            log = SPEEDRUN.replace("3.2500", f"{loss + shift + seed / 1e4:.4f}")
            name = f"run_seed{seed}.txt" if arm == "a" else f"{9 - seed}.txt"
            (tmp_path / arm / name).write_text(f"seed: {seed}\n{log}", "utf-8")
    arms = {arm: tmp_path / arm for arm in ("a", "b")}
    apart, paired = (reports.compare(arms, paired=each).loc[1] for each in (False, True))
    assert paired["loss_difference_value"] == pytest.approx(apart["loss_difference_value"])
    assert (apart["outcome"], paired["outcome"]) == ("inconclusive", "lower")
    (tmp_path / "b" / "6.txt").write_text(SPEEDRUN, "utf-8")
    with pytest.raises(UsageError, match=r"6\.txt has no seed to be paired by"):
        reports.compare(arms, paired=True)


def test_a_score_of_a_final_line_in_bits_and_by_an_own_expression(tmp_path: Path) -> None:
    golf = write(tmp_path / "golf", [3.25, 3.26, 3.27], GOLF)
    found = one(golf, improvement=0.005)
    assert (found["runs"], found["loss_value"]) == (3, pytest.approx(3.26))
    assert one(golf, score=r"_exact .*val_bpb:(\S+)")["loss_value"] == 1.25
    in_bits = one(golf, score="bits_per_byte")
    assert (in_bits["measure"], in_bits["loss_value"]) == ("bits_per_byte", 1.25)
    with pytest.raises(UsageError, match="no kind of loss in common"):
        one(golf, score=r"nothing:(\S+)")
    arms = {"golf": golf, "chat": tmp_path / "chat"}
    write(arms["chat"], [1.25], NANOCHAT)
    both = reports.compare(arms)
    assert both["measure"].unique().tolist() == ["bits_per_byte"]
    (said,) = both.attrs["problems"]
    assert said.startswith("Only golf has a final line; the others are scored by a last evaluation")
    (golf / "0.txt").write_text(GOLF.partition("final")[0], "utf-8")
    assert one(golf)["lost"] == 1, "it was ended before its final line"


def test_records_of_ours_are_compared_by_seed_as_in_their_report(lab: Lab, tmp_path: Path) -> None:
    for stage in ("step02", "step03"):
        for seed in (1, 2, 3, 4, 5):
            lab.run(stage, seed, every=10, floor=7.0 if seed < 5 else 6.9)
    lab.run("step03", 6, status="interrupted", losses=[9.0] * 7)
    arms = {stage: lab.path / stage for stage in ("step02", "step03")}
    found = reports.compare(arms, output=tmp_path / "report")
    ours = reports.stages(lab.path, columns="all").set_index("stage").loc["step03"]
    row = found.loc[1]
    assert row["paired"]
    assert row["loss_value"] == pytest.approx(ours["held_out"])
    for end in ("value", "low", "high"):
        assert row[f"loss_difference_{end}"] == pytest.approx(ours[f"reference_loss_{end}"])
    assert found["lost"].tolist() == [0, 1]
    assert found.attrs["problems"] == []
    with pytest.raises(UsageError, match=r"holds several stages; give one, such as .*step02"):
        reports.compare({"a": lab.path})
    (tmp_path / "b").mkdir()
    for seed in (1, 2, 3):
        (tmp_path / "b" / f"seed{seed}.txt").write_text(SPEEDRUN.replace("3.25", f"7.0{seed}"))
    beside = reports.compare({"a": lab.path / "step02", "b": tmp_path / "b"})
    assert not beside["paired"].any(), "another script shares no draws with ours"


def test_a_run_in_several_files_counts_once(tmp_path: Path) -> None:
    for i, loss in enumerate((3.1, 3.2)):
        folder = tmp_path / str(i)
        folder.mkdir()
        (folder / "metrics.csv").write_text(LIGHTNING.replace("3.25", str(loss)))
        (folder / "stdout.log").write_text(LLMC.replace("3.25", str(loss)))
    found = reports.compare({"a": tmp_path})
    assert (found.loc[0, "runs"], found.loc[0, "loss_value"]) == (2, pytest.approx(3.15))
    said = "a: those of the logs are left out beside those of the tables"
    assert found.attrs["problems"][0].startswith(said)
    for i in range(3, 6):
        (tmp_path / f"{i}.log").write_text(LLMC.replace("3.25", f"3.{i}"))
    found = reports.compare({"a": tmp_path})
    assert found.loc[0, "runs"] == 5, "a few tables beside more logs are no runs"
    assert found.attrs["problems"][0].startswith("a: those of the tables are left out")


def test_an_unfinished_run_is_shown_and_in_no_mean(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", [3.1, 3.2, 3.3])
    (folder / "cut.txt").write_text(SPEEDRUN.partition("step:2/2")[0], "utf-8")
    found = one(folder, output=tmp_path / "report")
    assert (found["runs"], found["lost"], found["loss_value"]) == (3, 1, pytest.approx(3.2))
    runs = pd.read_csv(tmp_path / "report" / "runs.csv").set_index("run")["status"]
    assert runs[str(folder / "cut.txt")] == "unfinished"
    assert "cut.txt: 10.8308 after 1 of 2 steps" in (tmp_path / "report/report.md").read_text()
    assert one(folder, unfinished=True)["runs"] == 4
    # Without a plan the longest of its own arm is the end.
    shorter = write(tmp_path / "b", [3.1, 3.2], LLMC)
    (shorter / "cut.txt").write_text(LLMC.partition("s:2")[0], "utf-8")
    longer = write(tmp_path / "c", [3.1], LLMC.replace("s:2", "s:9"))
    both = reports.compare({"b": shorter, "c": longer})
    assert both["lost"].tolist() == [1, 0]
    assert both["most_steps"].tolist() == [2, 9]
    one(longer, output=tmp_path / "report")
    assert "0.txt: 3.1000 after 9 steps" in (tmp_path / "report/report.md").read_text()


def test_what_is_wrong_with_a_file_is_said_and_the_rest_is_reported(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", [3.1, 3.2, 3.3]), write(tmp_path / "b", [3.15])
    for name, text in {
        "README.md": "# no log", "config.json": '{"a": 1}', "odd.csv": "a,b\n1,2\n",
        "vocab.json": '{"step": 1, "loss": 2}', "copy.txt": SPEEDRUN.replace("3.2500", "3.1000"),
        "nan.txt": SPEEDRUN.replace("3.2500", "nan"), "empty.txt": "",
        "again.txt": SPEEDRUN + "step:1/2 train_time:9ms\n" + SPEEDRUN.replace("3.25", "3.35"),
        "half.txt": SPEEDRUN[: SPEEDRUN.index("3.2500") + 3],
    }.items():  # fmt: skip
        (a / name).write_text(text, "utf-8")
    (a / "weights.bin").write_bytes(bytes(range(256)) * 99)
    found = reports.compare({"a": [a], "b": [b, a / "0.txt"]}, output=tmp_path / "report")
    said = "\n".join(found.attrs["problems"])
    assert "odd.csv is left out: it has no column for the step, but a, b" in said
    assert "known format is in README.md, config.json, empty.txt, vocab.json, weights.bin" in said
    assert "again.txt: its steps go back" in said
    assert f"{a / '0.txt'} is in two arms, a and b." in said
    assert f"{a / 'copy.txt'} has the same numbers as {a / '0.txt'} and is left out." in said
    runs = pd.read_csv(tmp_path / "report/runs.csv")
    status = {Path(r.run).name: (r.status, r.loss) for r in runs[runs["arm"] == "a"].itertuples()}
    assert status["nan.txt"] == ("diverged", math.inf)
    assert status["again.txt"] == ("finished", 3.35)
    assert status["half.txt"] == ("unfinished", 10.8308)
    assert (found["runs"].tolist(), found["lost"].tolist()) == ([4, 2], [2, 0])
    assert found.loc[1, "reason"] == "lost"


def test_a_last_line_without_an_end_counts_if_it_is_whole(tmp_path: Path) -> None:
    end = LLMC.index("3.2500") + 6
    far = LLMC[: end - 6] + "9.5000\n" + "s:3 trl:9.5 lr:0.1 norm:1.2\n" * 50 + "s:2 tel:3.2500"
    (tmp_path / "far.log").write_text(far, "utf-8")
    assert one(tmp_path / "far.log", score="held_out")["loss_value"] == 3.25
    for name, length in (("whole", end), ("cut", end - 2)):
        (tmp_path / f"{name}.log").write_text(LLMC[:length], "utf-8")
    assert one(tmp_path / "whole.log")["loss_value"] == 3.25
    assert one(tmp_path / "cut.log")["loss_value"] == 11.0092


def test_an_own_pattern_and_the_columns_of_a_table(tmp_path: Path) -> None:
    log, table = tmp_path / "a.log", tmp_path / "a.csv"
    log.write_text("[12] it 7 >> L=9.5\n[13] it 8 >> L=3.25\n", "utf-8")
    table.write_text("when,epoch,quality\n1.5,8,3.25\n", "utf-8")
    assert one(log, pattern=r"it (?P<step>\d+) .*L=(?P<held_out>\S+)")["loss_value"] == 3.25
    columns = "step=epoch,held_out=quality,seconds=when"
    found = one(table, columns=columns)
    assert (found["loss_value"], found["seconds_value"]) == (3.25, 1.5)
    named = one(write(tmp_path / "b", [3.25]), format="speedrun")
    assert named["loss_value"] == 3.25


def test_the_latest_checkpoint_of_a_trainer_counts(tmp_path: Path) -> None:
    for steps in (2, 10):
        folder = tmp_path / "run" / f"checkpoint-{steps}"
        folder.mkdir(parents=True)
        state = STATE.replace("3.25", f"{steps}.5")
        (folder / "trainer_state.json").write_text(state, "utf-8")
    found = one(tmp_path)
    assert (found["runs"], found["loss_value"]) == (1, 10.5)


def test_event_files_are_read_by_folder(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    for name, loss in (("a", 3.25), ("b", 3.5)):
        with SummaryWriter(str(tmp_path / name)) as writer:  # type: ignore[no-untyped-call]
            for step, value in ((1, 9.5), (2, loss)):
                writer.add_scalar("val/loss", value, step)  # type: ignore[no-untyped-call]
    with SummaryWriter(str(tmp_path / "c")) as writer:  # type: ignore[no-untyped-call]
        for step, value in ((1, 9.5), (2, math.nan)):
            writer.add_scalar("train/loss", value, step)  # type: ignore[no-untyped-call]
            writer.add_scalar("val/loss", value, step)  # type: ignore[no-untyped-call]
    for split, loss in (("train", 1.0), ("val", 3.5)):
        with SummaryWriter(str(tmp_path / "d" / split)) as writer:  # type: ignore[no-untyped-call]
            writer.add_scalar("loss", 9.5, 1)  # type: ignore[no-untyped-call]
            writer.add_scalar("loss", loss, 2)  # type: ignore[no-untyped-call]
    with SummaryWriter(str(tmp_path / "empty")) as writer:  # type: ignore[no-untyped-call]
        writer.add_text("configuration", "x")  # type: ignore[no-untyped-call]
    frame = reports.compare({"a": tmp_path})
    found = frame.loc[0]
    assert (found["runs"], found["lost"]) == (3, 1)
    assert found["loss_value"] == pytest.approx((3.25 + 3.5 + 3.5) / 3)
    (problem,) = frame.attrs["problems"]
    assert problem.startswith("a: no line of a known format is in events.out")


def test_a_word_is_no_loss_and_a_number_may_be_written_in_many_ways(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('step,val_loss\n"1,000",N/A\n"2,000","3,200.5"\n')
    assert one(tmp_path / "a.csv")["loss_value"] == 3200.5
    (tmp_path / "b.log").write_text("step 49 loss 9.5, lr 1\nstep 50 loss 3.25, lr 1e-4\n")
    pattern = r"step (?P<step>\d+).*loss (?P<held_out>\S+)"
    assert one(tmp_path / "b.log", pattern=pattern)["loss_value"] == 3.25
    (tmp_path / "c.csv").write_text("step,val_loss\n1,9.5\n2,NaN\n")
    assert one(tmp_path / "c.csv")["lost"] == 1


def test_a_trainer_that_stopped_early_has_finished(tmp_path: Path) -> None:
    for i, steps in enumerate((1000, 800)):
        (tmp_path / str(i)).mkdir()
        rows = [{"step": steps - 9, "loss": 3.3}, {"step": steps, "eval_loss": 3.2 + i / 10}]
        rows.append({"step": steps, "train_loss": 5.0, "train_runtime": 9.0})
        state = {"max_steps": 1000, "global_step": steps, "log_history": rows}
        (tmp_path / str(i) / "trainer_state.json").write_text(json.dumps(state))
    found = one(tmp_path)
    assert (found["runs"], found["lost"], found["loss_value"]) == (2, 0, pytest.approx(3.25))
    state["log_history"] = rows[:-1]
    (tmp_path / "1" / "trainer_state.json").write_text(json.dumps(state))
    assert one(tmp_path)["lost"] == 1


def test_a_run_that_begins_late_is_scored_by_its_own_last_tenth(tmp_path: Path) -> None:
    lines = [
        f"step {10_000 + i} | loss: {3.5 - i / 1000:.3f} | lr 1e-4 | norm: 1.2 | dt: 100.00ms | x"
        for i in range(0, 1001, 10)
    ]
    (tmp_path / "a.log").write_text("\n".join(lines) + "\n")
    found = one(tmp_path / "a.log")
    assert found["loss_value"] == pytest.approx(2.55)
    assert found["seconds_value"] == pytest.approx(101)


def test_seconds_are_added_up_where_some_steps_are_logged(tmp_path: Path) -> None:
    lines = [
        f"iter {i}: loss 3.3, time {900 if i == 20 else 100}.00ms, mfu 1%" for i in range(0, 50, 10)
    ]
    lines.insert(3, "step 25: train loss 3.2, val loss 3.25")
    (tmp_path / "a.log").write_text("\n".join(lines) + "\n")
    # 41 steps of 100 ms, of which one, with an evaluation, took 800 ms more.
    assert one(tmp_path / "a.log", score="loss")["seconds_value"] == pytest.approx(4.9)


def test_nan_is_a_loss_or_an_empty_cell(tmp_path: Path) -> None:
    table = [{"step": 1, "val/loss": 3.25}, {"step": 2, "val/loss": math.nan}]
    (tmp_path / "a.json").write_text(json.dumps(table))
    assert one(tmp_path / "a.json")["loss_value"] == 3.25, "cells of a DataFrame"
    lines = [{"step": 1, "loss": 3.3}, {"step": 2, "loss": 3.2, "val/loss": math.nan}]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "c.jsonl").write_text('{"step": 1, "loss": 3.3}\n{"step": 2, "val/loss": 3.1}\n')
    found = reports.compare({"a": [tmp_path / "b.jsonl", tmp_path / "c.jsonl"]})
    assert found[["runs", "lost", "loss_value"]].to_numpy().tolist() == [[1, 1, 3.1]]


def test_what_stands_before_a_line_or_looks_like_one_does_not_matter(tmp_path: Path) -> None:
    lines = [
        f"[rank0]: 2026-01-01 12:00:00,1 - root - INFO - {line}" for line in SPEEDRUN.split("\n")
    ]
    hint = '"""It prints\nstep 0, loss: 10.96, norm: 27.9, dt: 34471.31ms\n"""\n'
    (tmp_path / "a.log").write_text(hint + "\n".join(lines))
    assert one(tmp_path / "a.log")["loss_value"] == 3.25
    (tmp_path / "b.log").write_text(
        "[titan] step:  1  loss:  9.5\n[titan] validate step:  2  loss:  3.25\n"
    )
    assert one(tmp_path / "b.log")["loss_value"] == 3.25
    (tmp_path / "c.log").write_text(SPEEDRUN + "a" * 300_000)
    assert one(tmp_path / "c.log")["loss_value"] == 3.25


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a=nowhere/*.txt"], "a=nowhere/*.txt: no file is there"),
        (["a=LOGS", "targt=3.28"], "targt=3.28: no file is there"),
        (["a=LOGS", "target=low"], "target"),
        (["a=LOGS", "outputs/ladder"], "needs a name too: ladder=outputs/ladder"),
        (["outputs/ladder", "--paired"], "--paired is for logs"),
        (["a=LOGS", "--format", "mine"], "the formats are guide, speedrun"),
        (["a=LOGS", "--pattern", "(?P<step>"], "is no regular expression"),
        (["a=LOGS", "--pattern", r"(?P<step>\d+)"], r"name (?P<step>\d+), and"),
        (["a=LOGS", "--columns", "x=y"], "There is no column x"),
        (["a=LOGS", "--score", "final"], "put the number, and nothing else, in brackets"),
        (["a=README.md"], "The arm a has no run that can be read"),
        (["a=LOGS", "busy=0.3"], "busy"),
    ],
)
def test_a_mistake_in_a_command_on_logs_is_one_sentence(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(ROOT)
    words = [word.replace("LOGS", str(PUBLIC / "baseline")) for word in words]
    monkeypatch.setattr(sys, "argv", ["reports", *words, "--output", str(tmp_path / "report")])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_the_command_prints_a_table_for_a_pull_request(tmp_path: Path) -> None:
    arms = [f"{name}={PUBLIC / name}" for name in ("baseline", "unified")]
    run = [sys.executable, "-m", "reports", *arms, "target=3.28"]
    env_path = {"PYTHONPATH": str(ROOT), "PATH": ""}
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, env=env_path)
    assert done.returncode == 0, done.stderr
    head, rule, base, unified, *_ = done.stdout.splitlines()
    assert rule == "|" + " --- |" * head.count(" |")
    assert "| baseline | 8 | 1,775 | 3.2783 (sd 0.0008) | – | reference |" in base
    assert "−0.0001 (−0.0014 to +0.0012; p 0.8710)" in unified
    page = tmp_path / "outputs" / "baseline-and-unified" / "index.html"
    assert f"Report: {page.relative_to(tmp_path)}" in done.stdout
    html = page.read_text("utf-8")
    assert html.count("<figure>") == 4
    assert "Terms" not in html
    values = json.loads((page.parent / "report.json").read_text("utf-8"))
    assert values["arms"][1]["loss_difference"]["n"] == 8
