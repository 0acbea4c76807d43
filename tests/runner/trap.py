"""Imported, this lets its process fail where torch is about to ask CUDA's driver."""

import torch


def asked(*rest: object, **named: object) -> None:
    raise SystemExit("asked")


for name in ("is_available", "device_count", "init", "_lazy_init", "current_device"):
    setattr(torch.cuda, name, asked)
for name in ("is_available", "device_count", "current_accelerator"):
    setattr(torch.accelerator, name, asked)
