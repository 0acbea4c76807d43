"""The device: which techniques it supports, how fast it is, and how much memory a run uses.

Every branch on the type of the device is in this file.
"""

import contextlib
import ctypes
import math
import os
import platform
import re
import resource
import sys
import time
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from conf.errors import UsageError


def find_device(requested: str, scale: str | None = None) -> torch.device:
    """The device to train on. Raises UsageError if it is missing, or not the one of `scale`."""
    available = torch.accelerator.current_accelerator(check_available=True)
    kind = available.type if available else "cpu"
    if requested == "auto":
        if scale in ("cuda", "mps") and kind != scale:
            raise UsageError(
                f"scale={scale} needs a {scale} device, but PyTorch {torch.__version__} finds "
                f"none; install a PyTorch build with {scale} support, or add scale=cpu."
            )
        return torch.device(kind)
    numbered = [f"{kind}:{i}" for i in range(torch.accelerator.device_count())]
    choices = dict.fromkeys(("cpu", kind, *numbered))
    if requested not in choices:
        raise UsageError(
            f"device={requested}: PyTorch finds no such device; use auto, {', '.join(choices)}."
        )
    return torch.device(requested)


def device_name(device: torch.device) -> str:
    """The device's name, as its manufacturer gives it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):
        cpuinfo = Path("/proc/cpuinfo").read_text()
        if found := re.search(r"^model name.*?:(.*)", cpuinfo, re.MULTILINE):
            return found[1].strip()
    return platform.processor() or platform.machine()


def prepare(device: torch.device) -> None:
    """Set the process up for training, in the same way for every stage."""
    # A CPU is slow with denormal floats, and a plain network's activations shrink to them: without
    # this a norm layer would seem to increase the speed. Values so small change no loss.
    torch.set_flush_denormal(True)
    if device.type == "cpu" and sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        # glibc returns large freed blocks to the kernel, and a step frees gigabytes: keep them
        # (M_MMAP_THRESHOLD and M_TRIM_THRESHOLD in malloc.h).
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, 1 << 30)
        mallopt(-1, (1 << 31) - 1)
    if device.type == "cuda":
        # Less fragmentation; it is read when the first tensor is created on the device.
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")


def upload(batch: tuple[Tensor, ...], device: torch.device) -> tuple[Tensor, ...]:
    """A batch on the device; a CUDA device gets it from pinned memory, without waiting."""
    if device.type == "cuda":
        batch = tuple(part.pin_memory() for part in batch)
    return tuple(part.to(device, non_blocking=True) for part in batch)


def why_not_tf32(device: torch.device) -> str | None:
    """None where fp32 matrix products can use TF32, else the reason why not."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0):
        return None
    return "it needs an NVIDIA GPU of the Ampere generation or later"


def why_not_bf16(device: torch.device) -> str | None:
    """None where the hardware has matrix products in bfloat16, else the reason why not."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return None if native else "this GPU has no bfloat16 arithmetic"
    if device.type == "cpu" and not torch.cpu.get_capabilities().get("amx_tile"):
        return "this processor has no matrix units for bfloat16 (AMX), so bfloat16 would be slower"
    return None


def why_not_compile(device: torch.device) -> str | None:
    """None where torch.compile supports the device, else the reason why not."""
    return "torch.compile does not support MPS yet" if device.type == "mps" else None


def why_not_flash(
    device: torch.device, dtype: torch.dtype, n_head: int, context: int, n_embd: int
) -> str | None:
    """None where scaled_dot_product_attention has a flash kernel for such heads, else the reason.

    Tested by one call on the device with all other kernels disabled.
    """
    if device.type == "mps":
        return "MPS has no flash kernel; its own fused attention is used"
    width = n_embd // n_head
    q_BHTD = torch.zeros(1, n_head, context, width, device=device, dtype=dtype)
    try:
        with warnings.catch_warnings(), sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            warnings.simplefilter("ignore")
            F.scaled_dot_product_attention(q_BHTD, q_BHTD, q_BHTD, is_causal=True)
    except RuntimeError:
        precision = str(dtype).removeprefix("torch.")
        return f"no flash kernel here for {precision} heads of {width}; another kernel is used"
    return None


def peak_flops(device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    """FLOP/s of the fastest square matrix product within `seconds`, which corresponds to MFU 1."""
    size = 1536 if device.type == "cpu" else 8192
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or math.isinf(best):
        synchronise(device)
        started = time.perf_counter()
        a @ b
        synchronise(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on the device or in the machine's memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    known = ("can't allocate memory", "out of memory", "bad_alloc")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in known)


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished its queue."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def peak_memory_bytes(device: torch.device) -> int:
    """The peak memory so far: of tensors on a CUDA device, else the process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
