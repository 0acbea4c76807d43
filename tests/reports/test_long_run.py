"""A long run in the report: thinned curves that keep their spikes, and evaluations over time."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import reports
from reports.curves import MOST_POINTS, Band, thin
from tests.reports.conftest import write_ladder, write_run

STEPS = 19_073
SPIKE_AT = 12_345
EVALUATED = [*range(250, STEPS, 250), STEPS]
RECIPE = {"name": "gpt2_124m", "title": "GPT-2", "stage": "step10", "settings": {}}


def long_losses(steps: int = STEPS) -> np.ndarray:
    """A synthetic curve from 10.98 down to about 3.2, with a spike of a single step."""
    at = np.arange(steps)
    losses = 3.0 + 7.98 / (1 + at / 90) ** 0.7 + np.random.default_rng(1).normal(0, 0.02, steps)
    losses[0] = 10.98
    if steps > SPIKE_AT:
        losses[SPIKE_AT] = 7.5
    return losses


def write_long_run(experiment: Path, steps: int = STEPS, **given: Any) -> Path:
    """A synthetic run by the recipe, evaluated every 250 steps, that took `steps` of them."""
    evaluated = [step for step in EVALUATED if step <= steps]
    text = "Hello, I'm synthetic text after {} steps"
    over_time = {
        "samples": [
            {"prompt": "Hello", "seed": 1, "text": text.format(step), "step": step}
            for step in evaluated
        ],
        "hellaswag": [
            {"step": step, "items": 10_042, "acc": 0.25, "acc_norm": 0.25 + step / 400_000}
            for step in evaluated
        ],
    }
    return write_run(
        experiment, "step10", steps=STEPS, all_steps=STEPS, losses=long_losses(steps), every=250,
        config__recipe=RECIPE, **over_time, **given,
    )  # fmt: skip


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("length", [401, 1000, STEPS])
def test_a_thinned_curve_keeps_its_mean_its_ends_and_every_spike(length: int, log: bool) -> None:
    chance = np.random.default_rng(length)
    x, low, high = np.arange(1.0, length + 1), *chance.normal(size=(2, length))
    y = (low + high) / 2
    high[length // 2], low[length // 3], y[5] = 99.0, -99.0, np.nan
    drawn = thin(Band(x, y, low, high), log)
    assert drawn.thinned
    assert length ** (not log) / 3 < len(drawn.x) * (1 if log else length / MOST_POINTS)
    assert len(drawn.x) <= MOST_POINTS
    assert drawn.x[-1] == length
    assert np.all(np.diff(drawn.x) > 0)
    begins = np.concatenate([[0], drawn.x[:-1]]).astype(int)
    for begin, end, mean, least, most in zip(
        begins, drawn.x.astype(int), drawn.y, drawn.low, drawn.high, strict=True
    ):
        part = y[begin:end][np.isfinite(y[begin:end])]
        assert mean == pytest.approx(part.mean()) if len(part) else np.isnan(mean)
        assert (least, most) == (low[begin:end].min(), high[begin:end].max())
    assert (drawn.low.min(), drawn.high.max()) == (-99.0, 99.0)
    if log:
        assert list(drawn.x[:5]) == [1, 2, 3, 4, 5], "the first steps are drawn one by one"


def test_a_short_curve_is_drawn_as_it_is() -> None:
    values = np.random.default_rng(0).normal(size=(4, MOST_POINTS))
    band = Band(*values)
    assert thin(band) is band


def test_the_page_of_a_long_run_is_light_and_shows_spike_evaluations_and_samples(
    tmp_path: Path,
) -> None:
    experiment = tmp_path / "gpt2_124m"
    write_long_run(experiment)
    page = reports.write_report([experiment])
    text = page.read_text(encoding="utf-8")
    assert len(text) < 500_000
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text)
    assert found is not None
    plots = json.loads(found[1])["plots"]
    assert {"held-out", "hellaswag", "loss-steps"} <= plots.keys()
    points = {name: [len(x) for x, _ in plot["curves"].values()] for name, plot in plots.items()}
    assert max(n for each in points.values() for n in each) <= MOST_POINTS
    assert points["held-out"] == points["hellaswag"] == [len(EVALUATED)]
    assert points["guide-loss"] == [50]
    assert f"spike to 7.50 at step {SPIKE_AT}" in text
    markdown = (page.parent / "report.md").read_text(encoding="utf-8")
    for file in (text, markdown):
        assert "after 19,073 steps, 39,061,504 tokens" in file
        assert "HellaSwag: 29.8% ± 0.5% of 10,042 items (by the sum of losses 25.0%)" in file
        assert "each is the mean of the steps since the one before it" in file
        assert "6 of 77 samples" in file
        assert file.count("synthetic text after") == 6
        assert "synthetic text after 250 steps" in file
        assert f"synthetic text after {STEPS} steps" in file
    assert "gpt2_124m" in text.split("<dt>Recipe</dt>")[1][:40]
    held_out = (page.parent / "held_out.csv").read_text().splitlines()
    assert len(held_out) == 1 + 64 * len(EVALUATED)


def test_a_long_run_that_goes_on_says_how_far_it_is(tmp_path: Path) -> None:
    experiment = tmp_path / "gpt2_124m"
    write_long_run(experiment, steps=7_010, status="running")
    text = reports.write_report([experiment]).read_text(encoding="utf-8")
    assert "has taken 7,010 of 19,073 steps, 14,356,480 tokens; its last held-out loss is" in text
    assert "synthetic text after 7000 steps" in text
    assert "had not ended when this was written" in text


def test_long_stages_side_by_side_stay_light(tmp_path: Path) -> None:
    experiment = tmp_path / "ladder"
    for stage in ("step02", "step03", "step05"):
        write_run(
            experiment, stage, steps=5000, all_steps=5000, losses=long_losses(5000), every=500
        )
    page = reports.write_report([experiment])
    assert page.stat().st_size < 1_000_000
    assert "Evaluations over the run" in page.read_text(encoding="utf-8")


def test_a_short_ladder_has_its_samples_without_steps(ladder: Path) -> None:
    text = reports.write_report([ladder]).read_text(encoding="utf-8")
    assert text.count("synthetic text of step") == 9
    assert "Prompt “The king”, seed 1" in text
    assert "After so few steps none of it is good" in text
    assert "samples, all of which" not in text
    assert "Evaluations over the run" not in text
    assert "points are drawn" not in text


def test_hellaswag_over_seeds_is_their_mean(tmp_path: Path) -> None:
    for seed, share in ((1, 0.25), (2, 0.35)):
        score = {"step": 50, "items": 400, "acc": 0.2, "acc_norm": share}
        results = {"results__hellaswag_acc_norm": share, "results__hellaswag_acc": 0.2}
        write_run(tmp_path / "seeds", "step02", seed, hellaswag=[score], **results)
    text = reports.write_report([tmp_path / "seeds"]).read_text(encoding="utf-8")
    assert "step02 30.0% (mean of 2 seeds; by the sum 20.0%)" in text
    table = reports.stages(tmp_path / "seeds")
    assert table["hellaswag_acc_norm"].tolist() == [pytest.approx(0.3)]


def test_records_without_recipe_samples_over_time_or_hellaswag_stay_readable(
    tmp_path: Path,
) -> None:
    write_ladder(tmp_path / "old", old=True)
    for run in reports.load(tmp_path / "old").found:
        assert run.record.settings.recipe is None
        assert run.record.hellaswag == []
        assert all(sample.step is None for sample in run.record.samples)
