"""Checkpoints: all that a run needs to go on exactly where it was, in one file."""

import json
import shutil
import time

import torch
from rich.console import Console
from torch import Tensor

from conf.schema import Config
from conf.errors import UsageError
from runner.files import DamagedFile
from gpt2.model import GPT
from runner.training.weights import load_tensors, save_tensors
from runner.record import CHECKPOINT, Record, Step

# Fields of run.json that a resumed run keeps.
CARRIED = ("started", "resumed_at", "checks", "timings", "weights")


class Checkpoints:
    """Writes a run's checkpoints when they are due, and takes a run up from the last one."""

    def __init__(
        self,
        config: Config,
        record: Record,
        model: GPT,
        optimizer: torch.optim.Optimizer,
        console: Console,
    ) -> None:
        self.every = config.train.checkpoint_every
        self.path = record.folder / CHECKPOINT
        self.record = record
        self.model = model
        self.optimizer = optimizer
        self.console = console
        self.written = time.monotonic()
        free = shutil.disk_usage(record.folder).free
        weights = 4 * model.num_parameters()
        if config.checkpoint.name != "none" and free < weights:
            raise UsageError(
                f"{record.folder}: {_gib(free)} are free, and the weights that "
                f"checkpoint={config.checkpoint.name} keeps need {_gib(weights)}; free some room, "
                "or give another output_dir."
            )
        # The weights and AdamW's two moments; the one before is kept until the next is whole.
        if free < 3 * weights:
            self._say(
                f"{record.folder}: {_gib(free)} are free, and a checkpoint needs "
                f"{_gib(3 * weights)}; should this run be interrupted, it may have to start over."
            )

    def resume(self) -> bool:
        """Go on from the checkpoint in the run's folder; False where there is none to be used."""
        try:
            tensors, metadata = load_tensors(self.path)
            if metadata.get("fingerprint") != self.record.fields["fingerprint"]:
                raise DamagedFile("it is another run's")
        except FileNotFoundError:
            return False
        except (DamagedFile, OSError) as error:
            self.path.replace(self.path.with_name(f"{CHECKPOINT}.damaged"))
            self._say(f"{self.path} is damaged: {error}; it is set apart, and the run starts over.")
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
        self.record.go_on(steps, json.loads(metadata["record"]))
        self._say(f"Going on from step {len(steps)}.")
        return True

    def due(self) -> bool:
        """Whether so many steps or minutes have passed as `train.checkpoint_every` says."""
        steps, minutes = self.every.steps, self.every.minutes
        by_steps = steps is not None and len(self.record.steps) % steps == 0
        by_time = minutes is not None and time.monotonic() - self.written >= minutes * 60
        return by_steps or by_time

    def write(self) -> None:
        """Replace the checkpoint. A run that cannot write one says so and goes on."""
        state = self.optimizer.state_dict()["state"]
        tensors = {
            **{f"model.{name}": tensor for name, tensor in self.model.state_dict().items()},
            **{
                f"optimizer.{index}.{key}": tensor
                for index, entries in state.items()
                for key, tensor in entries.items()
            },
            **{f"random.{device}": state for device, state in _random_states().items()},
            "steps": torch.tensor(self.record.steps, dtype=torch.float64),
        }
        carried = {name: self.record.fields[name] for name in CARRIED}
        metadata = {
            "fingerprint": self.record.fields["fingerprint"],
            "record": json.dumps(carried),
        }
        try:
            save_tensors(self.path, tensors, metadata)
        except OSError as error:
            self._say(f"No checkpoint at step {len(self.record.steps)}: {error}.")
        self.written = time.monotonic()

    def discard(self) -> None:
        """Remove the checkpoint of a run that is finished."""
        self.path.unlink(missing_ok=True)

    def _say(self, text: str) -> None:
        self.console.print(text, style="yellow", highlight=False, markup=False, soft_wrap=True)


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
