"""Custom models through the ladder, by the command line."""

import json
import linecache
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch

from conf.errors import UsageError
from runner.data.stream import TokenStream
from runner.identity import hash_with_source
from runner.record import Run, read_runs
from runner.rows import read_asked
from runner.source import read_source
from tests.conftest import CommandLine, Settings, load_quietly

GRU = """
from torch import nn


class Net(nn.Module):
    def __init__(self, width=16, kind="none", skip=False):
        super().__init__()
        self.embedding = nn.Embedding(50257, width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.norm = nn.LayerNorm(width) if kind == "layer" else nn.Identity()
        self.head = nn.Linear(width, 50257)
        self.skip = skip

    def forward(self, tokens):
        x = self.embedding(tokens)
        y = self.gru(x)[0]
        return self.head(self.norm(x + y if self.skip else y))
"""

HUGGING_FACE = """
from transformers import GPT2Config, GPT2LMHeadModel


def build(**sizes):
    dropout = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    return GPT2LMHeadModel(GPT2Config(**sizes, **dropout))
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with custom models."""
    for name, source in (("gru", GRU), ("hf", HUGGING_FACE)):
        (tmp_path / f"own_{name}.py").write_text(source)
    return tmp_path


@pytest.fixture
def custom(command_line: CommandLine, own: Path) -> CommandLine:
    def run(*arguments: str, target: str = "own_gru:Net", **more: str) -> object:
        words = ["model=custom", f"model.target={target}", *arguments]
        return command_line(*words, PYTHONPATH=str(own), **more)

    return run  # type: ignore[return-value]


def records(folder: Path) -> dict[str, Run]:
    """The newest record of each stage."""
    found = sorted(read_runs(folder / "outputs" / "ladder").values(), key=lambda run: run.started)
    return {run.stage.name: run for run in found}


@pytest.mark.slow
def test_what_the_model_lacks_is_said_and_recorded_as_not_applicable(
    custom: CommandLine, own: Path
) -> None:
    few = ("train.steps=2", "model.knobs={norm: kind}")
    done = custom("+stage=step03", *few)
    assert done.returncode == 0, done.stderr
    assert "not applied: gpt2 initialisation: own_gru:Net has no knob init" in done.stdout
    assert "not applicable: it trains exactly as step02" in done.stdout
    record = records(own)["step03"]
    assert record.stage.same_as == "step02"
    assert record.stage.changes == {}
    # The norm of step 4 is a knob that the model has.
    done = custom("+stage=step04", *few, "model.arguments={width: 8}")
    assert "not applicable" not in done.stdout
    record = records(own)["step04"]
    assert record.stage.same_as is None
    assert record.stage.changes == {"model.norm": ("none", "layer")}
    assert "layer norm" in record.applied
    vocabulary, width = 50257, 8
    gru = 6 * width * (width + 1)
    assert record.model.parameters == vocabulary * (2 * width + 1) + gru + 2 * width


def test_what_a_model_is_made_of_is_part_of_its_identity(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own)
    (own / "words.txt").write_text("a b")
    settings = {"model.target": "own_hf:build", "model.arguments.words": "words.txt"}
    assert read_source("own_hf:build").versions == {"transformers": version("transformers")}
    hashes = [hash_with_source(settings)]
    (own / "words.txt").write_text("a b c")
    hashes.append(hash_with_source(settings))
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.1")
    hashes.append(hash_with_source(settings))
    (own / "own_hf.py").write_text("import transformers\n\n\ndef build(): ...\n")
    hashes.append(hash_with_source(settings))
    assert len(set(hashes)) == len(hashes)
    assert hash_with_source(settings) == hashes[-1]
    assert hash_with_source({}) not in hashes


SCRIPT = """
from dataclasses import dataclass

import own_gru
from torch.nn.functional import relu as activation

WIDTH, RUNS = [8], {}


def wider(width):
    return width + 1


def wider(width=8):
    return activation(width * 2)


@dataclass
class Sizes:
    width: int = 16


class Net(own_gru.Net):
    @staticmethod
    def width():
        RUNS = 3  # another one
        return wider(WIDTH[0] + Sizes().width)
"""


