"""Each finding is made where its fault is, and none in a healthy run."""

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

import runner
from runner.files import seal, unseal
from runner.findings import find
from runner.observations import Inspection, Layer, Severity
from runner.record import DataInfo, ModelInfo, Run, parse_run
from runner.rows import Step, Window
from tests.records import CONFIG, synthetic_run
from tests.runner.conftest import Runs

UNIFORM = math.log(50257)
ERRORS = (
    "future_leak", "targets_not_shifted", "labels_unrelated", "frozen_parameters",
    "accumulation_scale", "repeated_batch",
)  # fmt: skip
LAYERS = [Layer("h.0", 0.03, 1e-2), Layer("h.1", 0.04, 1e-2), Layer("ln_f", 0.9, 1e-3)]
OWN = {"target": "net:Net"}
NOTHING = dict.fromkeys(("dead_units", "grad_norm", "later", "update"))
LOOK = Inspection(
    0, LAYERS, 0.0, 3.0, 0.0, "", 1.0, 0.0, 0.01, [], 2.0, 1.0,
)  # fmt: skip


def looks(**changed: Any) -> list[Inspection]:
    return [replace(LOOK, **{"step": at, "batch": str(at), **changed}) for at in (0, 25, 49)]


def found(
    looks: list[Inspection],
    loss: Callable[[int], float] = lambda step: UNIFORM - 0.05 * step,
    held_out: tuple[float, ...] = (9.5, 8.5),
    clip: float | None = None,
    norm: float = 2.0,
    train_tokens: int = 100_000,
    model: dict[str, str] | None = None,
    frozen: tuple[str, ...] = (),
) -> dict[str, Severity]:
    """The findings of a run of 50 steps of 256 tokens."""
    config = {
        **CONFIG,
        "model": {"name": "synthetic", "vocab_size": 50257, **(model or {})},
        "data": {"order": "shuffled"},
        "train": {**CONFIG["train"], "clip_grad_norm": clip},
        "recipe": None,
    }
    data = DataInfo("text", "test", train_tokens=train_tokens, unigram_entropy=6.3)
    sizes = ModelInfo(1000, 6000, list(frozen))
    run = synthetic_run(config=config, data=data, looks=looks, model=sizes)
    steps = [Step(step, loss(step), norm, 3e-4, 10.0, 256) for step in range(50)]
    windows = [Window(25 * (i + 1), 0, 64, value) for i, value in enumerate(held_out)]
    return {finding.name: finding.severity for finding in find(run, steps, windows)}


def layers(activations: tuple[float, ...], gradients: tuple[float, ...]) -> list[Layer]:
    pairs = zip(activations, gradients, strict=True)
    return [Layer(f"h.{i}", *pair) for i, pair in enumerate(pairs)]


@pytest.mark.parametrize(
    ("given", "changed"),
    [
        (looks(), {}),
        ([], {}),
        (looks(later=1e-7), {}),  # the rounding of a model that computes all positions together
        (looks(), {"held_out": (6.6, 6.3)}),  # it falls near the entropy of single tokens
        (looks(), {"held_out": (9.5, 9.6)}),  # on a text seen once
        (looks(dead_units=0.6), {"model": {"activation": "relu2"}}),  # off for a sequence
        ([replace(LOOK, frozen=["bias"])], {"model": {"zero_init": True}}),  # the first step alone
        (looks(layers=[Layer(layer.name, None, None) for layer in LAYERS], **NOTHING), {}),
    ],
)
def test_a_healthy_run_has_none(given: list[Inspection], changed: dict[str, Any]) -> None:
    assert found(given, **changed) == {}


