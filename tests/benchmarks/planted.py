"""Faults planted on purpose, each by settings or by an edit of the project's own code."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from runner.data.text import python_documentation
from tests.benchmarks.ours import CACHE, ROOT

ROOMS = ("conf", "gpt2", "stages", "runner", "reports", "hydra_plugins")
STREAM, LOOP = "runner/data/stream.py", "runner/training/loop.py"
# A short text, and long enough to train on it that it is learned by heart.
SHORT_TEXT = 20_000
BY_HEART = "train.steps=400 train.learning_rate=3e-3 train.context=32"


@dataclass(frozen=True)
class Edit:
    """A piece of a file, and what stands there instead."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Fault:
    """What is planted into a stage, and the name that must be among the findings."""

    what: str
    name: str
    stage: str = "step05"
    settings: str = ""
    edit: Edit | None = None
    on_short_text: bool = False


FAULTS = (
    Fault(
        "rate a hundred times too high", "learning_rate_high", settings="train.learning_rate=3e-2"
    ),
    Fault("rate a hundred times too low", "learning_rate_low", settings="train.learning_rate=3e-6"),
    Fault("init a hundred times too large", "init_loss_high", settings="model.gain=100"),
    Fault("init of zero", "activations_collapse", settings="model.gain=1e-30"),
    Fault(
        "no residual in a stack of 12 layers",
        "vanishing_gradients",
        settings="model.residual=false model.n_layer=12",
    ),
    Fault("no norm", "activations_collapse", settings="model.norm=none"),
    Fault(
        "a mask that shows the next token",
        "future_leak",
        edit=Edit("gpt2/model.py", ".triu(1)", ".triu(2)"),
    ),
    Fault(
        "targets not shifted",
        "targets_not_shifted",
        edit=Edit(STREAM, "batch[:, 1:].contiguous()", "batch[:, :-1].contiguous()"),
    ),
    Fault(
        "a layer left out of the optimizer",
        "frozen_parameters",
        edit=Edit(
            "runner/training/optimizer.py",
            "list(model.parameters())",
            '[p for n, p in model.named_parameters() if not n.startswith("h.1.")]',
        ),
    ),
    Fault(
        "a frozen embedding",
        "frozen_parameters",
        edit=Edit(
            LOOP,
            "    model = build_model(config.model, config.seed)\n",
            "    model = build_model(config.model, config.seed)\n"
            "    model.token_embedding().requires_grad_(False)\n",
        ),
    ),
    Fault(
        "the same batch at every step",
        "repeated_batch",
        edit=Edit(STREAM, "first = (index * ", "first = (0 * "),
    ),
    Fault(
        "labels shuffled",
        "labels_unrelated",
        edit=Edit(
            STREAM,
            "batch[:, 1:].contiguous()",
            "batch[:, 1:][:, torch.randperm(batch.shape[1] - 1)].contiguous()",
        ),
    ),
    Fault(
        "losses of micro batches summed",
        "accumulation_scale",
        stage="step10",
        edit=Edit(LOOP, "(loss / accumulation).backward()", "loss.backward()"),
    ),
    Fault("a text of 20 kB, repeated", "overfitting", settings=BY_HEART, on_short_text=True),
    Fault("batch norm", "future_leak", settings="model.norm=batch"),
    Fault(
        "half of the units dead",
        "dead_units",
        edit=Edit(
            "gpt2/initialisation.py",
            "    linear.bias.zero_()\n",
            "    linear.bias.zero_()\n"
            '    if prefix.endswith("c_fc"):\n'
            "        linear.bias[::2] = -20\n",
        ),
    ),
)


def plant(fault: Fault, folder: Path) -> list[str]:
    """Copy the project into `folder`/project and edit it; returns the words that train its stage.

    Raises ValueError where the edit does not fit the code any more.
    """
    project = folder / "project"
    shutil.rmtree(project, ignore_errors=True)
    for room in ROOMS:
        shutil.copytree(ROOT / room, project / room, ignore=shutil.ignore_patterns("__pycache__"))
    if edit := fault.edit:
        file = project / edit.file
        content = file.read_text(encoding="utf-8")
        if content.count(edit.old) != 1:
            raise ValueError(f"{fault.what}: {edit.old!r} is not once in {edit.file}.")
        file.write_text(content.replace(edit.old, edit.new), encoding="utf-8")
    words = [f"+stage={fault.stage}", *fault.settings.split()]
    if fault.on_short_text:
        short = folder / "short.txt"
        short.write_bytes(python_documentation(CACHE).read_bytes()[:SHORT_TEXT])
        words += ["data=text", f"data.path={short}"]
    return words
