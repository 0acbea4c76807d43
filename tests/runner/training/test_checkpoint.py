"""Checkpoints and kept weights; interrupted runs are in tests/faults."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from rich.console import Console
from transformers import GPT2LMHeadModel

from conf.errors import UsageError
from gpt2.config import Activation, Norm
from gpt2.model import GPT
from runner.api import train
from runner.data.stream import HeldOut
from runner.export import export
from runner.files import DamagedFile
from runner.folder import RunFolder
from runner.identity import as_plain
from runner.record import CHECKPOINT, read_run
from runner.training.checkpoint import Checkpoints
from runner.training.evaluation import evaluate, mean_and_error
from runner.training.optimizer import build_optimizers
from runner.training.parallel import Parallel
from runner.training.weights import load_tensors, load_weights, save_tensors, save_weights
from tests.conftest import Settings
from tests.records import synthetic_run
from tests.runner.conftest import QUICK, Runs
from tests.runner.test_products import products
from tests.runner.training.test_flow_checks import CONFIG


def checkpoints(settings: Settings, folder: Path, *overrides: str) -> tuple[Checkpoints, str]:
    """The checkpoints of a started run, and what was printed when they were opened."""
    config = settings("+stage=step09", *overrides)
    opened = RunFolder(folder)
    opened.start(synthetic_run(config=as_plain(config)), afresh=False)
    model = GPT(config.model, config.seed)
    output = io.StringIO()
    console = Console(file=output, width=500)
    optimizers = build_optimizers(model, config.train)
    alone = Parallel(torch.device("cpu"))
    return Checkpoints(config, opened, model, optimizers, alone, console), output.getvalue()


def test_a_checkpoint_of_another_run_or_precision_is_renamed_and_not_used(
    settings: Settings, tmp_path: Path
) -> None:
    of = {"fingerprint": "one", "products": products(bf16=200)}
    for now, used in (
        ({"products": products(bf16=250)}, True),
        ({"products": products(bf16=100)}, False),
        ({"fingerprint": "another"}, False),
    ):
        kept, _ = checkpoints(settings, tmp_path)
        vars(kept.folder.run).update(of)
        kept.write()
        vars(kept.folder.run).update(now)
        assert kept.resume() is used
        name = f"checkpoint.safetensors{'' if used else '.damaged'}"
        assert [path.name for path in tmp_path.glob("checkpoint*")] == [name]
        (tmp_path / name).unlink()


def test_a_run_beyond_the_guide_resumes_bit_by_bit(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = "+stage=together", "train.steps=6", "train.compile=false", "train.autocast=none"
    whole, steps = runs(*overrides)
    runs.interrupted(monkeypatch, 3, *overrides)
    moments = {name.rpartition(".")[2] for name in load_tensors(runs.last / CHECKPOINT)[0]}
    assert {"momentum_buffer", "exp_avg_sq"} <= moments
    fields, resumed = runs(*overrides, again=True)
    assert fields.resumed_at == [4]
    measured = ["loss", "grad_norm", "lr"]
    pd.testing.assert_frame_equal(resumed[measured], steps[measured], check_exact=True)
    assert fields.results.held_out == whole.results.held_out


def test_weights_that_gpt2_can_hold_are_read_by_transformers(tmp_path: Path) -> None:
    config = replace(
        CONFIG, vocab_size=50257, norm=Norm.layer, residual=True, pad_vocab=True,
        activation=Activation.relu2, tie_word_embeddings=False,
    )  # fmt: skip
    model = GPT(config, seed=1).eval()
    save_weights(config, model.state_dict(), tmp_path / "weights")
    export(tmp_path / "weights", tmp_path / "exported")
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path / "exported").eval()
    tokens = torch.arange(16).view(1, 16) * 2000
    torch.testing.assert_close(theirs(tokens).logits, model(tokens)[0], atol=1e-4, rtol=1e-4)


def test_weights_older_than_a_key_are_those_of_the_plain_model(tmp_path: Path) -> None:
    model = GPT(replace(CONFIG, vocab_size=50257), seed=1)
    save_weights(model.config, model.state_dict(), tmp_path / "new")
    tensors, metadata = load_tensors(tmp_path / "new")
    config = json.loads(metadata["config"])
    newer = ("dropout", "positions", "qk_norm", "bias", "tie_word_embeddings", "logit_softcap")
    old = {"config": json.dumps({k: v for k, v in config.items() if k not in newer})}
    save_tensors(tmp_path / "old", tensors, old)
    assert load_weights(tmp_path / "old").config == model.config


def test_every_flipped_bit_of_a_checkpoint_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "tensors"
    save_tensors(path, {"a": torch.arange(6.0), "b": torch.tensor(1)}, {"of": "a test"})
    content = path.read_bytes()
    for bit in range(0, len(content) * 8, 5):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(DamagedFile):
            load_tensors(path)


def test_due_by_steps_by_minutes_by_both_or_never(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    every = "train.checkpoint_every"
    for overrides, expected in {
        (f"{every}.steps=3", f"{every}.minutes=null"): [2, 5, 8],
        (f"{every}.minutes=2",): [2, 5, 8],
        (f"{every}.steps=3", f"{every}.minutes=1.5"): [1, 2, 4, 5, 7, 8],
        (f"{every}.minutes=null",): [],
    }.items():
        kept, _ = checkpoints(settings, tmp_path, *overrides)
        due = []
        for step in range(9):
            now += 45
            kept.folder.steps.append(None)  # type: ignore[arg-type] - only their number counts
            if kept.due():
                due.append(step)
                kept.written = now
        assert due == expected


def test_missing_disk_space_is_reported_before_training(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 2**20}))
    _, printed = checkpoints(settings, tmp_path)
    assert "1.0 MB are free, but a checkpoint needs 39.9 MB" in printed
    with pytest.raises(UsageError, match="checkpoint=best keeps need"):
        checkpoints(settings, tmp_path, "checkpoint=best")


def test_without_space_for_its_weights_a_finished_run_stays_as_it_is(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("step05", *words, *QUICK, "train.steps=2")
    finished = train(*asked).folder
    before = {file.name: file.read_bytes() for file in finished.iterdir()}
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 2**20}))
    for typed in ("checkpoint=last", "force=true"):
        with pytest.raises(UsageError, match="free some space"):
            train(*asked, "checkpoint=last", typed)
    after = {file.name: file.read_bytes() for file in finished.iterdir()}
    assert after.pop("asked.csv").startswith(before.pop("asked.csv"))
    assert after == before


def test_the_best_weights_are_those_of_the_lowest_held_out_loss(runs: Runs) -> None:
    overrides = (
        "+stage=step05", "train.steps=9", "checkpoint=best", "train.checkpoint_every.steps=2",
        "train.learning_rate=1", "train.schedule=cosine", "train.warmup_steps=9",
    )  # fmt: skip
    fields, _ = runs(*overrides)
    weights = fields.weights
    assert weights is not None
    assert weights.held_out is not None
    assert weights.held_out < fields.results.held_out, "this rate's end is worse than its best"
    assert weights.steps in (2, 4, 6, 8)
    kept = load_weights(runs.last / "weights.safetensors")
    corpus = runs.corpus(runs.settings(*overrides))
    off = torch.autocast("cpu", enabled=False)
    again, _ = mean_and_error(evaluate(kept, HeldOut(corpus.held_out, 32, 128), 2, off, 0))
    assert again == pytest.approx(weights.held_out, abs=1e-6)
    assert read_run(runs.last).weights == weights


def test_kept_weights_come_back_bit_for_bit_with_their_configuration_or_are_refused_by_name(
    tmp_path: Path,
) -> None:
    model = GPT(replace(CONFIG, norm=Norm.batch, vocab_size=50257, pad_vocab=True), seed=5)
    model(torch.arange(32).view(2, 16), torch.arange(32).view(2, 16))
    path = tmp_path / "weights.safetensors"
    save_weights(model.config, model.state_dict(), path)
    loaded = load_weights(path)
    assert loaded.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"weights\.safetensors: not weights.*checksum"):
        load_weights(path)