def test_only_a_model_of_ones_own_leaves_parameters_frozen_on_purpose() -> None:
    still = looks(frozen=["wte.weight", "wpe.weight"])
    given = ("wte.weight", "wpe.weight")
    assert found(still, frozen=given) == {"frozen_parameters": Severity.error}
    assert found(still, model=OWN, frozen=given) == {"frozen_parameters": Severity.note}
    assert found(still, model=OWN, frozen=given[:1]) == {"frozen_parameters": Severity.error}


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("future_leak", {"later": 1e-3}),
        ("targets_not_shifted", {"copied": 1.0, "shifted": 0.02}),
        ("labels_unrelated", {"shifted": 0.04}),
        ("frozen_parameters", {"frozen": ["wte.weight"]}),
        ("accumulation_scale", {"weight": 8.0}),
        ("activations_collapse", {"layers": layers((0.03, 0.03, 0.03), (1, 1, 1))}),
        ("activations_collapse", {"layers": layers((0.03, 1e-4, 1e-5), (1, 1, 1))}),
        ("activations_explode", {"layers": layers((1, 100, 10_000), (1, 1, 1))}),
        ("vanishing_gradients", {"layers": layers((1, 1, 1), (1e-4, 1e-2, 1))}),
        ("exploding_gradients", {"layers": layers((1, 1, 1), (1e4, 1, 1))}),
        ("dead_units", {"dead_units": 0.5}),
        ("learning_rate_high", {"update": 1.5}),
        ("learning_rate_low", {"update": 1e-4}),
        ("repeated_batch", {"batch": "1"}),
        ("init_loss_high", {"loss": lambda step: 30 - 0.4 * step}),
        ("init_loss_low", {"loss": lambda step: 5 - 0.02 * step}),
        ("stuck_at_unigram", {"held_out": (6.4, 6.39)}),
        ("overfitting", {"train_tokens": 4000, "held_out": (9.5, 9.6)}),
        ("always_clipped", {"clip": 1.0}),
    ],
)
def test_a_look_and_the_losses_name_what_they_show(name: str, given: dict[str, Any]) -> None:
    shown = {key: given[key] for key in given.keys() & vars(LOOK)}
    findings = found(looks(**shown), **{key: given[key] for key in given.keys() - shown})
    assert list(findings) == [name]
    assert (findings[name] is Severity.error) == (name in ERRORS)


def test_units_that_come_back_are_not_dead() -> None:
    first, middle, last = looks()
    assert found([first, replace(middle, dead_units=0.5), last]) == {}


@pytest.mark.parametrize(
    ("high", "severity"),
    [((30,), Severity.note), ((30, 31), Severity.warning), ((30, 44), Severity.warning),
     ((49,), Severity.warning)],
)  # fmt: skip
def test_one_high_step_is_a_note_where_the_next_one_is_back(
    high: tuple[int, ...], severity: Severity
) -> None:
    steps = found(looks(), lambda step: 14.0 if step in high else UNIFORM - 0.05 * step)
    assert steps == {"loss_spike": severity}


def test_a_diverged_run_says_so_first() -> None:
    names = found(looks(update=2.0), loss=lambda step: math.nan if step == 49 else 11.0)
    assert list(names) == ["diverged", "learning_rate_high"]


def test_advice_names_the_stage_that_changes_a_setting_the_users_own_too(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / "early.yaml").write_text(
        "# @package _global_\ndefaults: [step02, _self_]\nmodel: {norm: rms}\n"
    )
    runner.train("step03", *words, "train.steps=2", config_dirs=[tmp_path])
    advice = "Set model.residual (step05), after model.init and model.norm (early)"
    assert f"{advice}." in capsys.readouterr().out


def test_advice_names_what_a_run_lacks_and_nothing_that_it_has(words: list[str]) -> None:
    entries = "without=[step04]", "plus=[step08]"
    changed = runner.train("step05", *words, "train.steps=1", *entries).record.changed_by
    assert changed["model.norm"] == "step04"
    assert changed["train.schedule"] == "step09"
    assert changed.keys().isdisjoint({"model.init", "model.residual", "train.clip_grad_norm"})
    assert "train.learning_rate" not in changed, (
        "step09 raises it, where most advice is to lower it"
    )


def test_advice_names_a_setting_alone_where_no_stage_changes_it(runs: Runs) -> None:
    run, _ = runs("+stage=step03", "train.steps=2")
    advice = [finding.advice for finding in run.findings]
    assert "Set model.residual, after model.init and model.norm." in advice


@pytest.mark.slow
def test_findings_and_looks_are_kept_in_the_record(runs: Runs) -> None:
    run, _ = runs("+stage=step08", "scale=smoke")
    read: Run = parse_run(unseal(seal(asdict(run))))
    assert [look.step for look in read.looks] == [0, 25, 49]
    assert read.looks == run.looks
    assert [finding.name for finding in read.findings] == ["always_clipped"]
    assert read.timings.diagnosis_s > 0


@pytest.mark.parametrize(
    ("name", "override"),
    [
        ("future_leak", "model.norm=batch"),
        pytest.param("learning_rate_high", "train.learning_rate=3e-2", marks=pytest.mark.slow),
        pytest.param("activations_collapse", "model.norm=none", marks=pytest.mark.slow),
        pytest.param("init_loss_high", "model.gain=100", marks=pytest.mark.slow),
    ],
)
def test_a_fault_of_the_settings_is_named(name: str, override: str, runs: Runs) -> None:
    run, _ = runs("+stage=step05", "scale=smoke", override)
    assert name in [finding.name for finding in run.findings]
