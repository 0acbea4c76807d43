"""Tensors on disk with a checksum, and a model's weights that carry its configuration."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from conf.errors import UsageError
from gpt2.config import Attention, GPTConfig, Init, Norm
from gpt2.model import GPT
from runner.files import DamagedFile, replacing


def save_weights(model: GPT, path: Path) -> None:
    """Write a model to one safetensors file that carries its own configuration."""
    config = json.dumps(asdict(model.config), default=lambda choice: choice.value)
    save_tensors(path, model.state_dict(), {"config": config})


def load_weights(path: Path) -> GPT:
    """The model that `save_weights` wrote, on the CPU. Raises UsageError for any other file."""
    try:
        tensors, metadata = load_tensors(path)
        fields = json.loads(metadata["config"])
        for name, kind in (("norm", Norm), ("attention", Attention), ("init", Init)):
            fields[name] = kind(fields[name])
        model = GPT(GPTConfig(**fields), seed=0)
        model.load_state_dict(tensors)
    except FileNotFoundError as error:
        raise UsageError(
            f"{path}: there are no weights here; checkpoint=last keeps a run's."
        ) from error
    except (OSError, DamagedFile, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"{path}: not weights that a run of this project kept ({error})."
        ) from error
    return model


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors to a safetensors file with their checksum. Raises OSError."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    sealed = {**metadata, "sha256": _sha256(tensors, metadata)}
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=sealed)
        except SafetensorError as error:  # what its own writing raises for a full disk and the like
            raise OSError(f"{path}: {error}") from error


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors, on the CPU, and the metadata. Raises DamagedFile and OSError."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise DamagedFile(str(error)) from error
    if metadata.pop("sha256", None) != _sha256(tensors, metadata):
        raise DamagedFile("its checksum does not hold")
    return tensors, metadata


def _sha256(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    shapes = {name: [str(t.dtype), *t.shape] for name, t in tensors.items()}
    digest = hashlib.sha256(json.dumps([shapes, metadata], sort_keys=True).encode())
    for _, tensor in sorted(tensors.items()):
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
