"""One run, from a checked configuration to a closed record, in this process or a new one."""

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import shlex
import signal
import tempfile
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from conf.device import smaller_scale
from conf.errors import LostProcess, UsageError
from conf.schema import Checkpoint, Config
from runner import identity, world
from runner.command import Command
from runner.data.hellaswag import items_sha256
from runner.data.source import Source, find_source
from runner.files import write_atomically
from runner.folder import RunFolder, is_done, now
from runner.messages import say, warn
from runner.mistakes import sentence
from runner.outcome import print_outcome
from runner.overrides import override_key
from runner.process import in_own_process
from runner.progress import text_progress
from runner.record import CHECKPOINT, DataInfo, Environment, Process, Run, Status
from runner.rows import Asked
from runner.settings import remarks
from runner.signals import Interrupted, say_why_first

if TYPE_CHECKING:
    from runner.training.parallel import Parallel


def run(config: Config, command: Command, console: Console, isolate: bool) -> Run | None:
    """Train a stage unless its record is already finished; returns its record.

    Returns None if the record could not be closed, and in every process but the first. `isolate`
    trains in a new process: its peak memory is then only this run's, and a crash does not end the
    sweep. Raises UsageError for what the user can correct, and Interrupted.
    """
    cache_dir = Path(config.cache_dir).expanduser()
    source = find_source(config.data, cache_dir, partial(warn, console))
    if source.fallback:
        warn(console, f"{source.fallback}.")
    info = DataInfo(source.name, source.sha256, source.fallback, revision=source.revision)
    if config.evaluation.hellaswag is not None:
        info.hellaswag_sha256 = items_sha256(config.evaluation.hellaswag, cache_dir)
    planned = _planned(config, command, info)
    experiment = Path(config.output_dir).expanduser() / config.experiment
    for note in planned.notes:
        warn(console, f"{command.stage.name}: {note}")
    folder = RunFolder(experiment / command.stage.name / planned.label)
    # Several processes ask the first one later, once they are connected.
    if world.size() == 1 and (done := find_done(folder, config, planned, command.asked, console)):
        return done
    prepare_libraries(cache_dir)
    train = partial(train_recorded, config, source, folder.path, planned, command.asked)
    if isolate:
        _train_isolated(train, folder, console)
    else:
        train()
    folder.reload()
    if folder.damage and world.is_first():
        warn(console, f"{folder.damage}.")
    if not world.is_first() or folder.status in (None, Status.running):  # it could not be closed
        return None
    print_outcome(folder, experiment, console)
    return folder.run


def find_done(
    folder: RunFolder, config: Config, planned: Run, asked: Asked, console: Console
) -> Run | None:
    """The run if it is finished or diverged, after noting the request in its folder.

    Another stage with the same settings may have trained it. Prints this, or what is damaged.
    """
    everywhere = sorted(folder.path.parent.parent.glob(f"*/{planned.label}"))
    for same in map(RunFolder, dict.fromkeys([folder.path, *everywhere])):
        if same.damage:
            warn(console, f"{same.damage}; the run is trained again.")
        elif same.status and not config.force:
            run, keeps_weights = same.run, config.checkpoint is not Checkpoint.none
            if run.fingerprint != planned.fingerprint or not is_done(run, same.path, keeps_weights):
                continue
            said = f"{run.stage.name}: already {run.status.value} in {same.path}"
            say(console, f"{said} (force=true trains it again).")
            if run.status is Status.finished:  # its process may have been killed before this
                (same.path / CHECKPOINT).unlink(missing_ok=True)
            _note(asked, same, console)
            return run
    return None


def _note(asked: Asked, folder: RunFolder, console: Console) -> None:
    """Note a command's request in the folder, or warn if the folder cannot be written."""
    try:
        folder.ask(asked)
    except OSError as error:
        warn(console, f"The report will not know of this request: {sentence(error)}")