@pytest.mark.parametrize("file", ["script.py", "<cell 7>"])
def test_a_class_of_a_script_or_a_notebook_is_its_text_and_that_of_all_it_uses(
    own: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    monkeypatch.chdir(own)
    monkeypatch.syspath_prepend(str(own))
    monkeypatch.delitem(sys.modules, "own_gru", raising=False)

    def identity(script: str, known: bool = True) -> str:
        main = ModuleType("__main__")
        if file == "script.py":
            main.__file__ = str(own / file)
        place = str(own / file)
        lines = script.splitlines(keepends=True) if known else []
        monkeypatch.setitem(linecache.cache, place, (len(script), None, lines, place))
        exec(compile(script, place, "exec"), main.__dict__)
        monkeypatch.setitem(sys.modules, "__main__", main)
        return hash_with_source({"model.target": "__main__:Net"})

    plain = identity(SCRIPT)
    assert identity(SCRIPT.replace("[8], {}", "[8], {1: 2}") + "\n\nseed = 3\n") == plain
    assert identity(SCRIPT.replace("width + 1", "width + 2")) == plain  # it is defined again
    for old, new in (
        ("[8]", "[9]"), ("* 2", "* 3"), ("= 16", "= 8"), ("import relu", "import silu"),
        ("@static", "# one\n    @static"),
    ):  # fmt: skip
        assert identity(SCRIPT.replace(old, new)) != plain, new
    later = [SCRIPT + f"\nNet.{new}\n" for new in ("depth = 1", "depth = 2", "width = wider")]
    assert len({plain, *map(identity, later)}) == 4
    with pytest.raises(UsageError, match=r"no source of Net\.width, "):
        identity(SCRIPT + "\nNet.width = lambda: 3\n")
    with pytest.raises(UsageError, match="it uses WIDTH, a object that cannot be told"):
        identity(SCRIPT.replace("[8], {}", "object(), {}"))
    (own / "own_gru.py").write_text(GRU.replace("width=16", "width=4"))
    assert identity(SCRIPT) != plain
    with pytest.raises(UsageError, match=r"no source of Net, .* save it as a file"):
        identity(SCRIPT, known=False)


@pytest.mark.slow
def test_changed_source_trains_again_and_the_same_does_not(custom: CommandLine, own: Path) -> None:
    (own / "own_parts.py").write_text("width = 8\n")
    (own / "own_net.py").write_text(
        "from own_gru import Net\nimport own_parts\n\n"
        "def build():\n    return Net(own_parts.width)\n"
    )
    command = ("+stage=step02", "train.steps=2")
    assert custom(*command, target="own_net:build").returncode == 0
    assert "already finished" in custom(*command, target="own_net:build").stdout
    (own / "own_parts.py").write_text("width = 12\n")  # what the target's module imports
    again = custom(*command, target="own_net:build")
    assert "already finished" not in again.stdout
    sizes = {run.model.parameters for run in read_runs(own / "outputs" / "ladder").values()}
    assert len(sizes) == 2


@pytest.mark.slow
def test_a_hugging_face_model_trains_as_in_an_ordinary_loop(
    custom: CommandLine, command_line: CommandLine, own: Path, settings: Settings
) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    steps, context = 8, 32
    sizes = {"n_layer": 2, "n_embd": 32, "n_head": 2, "n_positions": 64, "vocab_size": 50257}
    given = ", ".join(f"{key}: {value}" for key, value in sizes.items())
    done = custom(
        "+stage=step08", f"train.steps={steps}", f"model.arguments={{{given}}}",
        "train.compile=false", "train.autocast=none", "checkpoint=last", target="own_hf:build",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    folder = next((own / "outputs" / "ladder" / "step08").iterdir())
    ours = pd.read_csv(folder / "steps.csv")

    config = settings()
    corpus = load_quietly(
        [Path(str(config.data.path))], Path(config.cache_dir), config.data.held_out_fraction
    )
    stream = TokenStream(corpus.train, 2, context, config.seed, 0, 1)
    torch.manual_seed(config.seed)
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    model = GPT2LMHeadModel(GPT2Config(**sizes, **dropout))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    losses, norms = [], []
    for step in range(steps):
        idx, targets = (
            torch.as_tensor(np.asarray(part)).long() for part in stream.micro_batch(step)
        )
        logits = model(input_ids=idx).logits
        loss = torch.nn.functional.cross_entropy(logits.view(-1, 50257), targets.view(-1))
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    np.testing.assert_allclose(ours.loss, losses, rtol=1e-6)
    np.testing.assert_allclose(ours.grad_norm, norms, rtol=1e-5)

    weights = str(folder / "weights.safetensors")
    elsewhere = {"smoke": False, "PYTHONPATH": str(own)}
    asked = (f"weights={weights}", "sample.tokens=3")
    drawn = command_line(*asked, module="runner.sample", **elsewhere)
    assert drawn.returncode == 0, drawn.stderr
    asked = (f"weights={weights}", f"folder={own}/x")
    exported = command_line(*asked, module="runner.export", **elsewhere)
    assert exported.returncode == 2
    assert "GPT2LMHeadModel holds only GPT-2." in exported.stderr


@pytest.mark.slow
def test_a_recurrent_network_goes_through_the_ladder_with_a_stage_of_its_own(
    custom: CommandLine, command_line: CommandLine, own: Path
) -> None:
    (own / "mine" / "stage").mkdir(parents=True)
    (own / "mine" / "stage" / "step10b.yaml").write_text(
        "# @package _global_\ndefaults: [step10, _self_]\n"
        "stage: {title: Skip connection}\nmodel: {arguments: {skip: true}}\n"
    )
    command = (
        "-m", f"--config-dir={own}/mine", "+stage=glob(step*)", "train.steps=4",
        "model.arguments={width: 64}",
    )  # fmt: skip
    done = custom(*command, report=True)
    assert done.returncode == 0, done.stderr
    listed = custom(*command, "dry_run=true").stdout
    assert listed.count("not applicable: trains exactly as step02") == 3
    assert "11 runs: 11 finished, 0 to train." in listed
    found = records(own)
    asked = {name: read_asked(next((own / "outputs/ladder" / name).iterdir())) for name in found}
    # A stage that is not applicable is no training of its own.
    assert {name: [each.stage for each in lines] for name, lines in asked.items()} == {
        **{name: [name] for name in ("step01", "step08", "step09", "step10", "step10b")},
        "step02": ["step02", "step03", "step04", "step05"],
        "step06": ["step06", "step07"],
    }
    assert len({each.settings for each in asked["step02"]}) == 1
    assert len({each.base for lines in asked.values() for each in lines}) == 1
    assert all(check.passed for check in found["step01"].checks)
    assert found["step10b"].stage.changes == {"model.arguments.skip": (None, True)}
    assert "torch.compile" in found["step06"].applied
    page = (own / "outputs" / "ladder" / "report" / "report.md").read_text()
    assert "**not applicable** trains exactly as step02" in page
    assert "Skip connection" in page
    assert "Skip connection" in command_line(f"--config-dir={own}/mine", smoke=False).stdout
    assert json.loads((own / "outputs" / "ladder" / "report" / "report.json").read_text())
