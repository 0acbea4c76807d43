"""A model's weights on disk."""

from dataclasses import replace
from pathlib import Path

import torch

from gpt2.config import Norm
from gpt2.model import GPT
from runner.training.weights import load_weights, save_weights
from tests.runner.training.test_flow_checks import CONFIG


def test_kept_weights_come_back_bit_for_bit_with_their_configuration(tmp_path: Path) -> None:
    model = GPT(replace(CONFIG, norm=Norm.batch, pad_vocab=True), seed=5)
    model(torch.arange(32).view(2, 16), torch.arange(32).view(2, 16))
    save_weights(model.config, model.state_dict(), tmp_path / "weights.safetensors")
    loaded = load_weights(tmp_path / "weights.safetensors")
    assert loaded.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