def prepare_libraries(cache_dir: Path) -> None:
    """Set the environment that torch, its compiler and OpenMP read when they are imported."""
    # Compiled kernels are kept for later runs, and the C++ compiler is assumed to support this
    # processor's vector units, because testing each of them takes four seconds.
    kernels = Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR", cache_dir / "inductor"))
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(_as_one_word(kernels))
    os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "1")
    # How often a thread of GNU's OpenMP looks for work before it sleeps. By default it spins so
    # long that another busy process makes a step much slower: docs/tried.md.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")


def _as_one_word(folder: Path) -> Path:
    """The folder, or a link to it if torch's command for the compiler would split its name."""
    target = folder.absolute()
    if shlex.quote(str(target)) == str(target):
        return folder
    digest = hashlib.sha256(os.fsencode(target)).hexdigest()[:32]
    link = Path(tempfile.gettempdir(), f"gpt2-ladder-{os.getuid()}-{digest}")
    with contextlib.suppress(OSError):
        target.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            link.symlink_to(target)
        if link.lstat().st_uid == os.getuid() and link.readlink() == target:
            return link
    return folder


def _planned(config: Config, command: Command, data: DataInfo) -> Run:
    """The record of a run that has not started."""
    plain = identity.as_plain(config)
    fingerprint = identity.fingerprint(plain, data.sha256, data.hellaswag_sha256)
    versions = platform.python_version(), importlib.metadata.version("torch"), platform.platform()
    return Run(
        stage=command.stage,
        experiment=config.experiment,
        label=identity.label(config, fingerprint),
        fingerprint=fingerprint,
        code=identity.hash_with_source(command.conditions),
        command=f"python -m runner {shlex.join(command.overrides)}",
        variant=identity.variant(command.overrides),
        conditions=command.conditions,
        changed_by=command.changed_by,
        config=plain,
        notes=[*command.notes, *remarks(config)],
        data=data,
        environment=Environment(*versions, *identity.commit()),
        process=Process(platform.node(), os.getpid()),
        started=now(),
    )


def _train_isolated(train: Callable[[], None], folder: RunFolder, console: Console) -> None:
    """`train` in a new process; if that crashes, the record in `folder` is closed here."""
    try:
        status = in_own_process(train)
    except Interrupted as interrupted:
        folder.reload()
        if folder.status and folder.run.is_abandoned and world.is_first():
            _close(folder, Status.interrupted, str(interrupted), console)
        raise
    if status != 0 and world.is_first():
        with folder.locked(console):  # the stage may have outlived the server that started it
            if folder.status is Status.running:
                _close(folder, Status.failed, _cause_of_death(status, folder.run), console)


def train_recorded(config: Config, source: Source, path: Path, planned: Run, asked: Asked) -> None:
    """Load the tokens and train; every failure is written into the record.

    Waits while another command trains in the folder `path`, and does not train what that has
    finished. Of several processes the first writes. Raises UsageError for a mistake that is found
    before the first step, OSError if the record cannot be opened, and Interrupted.
    """
    console = Console()
    from runner.training.device import find_device
    from runner.training.parallel import connected

    # A mistake in the command leaves no record.
    device = find_device(config.device, config.scale.name)
    folder, minutes = RunFolder(path), config.train.timeout_minutes
    with connected(device, minutes) as parallel, folder.locked(console) as waited:
        same = planned.fingerprint, config.train.sharding, config.checkpoint
        if len(set(parallel.gather([same]))) > 1:
            raise UsageError(
                "The processes have different commands, texts or code; start all with the same."
            )
        done = partial(find_done, folder, config, planned, asked, console)
        if (waited or parallel.size > 1) and parallel.ask_first(done):
            return
        folder.start(planned, afresh=config.force)
        _note(asked, folder, console)
        _train_in(folder, config, source, parallel, console)


