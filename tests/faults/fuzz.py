"""Random input from hypothesis: overrides, texts and damaged records.

Every case must end in a valid run or in one sentence and a status that is not 0; never in a
traceback, and with no file outside the output and cache folders. The command runs inside this
process, so that thousands of cases take minutes.
"""

import contextlib
import io
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

import reports
from conf.errors import UsageError
from conf.schema import Config
from gpt2.config import GPTConfig
from runner import __main__ as command
from runner import run
from runner.files import seal, unseal
from tests.runner.test_settings import BROKEN

# A valid configuration is really trained up to this size; a larger one is only composed.
SMALL = {"n_layer": 4, "n_embd": 128, "tokens": 256, "steps": 3, "peak_seconds": 1}

NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([0, -1, 1, 2, 3, 64, 128, 1.0, 2**31, 2**63, 10**30, -(10**30), 1e-320]),
)
WORDS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["", "null", "true", "nan", "inf", "''", '"', "'", "\n", "$(id)", "`id`", "; id", "| id",
         "a,b", "[1,2]", "{a: 1}", "[", "{", "${seed}", "${nothing}", "${oc.env:HOME}", "${",
         "???", "../..", "/", "~", "\\", "%s", "\x00", "\u202e", "数据", "glob(*)", "range(1,3)",
         "_target_", "smoke", "layer", "flash", "bf16", "gpt2", "step02", "step07"]
    ),
)  # fmt: skip
PLAUSIBLE = st.sampled_from(
    ["1", "2", "3", "4", "8", "32", "64", "0.5", "1e-3", "0", "-1", "true", "false", "null", "cpu"]
)
KEYS = st.sampled_from(
    ["seed", "device", "checkpoint", "force", "experiment", "stage", "model", "data", "scale",
     "sample", "train", "evaluation", "hydra", "quiet", "train.steps", "train.micro_batch_size",
     "train.context", "train.total_batch_tokens", "train.learning_rate", "train.schedule",
     "train.warmup_steps", "train.min_lr_ratio", "train.betas", "train.eps", "train.weight_decay",
     "train.decay_matrices_only", "train.fused", "train.clip_grad_norm", "train.autocast",
     "train.matmul_precision", "train.compile_scope", "train.flow_checks", "train.checkpoint_every",
     "train.checkpoint_every.steps", "train.checkpoint_every.minutes", "evaluation.tokens",
     "evaluation.every", "evaluation.peak_seconds", "repeat", "report", "report.margin",
     "model.n_layer", "model.n_head", "model.n_embd",
     "model.context_length", "model.vocab_size", "model.norm", "model.residual", "model.init",
     "model.gain", "model.attention", "model.pad_vocab", "model.name", "data.name", "data.path",
     "data.url", "data.sha256", "data.held_out_fraction", "data.column", "data.tokens",
     "data.order", "scale.name", "scale.flow_context",
     "scale.accumulate_to_tokens", "sample.prompt", "sample.tokens", "sample.temperature",
     "sample.top_k", "sample.seed", "stage.name", "stage.title", "stage.aim", "stage.claims",
     "nothing", "train.nothing", "logger", "logger.name"]
)  # fmt: skip
KEYED = st.builds(
    lambda sign, key, value: f"{sign}{key}={value}",
    st.sampled_from(["", "", "", "", "+", "++", "~"]),
    KEYS,
    st.integers(0, 9).flatmap(lambda n: PLAUSIBLE if n < 6 else NUMBERS.map(str) | WORDS),
)
# Keys with two characters exchanged, and values at every bound and beside it.
NEAR_MISSES = st.builds(
    lambda sign, key: f"{sign}{key[:-2]}{key[-1]}{key[-2]}=1", st.sampled_from(["", "+"]), KEYS
)
AT_BOUNDS = st.builds(
    lambda broken, beside: f"{broken[0]}={broken[1] + beside}",
    st.sampled_from([(key, value) for key, value in BROKEN if not isinstance(value, str)]),
    st.sampled_from([-1, 0, 1, 1e-9, -1e-9]),
)
OVERRIDES = st.lists(
    st.integers(0, 11).flatmap(
        lambda n: KEYED if n < 8 else [WORDS, NEAR_MISSES, AT_BOUNDS, AT_BOUNDS][n - 8]
    ),
    min_size=1,
    max_size=3,
)
TEXTS = st.one_of(
    st.binary(max_size=2000),
    st.text(max_size=2000).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.builds(lambda part, times: part.encode() * times, st.text(min_size=1), st.integers(1, 3000)),
)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@dataclass(frozen=True)
class Damage:
    """Damage to one file of a record: random bytes at a place, or a random value in a field."""

    file: str
    place: float
    junk: bytes
    field: Any

    def apply(self, folder: Path) -> None:
        """Damage the file in a run's folder."""
        path = folder / self.file
        content = path.read_bytes()
        if self.file == "run.json" and not self.junk:
            fields = unseal(content)
            node, (*parents, key) = fields, self._path(fields)
            for parent in parents:
                node = node[parent]
            node[key] = self.field
            path.write_bytes(seal(fields))
            return
        at = int(self.place * len(content))
        path.write_bytes(content[:at] + self.junk + content[at + 2 * len(self.junk) + 1 :])

    def _path(self, fields: dict[str, Any]) -> list[str]:
        paths = [[key] for key in fields]
        for key, value in fields.items():
            paths += [[key, inner] for inner in value] if isinstance(value, dict) else []
        return paths[int(self.place * (len(paths) - 1))]


