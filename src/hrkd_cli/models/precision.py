"""The arithmetic of a training run: which precision, and what a device needs for it."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from typing import Any

import torch

from hrkd_cli.choices import Precision
from hrkd_cli.errors import UsageError
from hrkd_cli.machine import cpu_flags
from hrkd_cli.models.attention_function import FastCpuOps

_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # x86-64, x86-64 with matrix units, arm64
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # options of glibc's mallopt(3)


class Arithmetic:
    """Runs forward passes in the chosen precision; weights, losses and the optimizer stay in float32.

    Attributes:
        precision: ``bf16``, ``fp16`` or ``fp32``.
        device: where it runs.
        scaler: keeps fp16 gradients in range; None for the others.
    """

    def __init__(self, precision: Precision, device: torch.device) -> None:
        """Choose the arithmetic; ``auto`` takes bf16 where the device has it in hardware, else fp32.

        Raises:
            UsageError: the device has no such arithmetic.
        """
        self.device = device
        self.precision = _resolve(precision, device)
        self.scaler = torch.amp.GradScaler(device.type) if self.precision is Precision.FP16 else None

    @property
    def dtype(self) -> torch.dtype:
        """Type of the numbers in matrix products."""
        return {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}.get(self.precision, torch.float32)

    @property
    def stored(self) -> torch.dtype:
        """16-bit type in which a teacher's outputs are kept: the run's own, or fp16, which has more digits."""
        return torch.bfloat16 if self.precision is Precision.BF16 else torch.float16

    @contextlib.contextmanager
    def forward(self) -> Iterator[None]:
        """Run what is inside in this precision, with the device's fast kernels."""
        enabled = self.precision is not Precision.FP32
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=enabled), self.kernels():
            yield

    def kernels(self) -> contextlib.AbstractContextManager[Any]:
        """Run what is inside with the device's fast kernels, in the types that it is given."""
        return FastCpuOps() if self.device.type == "cpu" else contextlib.nullcontext()

    def exact(self) -> torch.autocast:
        """Run what is inside in the types that it is given."""
        return torch.autocast(self.device.type, enabled=False)

    def prepare(self) -> None:
        """Set the process up: matrix units for CUDA's remaining float32 products, memory that stays on a CPU."""
        if self.device.type == "cpu":
            _keep_freed_memory()
        elif self.device.type == "cuda":
            torch.set_float32_matmul_precision("highest" if self.precision is Precision.FP32 else "high")

    def backward(self, loss: torch.Tensor) -> None:
        """Add a loss's gradients to the parameters'."""
        scaled = loss if self.scaler is None else self.scaler.scale(loss)
        scaled.backward()  # type: ignore[no-untyped-call]


def cpu_has_bf16() -> bool:
    """Tell whether the CPU multiplies bf16 in hardware; without that bf16 is slower than float32."""
    return bool(_BF16_FLAGS & cpu_flags())


def _keep_freed_memory() -> None:
    """Let freed memory stay with the process, for the next step, where the C library can.

    By default glibc maps each large tensor anew and gives it back when it is freed: the kernel then clears the same
    pages again in every step, a quarter of its time (docs/performance.md).
    """
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):  # another C library
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(_MMAP_THRESHOLD, 2**30)
            mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def _resolve(precision: Precision, device: torch.device) -> Precision:
    if precision is Precision.AUTO:
        fast = torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else False
        return Precision.BF16 if fast or (device.type == "cpu" and cpu_has_bf16()) else Precision.FP32
    if precision is Precision.FP16 and device.type != "cuda":
        raise UsageError(f"--precision fp16: there is none for training on {device.type}; use bf16, fp32 or auto")
    if precision is Precision.BF16 and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UsageError("--precision bf16: this GPU has none; use fp16, fp32 or auto")
    return precision
