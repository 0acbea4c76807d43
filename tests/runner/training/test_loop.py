"""The training loop: which settings change its numbers, and which do not."""

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from gpt2.config import Attention
from gpt2.model import GPT
from runner.data.stream import HeldOut, TokenStream
from runner.identity import as_plain, conditions
from runner.record import Status
from runner.training.evaluation import evaluate
from tests.conftest import Settings, load_quietly
from tests.runner.conftest import Runs
from tests.runner.test_products import products


def test_the_same_seed_gives_the_same_bits(runs: Runs) -> None:
    (a, steps_a), (b, steps_b) = (runs("+stage=step05", "train.steps=6") for _ in range(2))
    assert steps_a.loss.tolist() == steps_b.loss.tolist()
    assert steps_a.grad_norm.tolist() == steps_b.grad_norm.tolist()
    assert a.results.held_out == b.results.held_out
    _, other = runs("+stage=step05", "train.steps=6", "seed=2")
    assert steps_a.loss.tolist() != other.loss.tolist()


def test_the_held_out_loss_is_measured_during_training_on_windows_that_never_change(
    runs: Runs, settings: Settings
) -> None:
    fields, _ = runs("+stage=step05", "train.steps=7", "evaluation.every=3")
    plain = conditions(as_plain(settings("train.steps=7")))
    rare, _ = runs("+stage=step01", "train.steps=7", "evaluation.every=null", given=plain)
    table, last = (pd.read_csv(runs.folder / n / "held_out.csv") for n in "12")
    assert table.step.unique().tolist() == [3, 6, 7]
    assert last.step.unique().tolist() == [7]
    windows = table[table.step == 7]
    assert windows.first_token.tolist() == last.first_token.tolist()
    assert fields.data.windows_sha256 == rare.data.windows_sha256
    assert fields.results.held_out == pytest.approx(windows.loss.mean(), abs=1e-12)
    assert fields.results.held_out_error == pytest.approx(windows.loss.sem(), abs=1e-12)

    config = settings("+stage=step05")
    corpus = load_quietly([Path(config.data.path or "")], Path(config.cache_dir), 0.1)
    model = GPT(config.model, config.seed).eval()
    held_out = HeldOut(corpus.held_out, 32, config.evaluation.tokens)
    autocast = torch.autocast("cpu", enabled=False)
    window = evaluate(model, held_out, 5, autocast, step=0)[-1]
    tokens = torch.tensor(corpus.held_out[window.first_token :][:33].astype("int64"))
    log_p = model.double()(tokens[None, :-1])[0].log_softmax(-1)
    independent = -log_p[0, range(32), tokens[1:]].mean().item()
    assert window.loss == pytest.approx(independent, abs=1e-5)


EVALUATED = (("evaluation.every=null",), ("evaluation.every=1", "evaluation.samples=true"))


@examples(
    deadline=None,
    derandomize=True,
    max_examples=8,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    rate=st.floats(2, 30).map(lambda power: 10**power),
    steps=st.integers(1, 3),
    evaluated=st.sampled_from(EVALUATED),
    kept=st.sampled_from(["none", "best"]),
)
def test_a_run_is_finished_exactly_where_its_last_weights_are_finite(
    runs: Runs, rate: float, steps: int, evaluated: tuple[str, ...], kept: str
) -> None:
    asked = ("+stage=step02", f"train.steps={steps}", f"train.learning_rate={rate}")
    run, table = runs(*asked, *evaluated, f"checkpoint={kept}", "sample.tokens=3")
    held_out = pd.read_csv(runs.folder / str(runs.count) / "held_out.csv").loss
    measured = [*table.loss, *table.grad_norm, *held_out]
    assert run.status is (Status.finished if all(map(math.isfinite, measured)) else Status.diverged)
    assert math.isfinite(run.results.held_out) == (run.status is Status.finished)
    if run.status is Status.diverged:
        assert run.diverged_at == table.step.iloc[-1]
        assert (run.message or "").endswith(f"is not finite at step {run.diverged_at}.")


def test_evaluations_change_no_step(runs: Runs) -> None:
    _, often = runs("+stage=step07", "train.steps=5", "evaluation.every=1")
    _, never = runs("+stage=step07", "train.steps=5", "evaluation.every=null")
    assert often.loss.tolist() == never.loss.tolist()


@pytest.mark.slow
def test_speed_stages_in_fp32_without_padding_reproduce_step05(runs: Runs) -> None:
    exact = ("model.pad_vocab=false", "train.autocast=none", "train.matmul_precision=highest")
    step05, curve05 = runs("+stage=step05", "train.steps=12")
    for stage in ("step06", "step07"):
        fields, curve = runs(f"+stage={stage}", "train.steps=12", *exact)
        assert "torch.compile" in fields.applied
        pd.testing.assert_series_equal(curve05.loss, curve.loss, atol=2e-4, rtol=0)
        assert fields.results.held_out == pytest.approx(step05.results.held_out, abs=2e-4)