def _train_in(
    folder: RunFolder, config: Config, source: Source, parallel: "Parallel", console: Console
) -> None:
    """Train in a folder whose record is open, and close the record in every case."""
    try:
        from runner.data.corpus import load
        from runner.training.loop import train

        cache_dir, held_out = Path(config.cache_dir).expanduser(), config.data.held_out_fraction
        with text_progress(Console(quiet=config.quiet)) as show:
            corpus = load(source, cache_dir, held_out, partial(warn, console), show)
        data = folder.run.data
        data.bytes, data.index_sha256 = corpus.bytes, corpus.index_sha256
        data.train_tokens, data.held_out_tokens = corpus.train_tokens, len(corpus.held_out)
        data.tokens = data.train_tokens + data.held_out_tokens
        data.unigram_entropy = corpus.unigram_entropy()
        if config.evaluation.tokens > data.held_out_tokens > 0:
            folder.run.notes.append(
                f"evaluation.tokens={config.evaluation.tokens} is more than the text's "
                f"{data.held_out_tokens} held-out tokens; all of them are evaluated."
            )
            warn(console, folder.run.notes[-1])
        train(config, corpus, folder, console, parallel)
    except KeyboardInterrupt as interrupted:  # Interrupted, or in a notebook Python's own
        _close(folder, Status.interrupted, str(interrupted) or "Ended by Ctrl-C.", console)
        again = "goes on from there" if (folder.path / CHECKPOINT).exists() else "begins anew"
        stopped = f"{folder.run.stage.name} stopped at step {len(folder.steps)}"
        warn(console, f"{stopped} of {config.train.steps}; the same command {again}.")
        raise
    except BaseException as failure:  # a custom model may even exit
        say_why_first()
        error = parallel.cause(failure)
        lost = isinstance(error, LostProcess)
        if not parallel.is_first:
            raise error if lost else UsageError(_failure(error, folder)) from failure
        trained = folder.steps or (folder.path / CHECKPOINT).exists()
        if isinstance(error, UsageError) and not (lost or trained):
            folder.undo_start()  # a mistake in the command leaves nothing behind
            raise error from None
        _close(folder, Status.failed, _failure(error, folder), console)


def _failure(error: BaseException, folder: RunFolder) -> str:
    """Why training failed; a traceback of an unexpected error goes into the run's folder."""
    from runner.training.device import is_out_of_memory
    from runner.training.flow_checks import FlowCheckFailed

    if isinstance(error, UsageError | FlowCheckFailed):
        return str(error)
    if is_out_of_memory(error):
        size, context = folder.run.settings.micro_batch_size, folder.run.settings.context
        return (
            f"Out of memory at step {len(folder.steps)}: a micro batch of {size} x {context} "
            f"tokens does not fit; {advice_on_memory(folder.run)}."
        )
    if isinstance(error, OSError):
        return sentence(error)
    trace = folder.path / "traceback.txt"
    with contextlib.suppress(OSError):
        folder.path.mkdir(parents=True, exist_ok=True)  # on another machine it is not there
        write_atomically(trace, traceback.format_exc().encode())
    first_line = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first_line} (traceback in {trace})"


def _cause_of_death(status: int, run: Run) -> str:
    """Why a stage's process ended with a status that is not 0."""
    if status > 0:
        return f"The stage's process ended with status {status}."
    advice = f", perhaps because the system ran out of memory; then {advice_on_memory(run)}"
    signal_name = signal.Signals(-status).name
    return f"The stage's process was killed by {signal_name}{advice * (signal_name == 'SIGKILL')}."


def advice_on_memory(run: Run) -> str:
    """What to change so that a run fits into memory, as the rest of a sentence."""
    typed, smaller = set(map(override_key, run.variant)), smaller_scale(run.settings.scale)
    if smaller and not typed & {"train.micro_batch_size", "train.context"}:
        return f"take scale={smaller} for all stages, which halves the micro batch"
    size, context = run.settings.micro_batch_size, run.settings.context
    return f"halve train.micro_batch_size={size} or train.context={context} for all stages"


def _close(folder: RunFolder, status: Status, message: str, console: Console) -> None:
    try:
        folder.end(status, message)
    except OSError as error:
        say(console, f"{message} Its record could not be closed either: {sentence(error)}", "red")
