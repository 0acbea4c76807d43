"""Checkpoints: everything that a run needs to resume with the same numbers, in one file."""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass

import torch
from rich.console import Console
from rich.filesize import decimal
from torch import Tensor

from conf.errors import UsageError
from conf.schema import Checkpoint, Config
from gpt2.language_model import LanguageModel
from runner.files import DamagedFile
from runner.folder import RunFolder
from runner.messages import warn
from runner.record import CHECKPOINT, WEIGHTS, KeptWeights, Run, UnreadableRecord, parse_run
from runner.rows import Step, Window
from runner.training.parallel import Parallel, gathered, load_state, state_of
from runner.training.weights import load_tensors, save_tensors, save_weights

# The fields of a record that a resumed run takes from its checkpoint.
CARRIED = (
    "started", "resumed_at", "checks", "compile_cache", "timings", "weights", "samples",
    "hellaswag", "looks",
)  # fmt: skip

# The run's tables as tensors, since metadata must be short; whole numbers are exact in float64.
TABLES = ("steps", "held_out")


@dataclass
class Checkpoints:
    """Writes a run's checkpoints when they are due, resumes from the last, and keeps weights.

    Raises UsageError if the disk has no space for the weights that the run must keep.
    """

    config: Config
    folder: RunFolder
    model: LanguageModel
    optimizers: list[torch.optim.Optimizer]
    parallel: Parallel
    console: Console

    def __post_init__(self) -> None:
        self.path = self.folder.path / CHECKPOINT
        self.written = time.monotonic()
        if not self.parallel.is_first:
            return
        place, kept = self.folder.path, self.config.checkpoint
        free = shutil.disk_usage(place).free
        weights = 4 * self.model.num_parameters()
        if kept is not Checkpoint.none and free < weights:
            raise UsageError(
                f"{place}: {decimal(free)} are free, but the weights that checkpoint={kept.name} "
                f"keeps need {decimal(weights)}; free some space, or give another output_dir."
            )
        # The weights and at most two moments; the old file is kept until the new one is complete.
        needed = 3 * weights
        if free < needed:
            warn(
                self.console,
                f"{place}: {decimal(free)} are free, but a checkpoint needs {decimal(needed)}; "
                "if this run is interrupted, it may have to start over.",
            )

    def resume(self) -> bool:
        """Resume from the checkpoint in the run's folder; False if there is none to use.

        The first process reads it, and every other gets its part.
        """
        tensors, found = self._read() if self.parallel.is_first else ({}, None)
        rows = [tensors[name].tolist() for name in TABLES] if found else []
        before, tables = self.parallel.ask_first(lambda: (found, rows))
        if before is None:
            return False
        load_state(self.model, self.optimizers, tensors, self.parallel)
        for field in CARRIED:
            setattr(self.folder.run, field, getattr(before, field))
        steps = [Step(int(n), loss, norm, lr, ms, int(t)) for n, loss, norm, lr, ms, t in tables[0]]
        windows = [Window(int(n), int(at), int(t), loss) for n, at, t, loss in tables[1]]
        self.folder.resume(steps, windows)
        warn(self.console, f"Resuming from step {len(steps)}.")
        return True

    def _read(self) -> tuple[dict[str, Tensor], Run | None]:
        """The tensors and the record; nothing if there is no usable checkpoint."""
        try:
            tensors, metadata = load_tensors(self.path)
            if metadata.get("fingerprint") != self.folder.run.fingerprint:
                raise DamagedFile("it belongs to another run")
            record = parse_run(json.loads(metadata["record"]))
            before, now = record.products, self.folder.run.products
            if before and now and before.answers != now.answers:
                raise DamagedFile(
                    f"it was trained with matrix products in {before.answers}, and those measured "
                    f"here are in {now.answers}"
                )
            return tensors, record
        except FileNotFoundError:
            return {}, None
        except (DamagedFile, UnreadableRecord, OSError) as error:
            damaged = self.path.replace(self.path.with_name(f"{CHECKPOINT}.damaged"))
            reason = f"{self.path} cannot be used: {error}"
            warn(self.console, f"{reason}; it is renamed {damaged.name}, and the run starts over.")
            self.folder.start(self.folder.run, afresh=True)
            return {}, None

    def due(self) -> bool:
        """Whether `train.checkpoint_every` asks for a checkpoint after this step."""
        every = self.config.train.checkpoint_every
        by_steps = every.steps is not None and len(self.folder.steps) % every.steps == 0
        passed_s = time.monotonic() - self.written
        by_time = every.minutes is not None and passed_s >= every.minutes * 60
        return by_steps or by_time

    def write(self) -> None:
        """Replace the checkpoint; if that fails, warn and continue."""
        tensors, folder = gathered(state_of(self.model, self.optimizers)), self.folder
        if self.parallel.is_first:
            tables = [astuple(step) for step in folder.steps], [astuple(w) for w in folder.windows]
            for name, rows in zip(TABLES, tables, strict=True):
                tensors[name] = torch.tensor(rows, dtype=torch.float64)
            metadata = {
                "fingerprint": folder.run.fingerprint,
                "record": json.dumps(asdict(folder.run), default=str),
            }
            try:
                save_tensors(self.path, tensors, metadata)
            except OSError as error:
                warn(self.console, f"No checkpoint at step {len(folder.steps)}: {error}.")
        self.parallel.wait()  # the others may end, and torchrun then ends all
        self.written = time.monotonic()

    @contextmanager
    def during_last_evaluation(self) -> Iterator[None]:
        """If this block is interrupted, keep the steps; the evaluation begins anew.

        Not of several processes, which would write together: one of them may have ended the block.
        """
        try:
            yield
        except KeyboardInterrupt:
            steps, planned = self.folder.steps, self.config.train.steps
            if len(steps) == planned and steps[-1].is_finite and self.parallel.size == 1:
                self.folder.forget_last_evaluation()
                self.write()
            raise

    def remove(self) -> None:
        """Delete the checkpoint of a run whose record is closed."""
        if self.parallel.is_first:
            self.path.unlink(missing_ok=True)

    def keep(self, held_out: float) -> None:
        """Keep the weights as `checkpoint` says: none, the last, or those of the lowest loss."""
        run, kept = self.folder.run, self.config.checkpoint
        lowest = run.weights.held_out if run.weights else None
        is_best = lowest is None or held_out < lowest
        if kept is Checkpoint.last or (kept is Checkpoint.best and is_best):
            weights = gathered(self.model.state_dict())
            if self.parallel.is_first:
                save_weights(self.config.model, weights, self.folder.path / WEIGHTS)
            run.weights = KeptWeights(len(self.folder.steps), held_out)
            self.folder.save()
