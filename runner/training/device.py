"""The device: which techniques it supports, how fast it is, and how much memory a run uses.

Every branch on the type of the device is in this file.
"""

import contextlib
import ctypes
import os
import platform
import re
import resource
import subprocess
import sys
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from conf.device import CUDA_SCALES, visible_gpus
from conf.errors import UsageError
from runner import world

# FLOP/s of dense bf16 products summed in fp32, by the GPU's name. Sources: NVIDIA's datasheets, and
# its white papers for GeForce.
DATASHEET_FLOPS = {
    "NVIDIA H200": 989e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    **dict.fromkeys(("NVIDIA A100-SXM4-80GB", "NVIDIA A100-SXM4-40GB"), 312e12),
    **dict.fromkeys(("NVIDIA A100 80GB PCIe", "NVIDIA A100-PCIE-40GB"), 312e12),
    "NVIDIA L40S": 362e12,
    "NVIDIA GeForce RTX 5090": 209.5e12,
    "NVIDIA GeForce RTX 4090": 165.2e12,
}


def find_device(requested: str, scale: str | None = None) -> torch.device:
    """The device to train on. Raises UsageError if it is missing, or not the one of `scale`.

    Each of several processes has its own GPU.
    """
    available = torch.accelerator.current_accelerator(check_available=True)
    kind = available.type if available else "cpu"
    if requested == "auto":
        needed = "cuda" if scale in CUDA_SCALES else scale
        if needed in ("cuda", "mps") and kind != needed:
            raise UsageError(
                f"scale={scale} needs a {needed} device, but PyTorch {torch.__version__} finds "
                f"none; {_what_is_missing(needed)}, or add scale=cpu."
            )
        return _of_this_process(torch.device(kind))
    numbered = [f"{kind}:{i}" for i in range(torch.accelerator.device_count())]
    choices = dict.fromkeys(("cpu", kind, *numbered))
    if requested not in choices:
        advice = f"{_what_is_missing(requested)}, or " if requested in ("cuda", "mps") else ""
        raise UsageError(
            f"device={requested}: PyTorch {torch.__version__} finds no such device; {advice}use "
            f"auto, {', '.join(choices)}."
        )
    return _of_this_process(torch.device(requested))


def _of_this_process(device: torch.device) -> torch.device:
    """The device; if several processes train, the GPU of this one."""
    if world.size() == 1 or device.type == "cpu":
        return device
    if device.type == "mps" or device.index is not None:
        raise UsageError(
            f"device={device} is one device, but {world.size()} processes were started; start one, "
            "or write device=cuda or device=cpu."
        )
    count = torch.accelerator.device_count()
    if world.local_size() > count:
        raise UsageError(
            f"This machine has {count} {device.type} devices, but more processes were started; "
            f"start one for each: torchrun --nproc-per-node {count}."
        )
    return torch.device(device.type, world.local_rank())


def _what_is_missing(kind: str) -> str:
    """What to do about a device that PyTorch does not find."""
    if kind == "cuda" and torch.backends.cuda.is_built():  # type: ignore[no-untyped-call]
        if not visible_gpus():
            return "NVIDIA's driver shows no GPU: check it and CUDA_VISIBLE_DEVICES"
        try:
            torch.cuda.init()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            reason = str(error).splitlines()[0].rstrip(".")
            advice = "check the driver and CUDA_VISIBLE_DEVICES"
            if "too old" in reason:
                advice = (
                    "update the NVIDIA driver, or install a PyTorch build for an older CUDA than "
                    f"{torch.version.cuda}"
                )
            return f"it says: {reason}; {advice}"
    return f"install a PyTorch build with {kind} support"


