"""Choice of the device, and copies to it."""

from __future__ import annotations

import torch
from torch import Tensor

from hrkd_cli.choices import Device
from hrkd_cli.errors import UsageError


def pick_device(device: str) -> torch.device:
    """Return the named device; ``auto`` prefers CUDA, then MPS, then the CPU.

    Raises:
        UsageError: unknown or unavailable device.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == Device.AUTO:
        return torch.device(next(name for name, found in available.items() if found))
    if device not in available:
        raise UsageError(f"--device: {device!r} is not one of {', '.join(Device)}")
    if not available[device]:
        raise UsageError(f"--device: no {device} device here; use --device cpu or auto")
    return torch.device(str(device))


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a host tensor to a device; copies to a GPU are asynchronous."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
