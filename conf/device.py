"""The machine's devices, and the scale that suits them, found without importing torch."""

import ctypes
import functools
import os
import platform
import subprocess
import sys

# The scales for GPUs, each with the least memory in bytes that selects it. A card has a little less
# or more than its name says. What each scale needs: docs/memory.md.
CUDA_SCALES = {"cuda": 38e9, "cuda_24gb": 22e9, "cuda_12gb": 11e9, "cuda_8gb": 0}

ASK_DRIVER = """
import ctypes, sys
driver = ctypes.CDLL(sys.argv[1])
device, size, count = ctypes.c_int(0), ctypes.c_size_t(0), ctypes.c_int(0)
if driver.cuInit(0) == 0 and driver.cuDeviceGet(ctypes.byref(device), 0) == 0:
    driver.cuDeviceGetCount(ctypes.byref(count))
    if driver.cuDeviceTotalMem_v2(ctypes.byref(size), device) == 0:
        print(size.value, count.value)
"""


def device_scale() -> str:
    """The scale that suits this machine: Apple silicon, an NVIDIA GPU by its memory, or a CPU."""
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return "mps"
    memory, count = _ask_driver()
    if not count:
        return "cpu"
    return next(scale for scale, least in CUDA_SCALES.items() if memory >= least)


def smaller_scale(scale: str) -> str | None:
    """The scale of a GPU with half the micro batch; None if there is none."""
    names = list(CUDA_SCALES)
    return names[names.index(scale) + 1] if scale in names[:-1] else None


def visible_gpus() -> str:
    """The GPUs that CUDA shows to this process, as CUDA_VISIBLE_DEVICES lists them: `0,1`."""
    _, count = _ask_driver()
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return ",".join(chosen.split(",")[:count] if chosen else map(str, range(count)))


def runs_at_once() -> int:
    """How many runs share this machine: one per GPU, or two without a GPU."""
    _, count = _ask_driver()
    return count or 2


@functools.cache
def _ask_driver() -> tuple[int, int]:
    """Memory of the first visible GPU in bytes, and the number of visible GPUs; zeros without one.

    Another process asks the driver: otherwise this one's forks could not use CUDA.
    """
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        ctypes.CDLL(library)
        command = [sys.executable, "-I", "-c", ASK_DRIVER, library]
        asked = subprocess.run(command, capture_output=True, text=True, timeout=60)
        memory, count = map(int, asked.stdout.split())
        return memory, count
    except (OSError, subprocess.SubprocessError, ValueError):
        return 0, 0