def device_name(device: torch.device) -> str:
    """The device's name, as its manufacturer gives it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if sys.platform == "darwin":  # Python only says "arm"
        asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
        with contextlib.suppress(OSError):
            named = subprocess.run(asked, capture_output=True, text=True).stdout.strip()
            if named:
                return named
    with contextlib.suppress(OSError):
        cpuinfo = Path("/proc/cpuinfo").read_text(errors="replace")
        if found := re.search(r"^model name.*?:(.*)", cpuinfo, re.MULTILINE):
            return found[1].strip()
    return platform.processor() or platform.machine()


def prepare(device: torch.device) -> None:
    """Set the process up for training, in the same way for every stage."""
    # A CPU is slow with denormal floats, and a plain network's activations shrink to them: without
    # this a norm layer would seem to increase the speed. Values so small change no loss.
    torch.set_flush_denormal(True)
    warnings.filterwarnings("ignore", "The value of the smallest subnormal")  # of an older numpy
    if device.type == "cpu" and (libc := _glibc()):
        # glibc returns large freed blocks to the kernel, and a step frees gigabytes: keep them
        # (M_MMAP_THRESHOLD and M_TRIM_THRESHOLD in malloc.h).
        libc.mallopt(-3, 1 << 30)
        libc.mallopt(-1, (1 << 31) - 1)
    if device.type == "cuda":
        # Less fragmentation; it is read when CUDA is initialised.
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
        if device.index is not None:
            torch.accelerator.set_device_index(device.index)


def reset_peak_memory(device: torch.device) -> None:
    """Let the peak begin with what is in use now, which earlier runs in this process may have left.

    Nothing resets it on MPS, nor on a CPU outside Linux.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif device.type == "cpu":
        if libc := _glibc():
            libc.malloc_trim(0)
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM: proc(5)


def _glibc() -> ctypes.CDLL | None:
    """The C library, if it is the GNU one."""
    is_gnu = sys.platform == "linux" and platform.libc_ver()[0] == "glibc"
    return ctypes.CDLL(None) if is_gnu else None


def upload(batch: tuple[Tensor, ...], device: torch.device) -> tuple[Tensor, ...]:
    """A batch on the device; a CUDA device gets it from pinned memory, without waiting.

    From memory that is not pinned, such a copy could read what was freed meanwhile.
    """
    if device.type != "cuda":
        return tuple(part.to(device) for part in batch)
    return tuple(part.pin_memory().to(device, non_blocking=True) for part in batch)


def why_not_compile(device: torch.device) -> str | None:
    """None if torch.compile supports the device, else the reason why not."""
    return "torch.compile does not support MPS yet" if device.type == "mps" else None


def attention_kernel(
    device: torch.device, dtype: torch.dtype, shape: tuple[int, ...], dropout: float = 0.0
) -> str:
    """The kernel of scaled_dot_product_attention: flash, cudnn, efficient or math.

    Found by one call on the device with heads of the `shape` (H, T, D), as in training.
    """
    q_BHTD = torch.zeros(1, *shape, device=device, dtype=dtype, requires_grad=True)
    attend = F.scaled_dot_product_attention
    last = attend(q_BHTD, q_BHTD, q_BHTD, dropout_p=dropout, is_causal=True).grad_fn
    assert last is not None
    # A flash kernel's output may be cut to size, which is a node of its own.
    nodes = [last, *(node for node, _ in last.next_functions if node)]
    found = re.search(r"ScaledDotProduct(\w+?)Attention", " ".join(node.name() for node in nodes))
    return found[1].lower() if found else "math"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on the device or in the machine's memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    known = ("can't allocate memory", "out of memory", "bad_alloc", "STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in known)


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished its queue."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def peak_memory_bytes(device: torch.device) -> int:
    """The peak since `reset_peak_memory`: of an accelerator's tensors, else of the resident set.

    PyTorch counts no peak for MPS. What Metal's driver holds is close to it by the documentation,
    since freed blocks are kept.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    with contextlib.suppress(OSError):
        status = Path("/proc/self/status").read_text()
        if found := re.search(r"VmHWM:\s*(\d+) kB", status):
            return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
