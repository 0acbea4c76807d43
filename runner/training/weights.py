"""Tensors on disk with a checksum, and a model's weights together with its configuration."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from conf.errors import UsageError
from conf.files import read_yaml
from gpt2.config import CustomConfig, GPTConfig, ModelConfig
from gpt2.language_model import LanguageModel
from runner.files import DamagedFile, replacing
from runner.training.custom import build_model
from stages.ladder import CONF

MODEL_CONFIG: TypeAdapter[ModelConfig] = TypeAdapter(CustomConfig | GPTConfig)


def save_weights(config: ModelConfig, weights: dict[str, Tensor], path: Path) -> None:
    """Write a model's weights and its configuration to one safetensors file. Raises OSError."""
    save_tensors(path, weights, {"config": MODEL_CONFIG.dump_json(config).decode()})


def load_weights(path: Path) -> LanguageModel:
    """The model that `save_weights` wrote, on the CPU. Raises UsageError for any other file."""
    try:
        tensors, metadata = load_tensors(path)
        config = {**_plain_model(), **json.loads(metadata["config"])}  # older ones lack keys
        model = build_model(MODEL_CONFIG.validate_python(config), seed=0)
        model.load_state_dict(tensors)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file; train with checkpoint=last to keep it.") from error
    except (OSError, DamagedFile, KeyError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"{path}: not weights that a run of this project kept ({error})."
        ) from error
    return model


def _plain_model() -> dict[Any, Any]:
    """The plain model's switches, which weights had before there was a key for them."""
    plain = OmegaConf.to_container(read_yaml(CONF / "model" / "knobs" / "plain.yaml"))
    assert isinstance(plain, dict)
    return plain


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors to a safetensors file with their checksum. Raises OSError."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    written: set[int] = set()
    for name, tensor in tensors.items():  # tied ones would be refused
        tensors[name] = tensor.clone() if tensor.data_ptr() in written else tensor
        written.add(tensor.data_ptr())
    sealed = {**metadata, "sha256": _sha256(tensors, metadata)}
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=sealed)
        except SafetensorError as error:  # raised for a full disk, for example
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
        raise DamagedFile("its checksum is wrong")
    return tensors, metadata


def _sha256(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    shapes = {name: [str(t.dtype), *t.shape] for name, t in tensors.items()}
    digest = hashlib.sha256(json.dumps([shapes, metadata], sort_keys=True).encode())
    for _, tensor in sorted(tensors.items()):
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
