"""One run, from a checked configuration to a closed record, in this process or one of its own."""

import importlib.metadata
import multiprocessing
import os
import platform
import signal
import sys
import traceback
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from rich.console import Console

from conf.schema import Config
from gpt2.errors import UsageError
from gpt2.text import find_text, text_sha256
from runner.record import Record, baseline_of, code_hash, commit, fingerprint

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
    that ends it ends the sweep. Raises UsageError for what the user can put right.
    """
    cache_dir = Path(config.cache_dir).expanduser()
    name, files, fallback = find_text(
        config.data.name, config.data.path, config.data.url, config.data.sha256, cache_dir
    )
    if fallback:
        console.print(f"{fallback}.", style="yellow", markup=False, soft_wrap=True)
    sha256 = text_sha256(files)
    plain = as_plain(config)
    measured = {key: value for key, value in plain.items() if key not in UNMEASURED}
    measured["data"] = {"held_out_fraction": config.data.held_out_fraction}
    identity = fingerprint(measured, sha256, code_hash())
    experiment = experiment_folder(config)
    label = f"seed{config.seed}-{identity[:8]}"
    record = Record(experiment / command.stage["name"] / label)
    already = record.status in ("finished", "diverged") and record.fields["fingerprint"] == identity
    weights_missing = (
        config.checkpoint.name == "last" and not (record.folder / "weights.safetensors").exists()
    )
    if already and not config.force and not weights_missing:
        console.print(
            f"{command.stage['name']}: already {record.status} in {record.folder} "
            "(force=true trains it again).",
            highlight=False,
            soft_wrap=True,
        )
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
    try:
        record.start(fields)
    except OSError as error:
        raise UsageError(
            f"{record.folder} cannot be written ({error.strerror}); give another output_dir."
        ) from error
    if isolate:
        _in_own_process(config, files, record, console)
    else:
        train_recorded(config, files, record, console)
    print_outcome(record, experiment, console)
    return Outcome(str(record.status), trained=True)


def train_recorded(config: Config, files: list[Path], record: Record, console: Console) -> None:
    """Load the tokens and train; whatever goes wrong is written into the record first."""
    cache_dir = Path(config.cache_dir).expanduser()
    # Compiled kernels outlive a run where this is not set by hand.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir / "inductor"))
    from gpt2.tokens import load_corpus
    from runner.train import FlowCheckFailed, train

    try:
        corpus = load_corpus(files, cache_dir, config.data.held_out_fraction)
        record.fields["data"].update(
            bytes=corpus.bytes,
            tokens=len(corpus.train) + len(corpus.held_out),
            train_tokens=len(corpus.train),
            held_out_tokens=len(corpus.held_out),
        )
        train(config, corpus, record, console)
    except KeyboardInterrupt:
        record.end("interrupted", "Interrupted from the keyboard.")
        raise
    except (UsageError, FlowCheckFailed) as error:
        record.end("failed", str(error))
    except Exception as error:
        (record.folder / "traceback.txt").write_text(traceback.format_exc(), encoding="utf-8")
        first_line = next(iter(str(error).splitlines()), "")
        record.end("failed", f"{type(error).__name__}: {first_line}")


def _in_own_process(config: Config, files: list[Path], record: Record, console: Console) -> None:
    if sys.platform == "linux":
        # Forked after torch is imported, a stage does not pay for the import again.
        import runner.train  # noqa: F401

        context: Any = multiprocessing.get_context("fork")
    else:
        context = multiprocessing.get_context("spawn")
    process = context.Process(target=_child, args=(config, files, record, console))
    process.start()
    try:
        process.join()
    except KeyboardInterrupt:
        # From a terminal the stage has heard it too; from elsewhere it is told.
        process.join(timeout=5)
        if process.is_alive():
            os.kill(process.pid, signal.SIGINT)
            process.join()
        raise
    finally:
        record.fields = Record(record.folder).fields
    if process.exitcode == 130:
        raise KeyboardInterrupt
    if record.status == "running":
        code = process.exitcode or 0
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        record.end("failed", f"The stage's process was {how}.")


def _child(config: Config, files: list[Path], record: Record, console: Console) -> None:
    try:
        train_recorded(config, files, record, console)
    except KeyboardInterrupt:
        sys.exit(130)


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