def test_accumulated_micro_batches_are_one_large_batch(runs: Runs) -> None:
    eager = ("train.compile=false", "train.autocast=none", "train.steps=5")
    _, accumulated = runs("+stage=step10", *eager)
    _, large = runs(
        "+stage=step09", *eager, "train.micro_batch_size=4", "train.total_batch_tokens=null"
    )
    pd.testing.assert_frame_equal(
        accumulated[["loss", "grad_norm", "lr", "tokens"]],
        large[["loss", "grad_norm", "lr", "tokens"]],
        atol=1e-4,
        rtol=1e-4,
    )
    assert set(accumulated.tokens) == {128}


def test_the_first_two_steps_are_those_of_a_plain_loop(runs: Runs, settings: Settings) -> None:
    """An independent loop in float64 on the same weights and tokens."""
    fields, steps = runs("+stage=step08", "train.compile=false", "train.steps=2")
    config = settings("+stage=step08")
    cache = Path(config.cache_dir)
    corpus = load_quietly([Path(config.data.path or "")], cache, config.data.held_out_fraction)
    stream = TokenStream(corpus.train, 2, 32, config.seed)
    model = GPT(config.model, config.seed).double()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    for step in range(2):
        idx, targets = stream.micro_batch(step)
        optimizer.zero_grad()
        logits, _ = model(idx)
        loss = -logits.log_softmax(-1).gather(-1, targets[..., None]).mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        assert steps.loss[step] == pytest.approx(loss.item(), abs=1e-4)
        assert steps.grad_norm[step] == pytest.approx(norm.item(), rel=1e-4)
    assert fields.status is Status.finished


def test_clipping_changes_the_steps_but_not_the_recorded_norm(runs: Runs) -> None:
    eager = ("train.compile=false", "train.autocast=none", "train.steps=4")
    _, free = runs("+stage=step07", *eager)
    _, clipped = runs("+stage=step07", *eager, "train.clip_grad_norm=1e-8")
    assert free.grad_norm[0] == clipped.grad_norm[0] > 1
    assert free.loss[0] == clipped.loss[0]
    assert free.loss[1] != clipped.loss[1]


def test_results_are_those_of_the_steps(runs: Runs) -> None:
    fields, steps = runs("+stage=step02", "train.steps=8")
    results = fields.results
    assert (results.worst, results.best) == (steps.loss.max(), steps.loss.min())
    assert (results.first, results.last) == (steps.loss[0], steps.loss[7])
    assert results.step_ms == pytest.approx(steps.step_ms[3:].median(), rel=1e-3)
    assert results.tokens_per_second == pytest.approx(64e3 / results.step_ms, rel=1e-6)
    assert 0 < results.mfu < 1
    assert 2e8 < results.peak_memory_bytes < 2e10
    assert fields.samples[0].text.startswith("The ")


def test_no_run_uses_more_than_the_peak_that_is_known(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where the machine was busy whenever it was measured."""
    rates = products(highest=1e-6, high=1e-6, medium=1e-6, bf16=1e-6)
    for known, square, used in ((1e15, 1e3, "little"), (1e3, 1e15, "little"), (1e3, 1e3, "all")):
        found = replace(rates, peak_flops=known)
        monkeypatch.setattr("runner.training.loop.find_products", lambda *_, found=found: found)
        monkeypatch.setattr(
            "runner.training.loop.square_flops", lambda *_, rate=square: (rate, rate)
        )
        results = runs("+stage=step02", "train.steps=2")[0].results
        assert results.flops_before == results.flops_after == square
        assert results.mfu < 1e-3 if used == "little" else results.mfu == 1


def test_divergence_is_a_result_with_its_step(runs: Runs) -> None:
    fields, steps = runs("+stage=step02", "train.learning_rate=1e18")
    assert fields.status is Status.diverged
    assert fields.diverged_at == len(steps) - 1 < 49
    assert f"step {fields.diverged_at}" in fields.message
    assert math.isnan(fields.results.held_out)


def test_after_a_failed_compilation_the_run_continues_eagerly(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no compiler today")

    _, eager = runs("+stage=step07", "train.compile=false", "train.steps=3")
    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", fail)
    fields, steps = runs("+stage=step07", "train.steps=3")
    assert "no compiler today" in fields.not_applied["torch.compile"]
    assert "torch.compile" not in fields.applied
    assert fields.status is Status.finished
    assert steps.loss.tolist() == eager.loss.tolist()


@pytest.mark.slow
def test_compilation_does_not_change_the_statistics_of_batch_norm(runs: Runs) -> None:
    _, compiled = runs("+stage=step07", "model.norm=batch", "train.steps=3")
    _, eager = runs("+stage=step07", "model.norm=batch", "train.steps=3", "train.compile=false")
    pd.testing.assert_series_equal(compiled.loss, eager.loss, atol=1e-3, rtol=0)


@pytest.mark.parametrize("attention", [a.name for a in Attention])
@pytest.mark.parametrize("init", ["xavier", "kaiming"])
def test_other_choices_train_by_override(runs: Runs, attention: str, init: str) -> None:
    fields, _ = runs(
        "+stage=step05", f"model.attention={attention}", f"model.init={init}", "model.norm=rms",
        "train.steps=2",
    )  # fmt: skip
    assert fields.status is Status.finished
    assert {f"{init} initialisation", "rms norm", "residual stream"} <= set(fields.applied)
