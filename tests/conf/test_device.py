"""The scale that a machine gets."""

import platform
import sys

import pytest
from hydra import compose, initialize_config_dir

from conf import device
from conf.device import CUDA_SCALES, device_scale, smaller_scale
from conf.reading import register
from stages.ladder import CONF


@pytest.mark.parametrize(
    ("gib", "scale"),
    [
        (79.1, "cuda"), (39.4, "cuda"), (23.6, "cuda_24gb"), (22.5, "cuda_24gb"),
        (15.7, "cuda_12gb"), (11.6, "cuda_12gb"), (7.6, "cuda_8gb"), (0, "cpu"), (0, "mps"),
    ],
)  # fmt: skip
def test_a_machine_gets_the_scale_of_its_gpus_memory_or_of_apple_silicon(
    gib: float, scale: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin" if scale == "mps" else "linux")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    monkeypatch.setattr(device, "_ask_driver", lambda: (gib * 2**30, 1) if gib else (0, 0))
    assert device_scale() == scale


def test_each_smaller_scale_halves_the_micro_batch_of_the_same_step() -> None:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = {s: compose("config", [f"scale={s}", "+stage=step10"]) for s in CUDA_SCALES}
    for scale, found in composed.items():
        batch, tokens = found.train.micro_batch_size, found.train.total_batch_tokens
        assert (found.scale.name, tokens) == (scale, 524_288)
        assert tokens % (batch * found.train.context) == 0
        if smaller := smaller_scale(scale):
            assert composed[smaller].train.micro_batch_size * 2 == batch
    assert (smaller_scale("cuda_8gb"), smaller_scale("cpu")) == (None, None)