DAMAGE = st.builds(
    Damage,
    st.sampled_from(["run.json", "run.json", "steps.csv", "held_out.csv", "asked.csv"]),
    st.floats(0, 1),
    st.one_of(st.just(b""), st.binary(max_size=9)),
    JSON,
)


@dataclass
class Sandbox:
    """The current folder while cases run; only outputs/ and cache/ may be written in it."""

    folder: Path
    text: Path
    trained: int = 0
    refused: int = 0
    composed: int = 0

    def runner(self, *arguments: str) -> int:
        """`python -m runner`, its flags before overrides, in this process; asserts how it ends."""
        is_override = ["=" in word and not word.startswith("-") for word in (*arguments, "=")]
        flags, typed = arguments[: (at := is_override.index(True))], arguments[at:]
        overrides = [
            "+stage=step02", "scale=smoke", "device=cpu", "data=text", f"data.path={self.text}",
            "train.steps=1", "evaluation.tokens=32", "sample.tokens=2", "train.compile=false",
            "evaluation.peak_seconds=0.01", f"cache_dir={self.folder}/cache",
            "~hydra.callbacks.report",
        ]  # fmt: skip
        output, errors = io.StringIO(), io.StringIO()
        try:
            with (
                patch.dict(os.environ),
                patch.object(sys, "argv", ["runner", *flags, *overrides, *typed]),
                contextlib.redirect_stdout(output),
                contextlib.redirect_stderr(errors),
            ):
                command.main()
            status = 0
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 1
        finally:
            torch.set_flush_denormal(False)  # hypothesis draws denormal floats too
        printed = self.last = output.getvalue() + errors.getvalue()
        assert "Traceback" not in printed, printed
        ours = "model=custom" not in arguments  # whose own code may fail in any way
        assert not (ours and "(traceback in " in printed), printed
        assert status in (0, 1, 2), (status, printed)
        if status == 0:
            self.trained += 1
        else:
            self.refused += 1
            assert printed.strip(), "it ended without a message"
        self.check_nothing_outside()
        return status

    def damaged(self, damage: Damage, whole: bool) -> None:
        """Damage one of two records, and read them; `whole` writes the report too.

        A record that cannot be read must be named, or refused in a sentence.
        """
        kept, experiment = self.folder / "outputs" / "kept", self.folder / "outputs" / "damaged"
        if not kept.exists():
            assert self.runner("experiment=kept", "seed=1") == 0
            assert self.runner("experiment=kept", "seed=2") == 0
        shutil.rmtree(experiment, ignore_errors=True)
        shutil.copytree(kept, experiment)
        damage.apply(next(experiment.glob("step02/seed1-*")))
        try:
            records = reports.load(experiment)
        except UsageError as error:
            self.refused += 1
            sentences = str(error)
        else:
            self.trained += 1
            sentences = f"{len(records.runs)} runs. {' '.join(records.problems)}"
            if whole:
                reports.write_report([experiment])
        assert "." in sentences

    def check_nothing_outside(self) -> None:
        """Assert that nothing but outputs/ and cache/ is in the folder."""
        outside = {path.name for path in self.folder.iterdir()} - {"outputs", "cache"}
        assert outside == {self.text.name}, outside


def few(cases: int) -> settings:
    """So many cases for a test, the same each time; the benchmark draws many more."""
    return settings(
        max_examples=cases,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def check_overrides(box: Sandbox, overrides: list[str]) -> None:
    """Random overrides end in a run or a sentence."""
    box.runner(*overrides)


def check_text(box: Sandbox, text: bytes) -> None:
    """Random bytes as a text end in a run or a sentence."""
    box.text.write_bytes(text)
    box.runner("train.context=4", "train.micro_batch_size=1", "force=true")


def check_damage(box: Sandbox, damage: Damage) -> None:
    """Random damage to a record ends in a report or a sentence."""
    box.damaged(damage, whole=damage.place < 0.05 or box.trained < 10)


@contextlib.contextmanager
def sandbox(folder: Path, text: bytes) -> Iterator[Sandbox]:
    """A sandbox in which large configurations are composed and checked, and small ones trained."""
    (folder / "text.txt").write_bytes(text)
    box = Sandbox(folder, folder / "text.txt")
    train_recorded = run.train_recorded

    def train_small(config: Config, *rest: Any) -> None:
        train, model = config.train, config.model
        tokens = train.total_batch_tokens or train.micro_batch_size * train.context
        large = (
            (isinstance(model, GPTConfig) and model.n_layer > SMALL["n_layer"])
            or (isinstance(model, GPTConfig) and model.n_embd > SMALL["n_embd"])
            or max(tokens, config.evaluation.tokens, config.sample.tokens) > SMALL["tokens"]
            or max(model.context_length, model.vocab_size - 50257) > 1024
            or train.steps > SMALL["steps"]
            or config.evaluation.peak_seconds > SMALL["peak_seconds"]
        )
        if large:
            box.composed += 1
            raise UsageError("It is valid but too large to be trained here.")
        train_recorded(config, *rest)

    here = Path.cwd()
    with patch.object(run, "train_recorded", train_small):
        os.chdir(folder)
        try:
            yield box
        finally:
            os.chdir(here)
