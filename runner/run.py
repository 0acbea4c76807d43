"""One run, from a checked configuration to a closed record, in this process or one of its own."""

import contextlib
import importlib.metadata
import os
import platform
import signal
import traceback
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from rich.console import Console

from conf.schema import Config
from conf.errors import UsageError
from runner.files import write_atomically
from runner.data.text import find_text, text_sha256
from runner.interruption import Interrupted
from runner.messages import sentence
from runner.process import UNTRAINED, in_own_process
from runner.progress import TextProgress
from runner.record import (
    CHECKPOINT,
    FINAL,
    WEIGHTS,
    Record,
    baseline_of,
    code_hash,
    commit,
    fingerprint,
)

# What may differ between two runs without a difference in what they measure.
UNMEASURED = ("experiment", "checkpoint", "force", "stage")


@dataclass(frozen=True)
class Command:
    """What a person asked for: the stage as recorded, the overrides typed, and those of them
    that make a run differ from the ladder's own."""

    stage: dict[str, Any]
    overrides: list[str]
    variant: list[str]


@dataclass(frozen=True)
class Outcome:
    """How a run ended, and whether it was trained now or found finished."""

    status: str
    trained: bool


def experiment_folder(config: Config) -> Path:
    """Where the records of an experiment and its report lie."""
    return Path(config.output_dir).expanduser() / config.experiment


def run(config: Config, command: Command, console: Console, isolate: bool) -> Outcome:
    """Train a stage unless its record is already finished.

    `isolate` gives the run a process of its own, so that its peak memory is its own and nothing
    that ends it ends the sweep. Raises UsageError for what the user can put right, and
    Interrupted.
    """
    cache_dir = Path(config.cache_dir).expanduser()
    name, files, fallback = find_text(
        config.data.name, config.data.path, config.data.url, config.data.sha256, cache_dir
    )
    if fallback:
        console.print(f"{fallback}.", style="yellow", markup=False, soft_wrap=True)
    sha256 = text_sha256(files, cache_dir)
    plain = as_plain(config)
    identity = fingerprint(_measured(plain), sha256, code_hash())
    experiment = experiment_folder(config)
    label = f"seed{config.seed}-{identity[:8]}"
    record = Record(experiment / command.stage["name"] / label)
    if is_done(record, config, identity, console):
        if record.status == "finished":  # and killed before it could clear up
            (record.folder / CHECKPOINT).unlink(missing_ok=True)
        return Outcome(str(record.status), trained=False)
    head, dirty = commit()
    fields = {
        "stage": command.stage,
        "experiment": config.experiment,
        "label": label,
        "fingerprint": identity,
        "code": code_hash(),
        "command": "python -m runner " + " ".join(command.overrides),
        "overrides": command.overrides,
        "variant": command.variant,
        "config": plain,
        "data": {"name": name, "sha256": sha256, "fallback": fallback},
        "environment": {
            "python": platform.python_version(),
            "torch": importlib.metadata.version("torch"),
            "platform": platform.platform(),
            "commit": head,
            "dirty": dirty,
        },
    }
    # Where they are not set by hand: compiled kernels outlive a run, and the C++ compiler is taken
    # to know this processor's vector units; trying each of them out costs four seconds. The
    # compiler reads them when it is imported.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir / "inductor"))
    os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "1")
    if isolate:
        try:
            status = in_own_process(train_recorded, config, files, record.folder, fields)
        except Interrupted as interrupted:
            record.reload()
            if record.status == "running":
                _close(record, "interrupted", str(interrupted), console)
            raise
        if status == UNTRAINED:
            return Outcome("failed", trained=False)
        record.reload()
        if status != 0 and record.status == "running":
            _close(record, "failed", _how_it_died(status, config), console)
    else:
        train_recorded(config, files, record.folder, fields)
        record.reload()
    if record.status == "running":  # and could not be closed, which was said
        return Outcome("failed", trained=True)
    print_outcome(record, experiment, console)
    return Outcome(str(record.status), trained=True)


def is_done(record: Record, config: Config, identity: str, console: Console) -> bool:
    """Whether there is nothing to train; says so, and says what is damaged."""
    if record.damage:
        console.print(
            f"{record.damage}; the run is trained again.",
            style="yellow", highlight=False, markup=False, soft_wrap=True,
        )  # fmt: skip
        return False
    kept = config.checkpoint.name == "none" or (record.folder / WEIGHTS).exists()
    final = record.status in FINAL and record.fields["fingerprint"] == identity
    if config.force or not final or not (kept or record.status == "diverged"):
        return False
    console.print(
        f"{record.fields['stage']['name']}: already {record.status} in {record.folder} "
        "(force=true trains it again).",
        highlight=False,
        soft_wrap=True,
    )
    return True


