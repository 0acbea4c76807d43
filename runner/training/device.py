"""The machine: its device, what it can do of what a stage asks for, and how fast and full it is.

Every branch on the kind of device is in this file.
"""

import ctypes
import math
import os
import platform
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
    """The device to train on. Raises UsageError if it is not there, or not what `scale` is for."""
    available = (
        torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    )
    if requested == "auto":
        if scale in ("cuda", "mps") and (available is None or available.type != scale):
            raise UsageError(
                f"scale={scale} is for a {scale} device, and this PyTorch "
                f"({torch.__version__}) finds none; install a PyTorch build with {scale} support, "
                "or add scale=cpu."
            )
        return available or torch.device("cpu")
    try:
        device = torch.device(requested)
    except RuntimeError as error:
        raise UsageError(
            f"device={requested}: no such device; give auto, cpu, cuda or mps."
        ) from error
    if device.type == "cpu":
        return device
    if available is None or device.type != available.type:
        raise UsageError(
            f"device={requested}: this machine offers PyTorch no {device.type} device; "
            f"give device={available.type if available else 'cpu'}."
        )
    if device.index is not None and device.index >= torch.accelerator.device_count():
        count = torch.accelerator.device_count()
        raise UsageError(
            f"device={requested}: there are {count} {device.type} devices, numbered from 0."
        )
    return device


def device_name(device: torch.device) -> str:
    """The device's name, as its maker gives it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def prepare(device: torch.device) -> None:
    """Apply the settings that every stage shares, so that no stage's speed depends on them."""
    # A CPU is slow at denormal floats, and a plain network's activations shrink to them: without
    # this a norm layer would seem to bring speed. Values of such a size move no loss.
    torch.set_flush_denormal(True)
    if device.type == "cpu" and sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        # glibc gives large blocks back to the kernel when freed, and a step frees gigabytes:
        # keep them (M_MMAP_THRESHOLD and M_TRIM_THRESHOLD in malloc.h).
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, 1 << 30)
        mallopt(-1, (1 << 31) - 1)
    if device.type == "cuda":
        # Blocks that grow in place leave fewer holes; read when the first tensor is made there.
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")


def upload(batch: tuple[Tensor, ...], device: torch.device) -> tuple[Tensor, ...]:
    """A batch on the device; to a CUDA device from pinned memory, so that no one waits for it."""
    if device.type == "cuda":
        batch = tuple(part.pin_memory() for part in batch)
    return tuple(part.to(device, non_blocking=True) for part in batch)


def why_not_tf32(device: torch.device) -> str | None:
    """None where fp32 matrix products can use TF32, else the reason they cannot."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0):
        return None
    return "it needs an NVIDIA GPU of the Ampere generation or later"


def why_not_bf16(device: torch.device) -> str | None:
    """None where bfloat16 matrix products run in hardware made for them, else the reason."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return None if native else "this GPU has no bfloat16 arithmetic"
    if device.type == "cpu":
        if torch.cpu.get_capabilities().get("amx_tile"):
            return None
        return (
            "this processor has no matrix units for bfloat16 (AMX), and without them it is slower"
        )
    return None


def why_not_compile(device: torch.device) -> str | None:
    """None where torch.compile is worth trying, else the reason it is not."""
    return "torch.compile is not ready for MPS" if device.type == "mps" else None


def why_not_flash(
    device: torch.device, dtype: torch.dtype, n_head: int, context: int, n_embd: int
) -> str | None:
    """None where scaled_dot_product_attention has a flash kernel for such heads, else the reason.

    Tried on the device itself, with every other kernel forbidden.
    """
    if device.type == "mps":
        return "MPS has no flash kernel; its own fused attention is used"
    q_BHTD = torch.zeros(1, n_head, context, n_embd // n_head, device=device, dtype=dtype)
    try:
        with warnings.catch_warnings(), sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            warnings.simplefilter("ignore")
            F.scaled_dot_product_attention(q_BHTD, q_BHTD, q_BHTD, is_causal=True)
    except RuntimeError:
        return (
            f"no flash kernel takes {str(dtype).removeprefix('torch.')} heads of "
            f"{n_embd // n_head} here; another kernel is used"
        )
    return None


def peak_flops(device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    """FLOP/s of the fastest square matrix product within so many seconds: the ceiling of MFU."""
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
    """Whether the device, or the machine, had no memory left for a tensor."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    known = ("can't allocate memory", "out of memory", "bad_alloc")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in known)


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished its queue."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def peak_memory_bytes(device: torch.device) -> int:
    """The peak memory so far: a CUDA device's own, elsewhere the process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
