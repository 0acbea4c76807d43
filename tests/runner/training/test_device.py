"""What the device supports, and how it is prepared."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from conf.errors import UsageError
from runner.training import device as machine
from runner.training.device import (
    attention_kernel,
    device_name,
    find_device,
    is_out_of_memory,
    prepare,
    upload,
)

CPU = torch.device("cpu")


def test_no_thread_computes_with_denormal_floats() -> None:
    """In a process of its own, since the setting is the process's and its threads inherit it."""
    source = (
        "import torch; from runner.training.device import prepare; prepare(torch.device('cpu'));"
        "torch.set_num_threads(2);"
        "print(int((torch.full((1 << 22,), 1e-30) * 1e-10).count_nonzero()))"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    if "aarch64" in torch.__config__.show():
        pytest.skip("PyTorch cannot flush denormal floats here")
    assert done.stdout.strip() == "0", done.stderr


def test_the_attention_kernel_is_the_one_that_torch_takes() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        assert attention_kernel(CPU, dtype, (12, 64, 64)) == "flash"
    with sdpa_kernel(SDPBackend.MATH):
        assert attention_kernel(CPU, torch.float32, (12, 64, 64)) == "math"


def test_a_failed_allocation_is_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60)
    assert is_out_of_memory(raised.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"))
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))


class Part:
    """A stand-in for a tensor that notes how it is copied."""

    def __init__(self) -> None:
        self.copies: list[dict[str, Any]] = []

    def pin_memory(self) -> "Part":
        self.copies.append({"pinned": True})
        return self

    def to(self, device: torch.device, **options: Any) -> "Part":
        self.copies.append(options)
        return self


def test_only_pinned_memory_is_copied_without_waiting() -> None:
    for kind, expected in (("mps", [{}]), ("cuda", [{"pinned": True}, {"non_blocking": True}])):
        part: Any = Part()
        upload((part,), torch.device(kind))
        assert part.copies == expected


def test_all_questions_are_asked_of_the_gpu_that_was_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen: list[int] = []
    monkeypatch.setattr("torch.accelerator.set_device_index", chosen.append)
    for device in ("cuda", "cuda:1"):
        prepare(torch.device(device))
    assert chosen == [1]


def test_a_scale_of_a_gpu_is_refused_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda check_available: None)
    monkeypatch.setattr("torch.backends.cuda.is_built", lambda: False)
    for scale in ("cuda", "cuda_24gb", "cuda_8gb"):
        with pytest.raises(UsageError, match="install a PyTorch build with cuda support"):
            find_device("auto", scale)


def test_a_driver_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).")

    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda check_available=False: None)
    monkeypatch.setattr("torch.backends.cuda.is_built", lambda: True)
    monkeypatch.setattr("torch.cuda.init", fail)
    too_old = r"too old \(found version 11040\); update the NVIDIA driver"
    for gpus, told in (("", "driver shows no GPU"), ("0", too_old)):
        monkeypatch.setattr(machine, "visible_gpus", lambda found=gpus: found)
        with pytest.raises(UsageError, match=f"{told}.*add scale=cpu"):
            find_device("auto", "cuda")
        with pytest.raises(UsageError, match=f"{told}.*use auto, cpu"):
            find_device("cuda", "cpu")


def test_macs_are_told_apart_and_their_memory_is_metals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sysctl = tmp_path / "sysctl"
    sysctl.write_text('#!/bin/sh\n[ "$*" = "-n machdep.cpu.brand_string" ] && echo "Apple M4"\n')
    sysctl.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(machine.sys, "platform", "darwin")
    monkeypatch.setattr("torch.mps.driver_allocated_memory", lambda: 123)
    assert device_name(torch.device("mps")) == "Apple M4"
    assert machine.peak_memory_bytes(torch.device("mps")) == 123
