"""The report's files: the page, its Markdown twin, tables and pictures, and the terminal."""

import html.parser
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from markdown_it import MarkdownIt
from rich.console import Console

import reports
from reports import __main__ as command
from reports import formats, wording
from reports import page as page_files
from reports.curves import MOST_POINTS
from reports.report import Report
from reports.summary import show
from tests.conftest import ROOT
from tests.reports.conftest import EVIL, ORDER, SAY, Lab

# In what the page and its twin differ: spaces, some punctuation, and what can be opened.
BARE = re.compile(r"[\s();:]|More")


class Text(html.parser.HTMLParser):
    """What a page says, with the alternatives of its pictures; of its `main` if it has one."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.said: list[str] = []
        self.tags: set[str] = set()
        self.feed(page.partition("<main>")[2].partition("</main>")[0] or page)
        self.all = BARE.sub("", "".join(self.said))

    def handle_data(self, data: str) -> None:
        self.said.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.said += [value or "" for name, value in attrs if name == "alt"]


def twin_of(page: Path) -> str:
    return (page.parent / "report.md").read_text("utf-8")


def test_the_page_and_its_twin_say_the_same_and_hostile_text_is_text_in_both(page: Path) -> None:
    text, source = page.read_text("utf-8"), twin_of(page)
    rendered = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(source)
    shown, twin = Text(text), Text(rendered)
    assert twin.all.endswith(shown.all)
    # Title, note, both halves of what was not applied, message, samples and their prompt.
    assert shown.all.count(BARE.sub("", EVIL)) >= 12
    assert "<img src=http" not in text + rendered
    assert not twin.tags & {"script", "em", "code", "a", "s"}
    assert {*re.findall(r".\$", source)} == {"\\$"}
    for notice in ("torn/", "2 runs with data"):
        assert notice in text.partition("<main>")[0]
        assert notice in source.partition("\n## ")[0]
    text = text.replace('<link rel="icon" href="data:,">', "")
    for reference in ("<link", "<script", 'src="http', "@import", "url(http", 'href="http'):
        assert reference not in text


def test_the_page_says_what_is_apart_what_was_applied_and_the_datasheets_share(
    page: Path,
) -> None:
    text, data = twin_of(page), f"data {formats.markdown(EVIL)} instead of synthetic"
    ladder, _, apart = text.partition("\n## The ladder")[2].partition("\n## Shown apart")
    assert [part.count(data) for part in (ladder, apart)] == [0, 1]
    assert apart.count("\n| step03") == 1
    assert "Not applied: TF32" in text
    assert "Applied: TF32" not in text
    assert "Attention kernel: cudnn" in text
    assert "The GPU's datasheet says 989 TFLOP/s in bfloat16." in text
    assert re.search(r"of the datasheet's bf16.*: step02 \d+% +\(31%\)", text.replace("\\", ""))
    assert [*reports.load(page.parents[1]).runs.datasheet_mfu.dropna().unique()] == [0.31]


def test_a_report_has_every_file_and_a_picture_for_everything(page: Path) -> None:
    files = {path.relative_to(page.parent).as_posix() for path in page.parent.rglob("*.*")}
    assert {file for file in files if "figures/" not in file} - {".lock"} == {
        "index.html", "report.md", "stages.csv", "steps.csv", "held_out.csv", "report.json",
    }  # fmt: skip
    for name in (
        "effect-loss", "effect-speed", "worth", "worth-interactions", "learning-rates",
        "stage-step07",
        "loss-steps", "loss-tokens", "loss-seconds", "held-out", "hellaswag", "plan-0", "speed-mfu",
        "gradient-norms", "guide-loss", "guide-norm",
    ):  # fmt: skip
        assert f"figures/{name}.svg" in files
    table = pd.read_csv(page.parent / "stages.csv").query("group == 0").set_index("what")
    rows = json.loads((page.parent / "report.json").read_text("utf-8"))["comparisons"]
    losses = [table.held_out["step07"], {row["what"]: row["held_out"] for row in rows}["step07"]]
    assert losses == pytest.approx([6.19] * 2, abs=5e-4)
    assert losses[0] == losses[1]
    assert "6.190" in page.read_text("utf-8")
    ends = ["finished", "diverged", "running", "failed"]
    assert table.status[["own", "wild", "long", "lost"]].tolist() == ends


def test_words_are_not_data(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.stages(step02=7.0, step03=7.5, step04=6.5, step06=6.4)
    lab.seeds("step02", 6.9, plus=["step04"], at=9)
    before = page_files.build(lab.report)
    templates = shutil.copytree(wording.TEMPLATES, tmp_path / "templates")
    words = (templates / "words.jinja").read_text("utf-8")
    parts = re.split(r"(\{%.*?%\}|\{\{.*?\}\}|\{#.*?#\})", words, flags=re.DOTALL)
    parts[::2] = [re.sub(r"[^\s.,;:()]+", "x", part) for part in parts[::2]]
    (templates / "words.jinja").write_text("".join(parts), "utf-8")
    monkeypatch.setattr(wording, "TEMPLATES", templates)
    monkeypatch.setattr(wording, "environment", wording.environment.__wrapped__)
    after = page_files.build(lab.report)
    heads = [files["report.md"].decode().partition("\n## ")[0] for files in (before, after)]
    assert ["which raised the loss" in head for head in heads] == [True, False]
    assert [before[name] == after[name] for name in ("report.json", "stages.csv")] == [True, True]
    text = before["index.html"].decode()
    assert text.count("synthetic text of step") == 4
    assert "Prompt “The king”, seed 1" in text
    for absent in ("samples, all of", "Evaluations over the run", "points are drawn", "datasheet"):
        assert absent not in text


@pytest.mark.parametrize("only", ["step01", "step02", "step07", "my_own_stage"])
def test_one_stage_of_a_single_step_alone_makes_a_report(lab: Lab, only: str) -> None:
    lab.run(only, typed={"train.steps": 1}, parent="step02")
    page = reports.write_report([lab.path])
    text, twin = page.read_text("utf-8"), twin_of(page)
    assert only in text
    command = "python -m runner +stage=step02 seed=1"
    alone = only != "step02"
    assert (f"train one with <code>{command}</code>" in text) == alone
    assert (f"train one with `{command}`" in twin) == alone
    assert ("No baseline has finished" in twin) == alone


@pytest.mark.parametrize("width", [50, 80, 120])
def test_the_short_table_fits_the_terminal(ladder: Path, width: int) -> None:
    said = io.StringIO()
    show(Report([ladder]), ladder / "index.html", Console(file=said, width=width))
    text = said.getvalue()
    assert max(map(len, text.partition("\n\n")[0].splitlines())) <= width
    assert all(stage in text for stage in ORDER)
    assert ("10.95 to 7.21" in text) == (width > 50)
    assert "step02 Baseline: reference, 7.550 held-out loss" in " ".join(text.split())
    assert f"Report: {ladder / 'index.html'}" in text


def test_the_command_follows_its_settings_and_never_imports_torch(lab: Lab, tmp_path: Path) -> None:
    lab.run()
    words = ["reports", str(lab.path), "margin=0.5", "minimum_seeds=3", "--output", str(tmp_path)]
    run = f"import runpy, sys; sys.argv = {words}; runpy.run_module('reports', run_name='__main__')"
    code = f"{run}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    *said, torch = done.stdout.splitlines()
    assert (done.returncode, torch) == (0, "False"), done.stderr
    assert f"Report: {tmp_path / 'index.html'}" in said
    rules = json.loads((tmp_path / "report.json").read_text("utf-8"))["rules"]
    assert (rules["margin"], rules["minimum_seeds"], rules["confidence"]) == (0.5, 3, 0.95)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["LAB", "margin=0"], "margin"), (["LAB", "confidence=2"], "confidence"),
        (["LAB", "margins=1"], "margins"), (["LAB", "margin=wide"], "margin"),
        (["nobody"], "nobody does not exist"), (["conf"], "conf holds no runs"),
        (["LAB", "--output", "README.md"], "cannot be written to README.md"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(
    lab: Lab, words: list[str], named: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    lab.run()
    monkeypatch.chdir(ROOT)
    words = [str(lab.path) if word == "LAB" else word for word in words]
    monkeypatch.setattr(sys, "argv", ["reports", *words])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    assert named in capsys.readouterr().err


STEPS, SPIKE_AT = 19_073, 12_345
EVALUATED = [*range(250, STEPS, 250), STEPS]
RECIPE = {"name": "gpt2_124m", "title": "GPT-2", "stage": "step10", "settings": {}}


def write_long_run(lab: Lab, steps: int = STEPS, **given: Any) -> None:
    """A synthetic run by the recipe, from 10.98 down to about 3.2, that took `steps` steps.

    It is evaluated every 250 steps, and has a spike of a single step.
    """
    losses = 3.0 + 7.98 / (1 + np.arange(steps) / 90) ** 0.7
    losses[1:] += np.random.default_rng(1).normal(0, 0.02, steps - 1)
    losses[SPIKE_AT : SPIKE_AT + 1] = 7.5
    after = [step for step in EVALUATED if step <= steps]
    sample, score = {"prompt": "Hello", "seed": 1}, {"items": 10_042, "acc": 0.25}
    samples = [{**sample, "text": f"text after {step} steps", "step": step} for step in after]
    scores = [{**score, "step": step, "acc_norm": 0.25 + step / 400_000} for step in after]
    lab.run(
        "step10", typed={"train.steps": STEPS}, losses=losses, every=250,
        config__recipe=RECIPE, samples=samples, hellaswag=scores, **given,
    )  # fmt: skip


def test_the_page_of_a_long_run_is_light_and_shows_evaluations_and_samples(lab: Lab) -> None:
    write_long_run(lab)
    page = reports.write_report([lab.path])
    text = page.read_text("utf-8")
    assert len(text) < 500_000
    assert "gpt2_124m" in text.split("<dt>Recipe</dt>")[1][:40]
    for said in (
        "after 19,073 steps, 39,061,504 tokens",
        "HellaSwag: 29.8% ± 0.5% of 10,042 items (by the sum of losses 25.0%)",
        f"about {MOST_POINTS} points are drawn: each is the mean of the steps since the one before",
        "6 of 77 samples",
        "text after 250 steps",
        f"text after {STEPS} steps",
    ):
        assert said in text
    assert text.count("text after") == 6
    figure = (page.parent / "figures" / "loss-steps.svg").read_text("utf-8")
    paths = re.findall(r' d="([^"]*)"', figure)
    points = [len(re.findall(r"[\d.]+ [\d.]+", path)) for path in paths]
    assert MOST_POINTS / 2 < max(points) <= 2 * MOST_POINTS + 2
    held_out = (page.parent / "held_out.csv").read_text("utf-8").splitlines()
    assert len(held_out) == 1 + 64 * len(EVALUATED)


def test_a_long_run_that_goes_on_says_how_far_it_is(lab: Lab) -> None:
    write_long_run(lab, steps=7_010, status="running")
    said = SAY("answer", lab.report)
    assert "has taken 7,010 of 19,073 steps, 14,356,480 tokens; its last held-out loss is" in said
    (stage,) = lab.report.main.stages
    assert SAY("verdict", stage, lab.report.verdicts["step10"]) == "still running"


def test_hellaswag_over_seeds_is_their_mean(lab: Lab) -> None:
    for seed, share in ((1, 0.25), (2, 0.35)):
        score = {"step": 50, "items": 400, "acc": 0.2, "acc_norm": share}
        results = {"results__hellaswag_acc_norm": share, "results__hellaswag_acc": 0.2}
        lab.run(seed=seed, every=10, hellaswag=[score], **results)
    newest = "step02 35.0% ± 2.4% of 400 items (by the sum of losses 20.0%)"
    said = SAY("evaluations", lab.report)
    assert f"{newest}, 30.0% on average over 2 seeds." in said
    assert reports.stages(lab.path, columns="all").hellaswag_acc_norm.tolist() == [
        pytest.approx(0.3)
    ]


@pytest.mark.slow
def test_a_thousand_runs_are_reported(lab: Lab) -> None:
    lab.stages(range(1, 101), **dict.fromkeys(ORDER))
    page = reports.write_report([lab.path])
    assert len(pd.read_csv(page.parent / "steps.csv")) == 100 * (9 * 50 + 5)
