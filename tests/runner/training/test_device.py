"""What the device supports, and how it is prepared."""

import subprocess
import sys

import pytest
import torch

from runner.training.device import is_out_of_memory, upload, why_not_flash

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


def test_flash_attention_is_applied_only_where_a_kernel_takes_the_heads() -> None:
    assert why_not_flash(CPU, torch.float32, n_head=12, context=64, n_embd=768) is None
    reason = why_not_flash(CPU, torch.int32, n_head=12, context=64, n_embd=768)
    assert reason is not None
    assert "int32 heads of 64" in reason


def test_an_uploaded_batch_is_unchanged() -> None:
    batch = (torch.arange(6).view(2, 3), torch.arange(6).view(2, 3) + 1)
    for before, after in zip(batch, upload(batch, CPU), strict=True):
        assert torch.equal(before, after)


def test_a_failed_allocation_is_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60)
    assert is_out_of_memory(raised.value)
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
