"""The training loop: which settings change its numbers, and which do not."""

import math
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, example, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from gpt2.config import Attention
from gpt2.model import GPT
from runner.data.stream import HeldOut, TokenStream
from runner.identity import as_plain, conditions
from runner.record import Status
from runner.training.evaluation import evaluate
from tests.runner.conftest import Runs
from tests.runner.test_products import products
from tests.runner.training.test_hellaswag import GOOD, write

MEASURED = ["loss", "grad_norm", "lr", "tokens"]
EAGER = ("train.compile=false", "train.autocast=none")


@pytest.mark.parametrize("stage", ["step05", "step10"])
def test_what_observes_a_run_changes_no_bit_of_it(runs: Runs, tmp_path: Path, stage: str) -> None:
    """Evaluations, HellaSwag, samples and looks; and the same seed gives the same bits."""
    items = write(tmp_path / "items", GOOD, {**GOOD, "label": 1}, {**GOOD, "label": 0})
    common = f"+stage={stage}", "train.steps=7", "model.dropout=0.1"
    asked = "evaluation.samples=true", f"evaluation.hellaswag={items}"
    seen, steps = runs(*common, "evaluation.every=2", *asked, "evaluation.hellaswag_items=2")
    often = pd.read_csv(runs.last / "held_out.csv")
    plain, alone = runs(*common, "evaluation.every=null", "diagnose=false")
    once = pd.read_csv(runs.last / "held_out.csv")
    pd.testing.assert_frame_equal(steps[MEASURED], alone[MEASURED], check_exact=True)
    last = often[often.step == 7].reset_index(drop=True)
    pd.testing.assert_frame_equal(last, once, check_exact=True)
    assert often.step.unique().tolist() == [2, 4, 6, 7]
    assert [sample.step for sample in seen.samples] == [2, 4, 6, 7]
    assert plain.samples == seen.samples[-1:]
    assert [(found.step, found.items) for found in seen.hellaswag] == [
        (2, 2),
        (4, 2),
        (6, 2),
        (7, 2),
    ]
    assert seen.results.hellaswag_acc_norm == seen.hellaswag[-1].acc_norm
    assert [look.step for look in seen.looks] == [0, 2, 4, 6]
    assert plain.hellaswag == plain.looks == []


def test_the_held_out_loss_is_the_mean_over_windows_that_are_those_of_every_stage(
    runs: Runs,
) -> None:
    fields, _ = runs("+stage=step05", "train.steps=1")
    windows = pd.read_csv(runs.last / "held_out.csv")
    config = runs.settings("+stage=step05")
    rare, _ = runs("+stage=step01", "train.steps=1", given=conditions(as_plain(config)))
    others = pd.read_csv(runs.last / "held_out.csv")
    assert windows.first_token.tolist() == others.first_token.tolist()
    assert fields.data.windows_sha256 == rare.data.windows_sha256
    assert fields.results.held_out == pytest.approx(windows.loss.mean(), abs=1e-12)
    assert fields.results.held_out_error == pytest.approx(windows.loss.sem(), abs=1e-12)

    corpus = runs.corpus(config)
    model = GPT(config.model, config.seed).eval()
    autocast = torch.autocast("cpu", enabled=False)
    window = evaluate(model, HeldOut(corpus.held_out, 32, 128), 3, autocast, step=0)[-1]
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
@example(rate=1e18, steps=50, evaluated=EVALUATED[0], kept="none")
def test_a_run_is_finished_exactly_where_its_last_weights_are_finite(
    runs: Runs, rate: float, steps: int, evaluated: tuple[str, ...], kept: str
) -> None:
    asked = ("+stage=step02", f"train.steps={steps}", f"train.learning_rate={rate}")
    run, table = runs(*asked, *evaluated, f"checkpoint={kept}")
    held_out = pd.read_csv(runs.last / "held_out.csv")
    measured = [*table.loss, *table.grad_norm, *held_out.loss]
    assert run.status is (Status.finished if all(map(math.isfinite, measured)) else Status.diverged)
    assert math.isfinite(run.results.held_out) == (run.status is Status.finished)
    if run.status is Status.diverged:
        assert run.diverged_at == table.step.iloc[-1]
        before = [*table.loss[:-1], *held_out.loss[held_out.step < len(table)]]
        assert all(map(math.isfinite, before))
        assert (run.message or "").endswith(f"is not finite at step {run.diverged_at}.")