def train_recorded(config: Config, files: list[Path], folder: Path, fields: dict[str, Any]) -> None:
    """Load the tokens and train; whatever goes wrong is written into the record first.

    Waits while another process trains in `folder`, and trains nothing that one has finished.
    Raises OSError where the record cannot be opened, and Interrupted.
    """
    console = Console()
    cache_dir = Path(config.cache_dir).expanduser()
    from runner.data.corpus import load_corpus
    from runner.training.device import is_out_of_memory
    from runner.training.loop import FlowCheckFailed, train

    record = Record(folder)
    with record.held(console) as waited:
        if waited and is_done(record, config, fields["fingerprint"], console):
            return
        record.start(fields, afresh=config.force)
        try:
            with TextProgress(console) as progress:
                corpus = load_corpus(
                    files, cache_dir, config.data.held_out_fraction, progress.say, progress.update
                )
            record.fields["data"].update(
                bytes=corpus.bytes,
                tokens=len(corpus.train) + len(corpus.held_out),
                train_tokens=len(corpus.train),
                held_out_tokens=len(corpus.held_out),
            )
            train(config, corpus, record, console)
            return
        except Interrupted as interrupted:
            _close(record, "interrupted", str(interrupted), console)
            raise
        except (UsageError, FlowCheckFailed) as error:
            failure = str(error)
        except Exception as error:
            if is_out_of_memory(error):
                failure = _out_of_memory(record, config)
            elif isinstance(error, OSError):
                failure = sentence(error)
            else:
                trace = record.folder / "traceback.txt"
                with contextlib.suppress(OSError):
                    write_atomically(trace, traceback.format_exc().encode())
                first_line = next(iter(str(error).splitlines()), "")
                failure = f"{type(error).__name__}: {first_line} ({trace} has it whole)"
        _close(record, "failed", failure, console)


def _close(record: Record, status: str, message: str, console: Console) -> None:
    try:
        record.end(status, message)
    except OSError as error:
        told = f"{message} Its record could not be closed either: {sentence(error)}"
        console.print(told, style="red", highlight=False, markup=False, soft_wrap=True)


def _out_of_memory(record: Record, config: Config) -> str:
    train = config.train
    return (
        f"Out of memory at step {len(record.steps)}: a micro batch of {train.micro_batch_size} x "
        f"{train.context} tokens does not fit; halve train.micro_batch_size="
        f"{train.micro_batch_size} or train.context={train.context}."
    )


def _how_it_died(status: int, config: Config) -> str:
    if status == -signal.SIGKILL:
        return (
            "The stage's process was killed by SIGKILL, as a system out of memory does; if it was, "
            f"halve train.micro_batch_size={config.train.micro_batch_size} or "
            f"train.context={config.train.context}."
        )
    if status < 0:
        return f"The stage's process was killed by {signal.Signals(-status).name}."
    return f"The stage's process ended with status {status}."


def _measured(plain: dict[str, Any]) -> dict[str, Any]:
    """The part of a configuration that a run's outcome depends on."""
    train = {k: v for k, v in plain["train"].items() if k != "checkpoint_every"}
    data = {"held_out_fraction": plain["data"]["held_out_fraction"]}
    rest = {key: value for key, value in plain.items() if key not in UNMEASURED}
    return {**rest, "train": train, "data": data}


def print_outcome(record: Record, experiment: Path, console: Console) -> None:
    """What a run came to, in a few lines."""

    def say(text: str, style: str | None = None) -> None:
        console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)

    fields, results = record.fields, record.fields["results"]
    title = f"{fields['stage']['name']} ({fields['stage']['title']})"
    if record.status == "failed":
        say(f"{title} failed: {fields['message']}", "red")
        return
    if record.status == "diverged":
        say(f"{title} diverged: {fields['message']}", "yellow")
    else:
        say(
            f"{title}: interval [{results['worst']:.3f}, {results['best']:.3f}], "
            f"held-out loss {results['held_out']:.3f}, "
            f"{results['tokens_per_second']:,.0f} tokens/s",
            "bold",
        )
    if fields["timings"].get("compile_s"):
        say(f"  compiled in {fields['timings']['compile_s']:.1f} s, apart from the steps")
    if fields["applied"]:
        say(f"  applied: {', '.join(fields['applied'])}")
    for technique, reason in fields["not_applied"].items():
        say(f"  not applied: {technique}: {reason}")
    comparable = record.status == "finished" and fields["stage"]["aim"] not in ("baseline", "flow")
    if comparable and (baseline := baseline_of(fields, experiment)):
        theirs = baseline["results"]
        say(
            f"  against the baseline: best {results['best'] - theirs['best']:+.3f}, "
            f"held-out {results['held_out'] - theirs['held_out']:+.3f}, "
            f"{results['tokens_per_second'] / theirs['tokens_per_second']:.2f} times the tokens/s"
        )
    say(f"  record: {record.folder}")


def as_plain(config: Config) -> dict[str, Any]:
    """A configuration as JSON has it: enums as their names, this machine's folders left out."""

    def plain(value: Any) -> Any:
        if isinstance(value, Enum):
            return value.name
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return value

    fields = asdict(config)
    del fields["output_dir"], fields["cache_dir"]
    return {key: plain(value) for key, value in fields.items()}
