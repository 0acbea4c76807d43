"""Checkpoints: all that a run needs to continue exactly where it was, in one file."""

import json
import shutil
import time
from dataclasses import asdict
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from conf.errors import UsageError
from conf.schema import Config
from gpt2.model import GPT
from runner.files import DamagedFile
from runner.folder import RunFolder
from runner.messages import warn
from runner.record import CHECKPOINT, WEIGHTS, Check, KeptWeights, Run, Step, Timings
from runner.training.weights import load_tensors, save_tensors, save_weights


class Checkpoints:
    """Writes a run's checkpoints when they are due, resumes from the last, and keeps weights."""

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        model: GPT,
        optimizer: torch.optim.Optimizer,
        console: Console,
    ) -> None:
        self.every = config.train.checkpoint_every
        self.path = folder.path / CHECKPOINT
        self.folder = folder
        self.model = model
        self.optimizer = optimizer
        self.console = console
        self.written = time.monotonic()
        free = shutil.disk_usage(folder.path).free
        weights = 4 * model.num_parameters()
        if config.checkpoint.name != "none" and free < weights:
            raise UsageError(
                f"{folder.path}: {_gib(free)} are free, and the weights that "
                f"checkpoint={config.checkpoint.name} keeps need {_gib(weights)}; free some space, "
                "or give another output_dir."
            )
        # The weights and AdamW's two moments; the one before is kept until the next is whole.
        if free < 3 * weights:
            warn(
                console,
                f"{folder.path}: {_gib(free)} are free, and a checkpoint needs "
                f"{_gib(3 * weights)}; should this run be interrupted, it may have to start over.",
            )

    def resume(self) -> bool:
        """Continue from the checkpoint in the run's folder; False where none can be used."""
        try:
            tensors, metadata = load_tensors(self.path)
            if metadata.get("fingerprint") != self.folder.run.fingerprint:
                raise DamagedFile("it is another run's")
        except FileNotFoundError:
            return False
        except (DamagedFile, OSError) as error:
            self.path.replace(self.path.with_name(f"{CHECKPOINT}.damaged"))
            warn(
                self.console,
                f"{self.path} is damaged: {error}; it is set apart, and the run starts over.",
            )
            return False
        self.model.load_state_dict(_named("model.", tensors))
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _named("optimizer.", tensors).items():
            index, key = name.split(".")
            state.setdefault(int(index), {})[key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        for device, generator in _named("random.", tensors).items():
            _set_random_state(device, generator)
        rows = tensors["steps"].tolist()
        steps = [Step(int(n), loss, norm, lr, ms, int(t)) for n, loss, norm, lr, ms, t in rows]
        _restore(self.folder.run, json.loads(metadata["record"]))
        self.folder.resume(steps)
        warn(self.console, f"Resuming from step {len(steps)}.")
        return True

    def due(self) -> bool:
        """Whether so many steps or minutes have passed as `train.checkpoint_every` says."""
        steps, minutes = self.every.steps, self.every.minutes
        by_steps = steps is not None and len(self.folder.steps) % steps == 0
        by_time = minutes is not None and time.monotonic() - self.written >= minutes * 60
        return by_steps or by_time

    def write(self) -> None:
        """Replace the checkpoint. A run that cannot write one says so and continues."""
        state = self.optimizer.state_dict()["state"]
        tensors = {
            **{f"model.{name}": tensor for name, tensor in self.model.state_dict().items()},
            **{
                f"optimizer.{index}.{key}": tensor
                for index, entries in state.items()
                for key, tensor in entries.items()
            },
            **{f"random.{device}": state for device, state in _random_states().items()},
            "steps": torch.tensor([s.values for s in self.folder.steps], dtype=torch.float64),
        }
        run = self.folder.run
        metadata = {"fingerprint": run.fingerprint, "record": json.dumps(_carried(run))}
        try:
            save_tensors(self.path, tensors, metadata)
        except OSError as error:
            warn(self.console, f"No checkpoint at step {len(self.folder.steps)}: {error}.")
        self.written = time.monotonic()

    def discard(self) -> None:
        """Remove the checkpoint of a run that is finished."""
        self.path.unlink(missing_ok=True)

    def keep(self, held_out: float) -> None:
        """Keep the weights in the run's folder, and note after how many steps they were taken."""
        save_weights(self.model, self.folder.path / WEIGHTS)
        self.folder.run.weights = KeptWeights(len(self.folder.steps), held_out)
        self.folder.save()

    def keep_if_best(self, held_out: float) -> None:
        """Keep the weights unless earlier ones had a lower held-out loss."""
        best = self.folder.run.weights
        if best is None or best.held_out is None or held_out < best.held_out:
            self.keep(held_out)


def _carried(run: Run) -> dict[str, Any]:
    """What a resumed run keeps of its record."""
    whole = asdict(run)
    return {key: whole[key] for key in ("started", "resumed_at", "checks", "timings", "weights")}


def _restore(run: Run, carried: dict[str, Any]) -> None:
    run.started, run.resumed_at = carried["started"], carried["resumed_at"]
    run.checks = [Check(**check) for check in carried["checks"]]
    run.timings = Timings(**carried["timings"])
    run.weights = KeptWeights(**carried["weights"]) if carried["weights"] else None


def _named(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}


def _random_states() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    accelerator = torch.accelerator.current_accelerator()
    if torch.accelerator.is_available() and accelerator is not None:
        states[accelerator.type] = torch.get_device_module(accelerator).get_rng_state()
    return states


def _set_random_state(device: str, state: Tensor) -> None:
    (torch if device == "cpu" else torch.get_device_module(device)).set_rng_state(state)


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"