def test_label_smoothing_changes_what_is_learned_and_not_what_is_reported(runs: Runs) -> None:
    common = "+stage=step05", "train.steps=3", *EAGER
    _, plain = runs(*common)
    run, smoothed = runs(*common, "train.label_smoothing=0.2")
    assert smoothed.loss[0] == plain.loss[0]
    assert smoothed.grad_norm[0] != plain.grad_norm[0]
    assert smoothed.loss[2] != plain.loss[2]
    assert "label smoothing of 0.2" in run.applied
    # What backward starts with at the loss: the weights of the micro batches sum to 1.
    assert run.looks[0].weight == pytest.approx(1)


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
    eager = *EAGER, "train.steps=5"
    _, accumulated = runs("+stage=step10", *eager)
    at_once = "train.micro_batch_size=4", "train.total_batch_tokens=null"
    _, large = runs("+stage=step09", *eager, *at_once)
    pd.testing.assert_frame_equal(accumulated[MEASURED], large[MEASURED], atol=1e-4, rtol=1e-4)
    assert set(accumulated.tokens) == {128}


def test_the_first_two_steps_are_those_of_a_plain_loop(runs: Runs) -> None:
    """An independent loop in float64 on the weights and tokens of the same seed."""
    asked = "+stage=step08", "train.compile=false", "train.steps=2", "seed=2"
    fields, steps = runs(*asked)
    config = runs.settings(*asked)
    stream = TokenStream(runs.corpus(config).train, 2, 32, seed=2)
    model = GPT(config.model, seed=2).double()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
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
    common = "+stage=step07", *EAGER, "train.steps=2"
    _, free = runs(*common)
    _, clipped = runs(*common, "train.clip_grad_norm=1e-8")
    assert free.grad_norm[0] == clipped.grad_norm[0] > 1
    assert free.loss[0] == clipped.loss[0]
    assert free.loss[1] != clipped.loss[1]


@pytest.mark.parametrize("stage", ["step09", "step10", "muon"])
def test_the_gradients_of_a_step_are_gone_when_the_next_one_begins(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    gradients: list[weakref.ref[torch.Tensor]] = []
    alive = []

    def note(optimizer: Optimizer, *_: object) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients.extend(weakref.ref(p.grad) for p in parameters)

    read = TokenStream.micro_batch

    def count(stream: TokenStream, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        alive.append(sum(gradient() is not None for gradient in gradients))
        return read(stream, number)

    monkeypatch.setattr(TokenStream, "micro_batch", count)
    noted = register_optimizer_step_pre_hook(note)
    try:
        runs(f"+stage={stage}", "train.steps=3", *EAGER)
    finally:
        noted.remove()
    assert len(gradients) > 60
    assert len(alive) > 3  # looks read micro batches, too
    assert not any(alive)


@pytest.mark.skipif(sys.platform != "linux", reason="nothing resets the peak here")
def test_what_measures_the_device_is_not_in_a_runs_peak_of_memory(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = 2_000_000_000

    def measure(*_: object) -> tuple[float, float]:
        torch.ones(large, dtype=torch.uint8)
        return 1e9, 1e9

    fields, _ = runs("+stage=step02", "train.steps=1")
    with monkeypatch.context() as patched:
        patched.setattr("runner.training.loop.square_flops", measure)
        after, _ = runs("+stage=step02", "train.steps=1")
    assert after.results.peak_memory_bytes < fields.results.peak_memory_bytes + large / 2


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
    loop = "runner.training.loop"
    rates = products(highest=1e-6, high=1e-6, medium=1e-6, bf16=1e-6)
    for known, square, used in ((1e15, 1e3, "little"), (1e3, 1e15, "little"), (1e3, 1e3, "all")):
        found = replace(rates, peak_flops=known)
        monkeypatch.setattr(f"{loop}.find_products", lambda *_, found=found: found)
        monkeypatch.setattr(f"{loop}.square_flops", lambda *_, rate=square: (rate, rate))
        results = runs("+stage=step02", "train.steps=2")[0].results
        assert results.flops_before == results.flops_after == square
        assert results.mfu < 1e-3 if used == "little" else results.mfu == 1


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


@pytest.mark.parametrize(("attention", "init"), zip(Attention, ["xavier", "kaiming"], strict=True))
def test_other_choices_train_by_override(runs: Runs, attention: Attention, init: str) -> None:
    changed = f"model.attention={attention.name}", f"model.init={init}", "model.norm=rms"
    fields, _ = runs("+stage=step05", *changed, "train.steps=2")
    assert fields.status is Status.finished
    assert {f"{init} initialisation", "rms norm", "residual stream"} <= set(fields.applied)
