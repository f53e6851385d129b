"""Mixed precision of a training run."""

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


class PrecisionPolicy:
    """Runs forward passes in the chosen precision; weights, losses and optimizer state stay in float32.

    Attributes:
        mode: ``bf16``, ``fp16`` or ``fp32``.
        scaler: gradient scaler of fp16; None otherwise.
    """

    def __init__(self, precision: Precision, device: torch.device) -> None:
        """Choose the mode; ``auto`` is bf16 if the device supports it in hardware, else fp32.

        Raises:
            UsageError: the device does not support this precision.
        """
        self.device = device
        self.mode = _resolve(precision, device)
        self.scaler = torch.amp.GradScaler(device.type) if self.mode is Precision.FP16 else None

    @property
    def dtype(self) -> torch.dtype:
        """Data type of matrix products."""
        return {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}.get(self.mode, torch.float32)

    @property
    def storage_dtype(self) -> torch.dtype:
        """16-bit type in which teacher outputs are cached: bf16 in a bf16 run, else fp16, which has more digits."""
        return torch.bfloat16 if self.mode is Precision.BF16 else torch.float16

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Autocast to this precision and enable the device's fast kernels."""
        enabled = self.mode is not Precision.FP32
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=enabled), self.fast_kernels():
            yield

    def fast_kernels(self) -> contextlib.AbstractContextManager[Any]:
        """Enable the device's fast kernels without autocast."""
        return FastCpuOps() if self.device.type == "cpu" else contextlib.nullcontext()

    def no_autocast(self) -> torch.autocast:
        """Disable autocast: operations keep the types of their inputs."""
        return torch.autocast(self.device.type, enabled=False)

    def configure_process(self) -> None:
        """Set process-wide options: on a CPU keep freed memory, on CUDA use TF32 for the remaining float32 products."""
        if self.device.type == "cpu":
            _keep_freed_memory()
        elif self.device.type == "cuda":
            torch.set_float32_matmul_precision("highest" if self.mode is Precision.FP32 else "high")

    def release_memory(self) -> None:
        """On a CPU, return freed memory to the system: pieces of different sizes add up over thousands of steps."""
        if self.device.type == "cpu" and sys.platform.startswith("linux"):
            with contextlib.suppress(OSError, AttributeError):  # another C library
                ctypes.CDLL(None).malloc_trim(0)

    def backward(self, loss: torch.Tensor) -> None:
        """Backpropagate a loss, scaled for fp16."""
        scaled = loss if self.scaler is None else self.scaler.scale(loss)
        scaled.backward()  # type: ignore[no-untyped-call]


def cpu_has_bf16() -> bool:
    """Return whether the CPU has bf16 instructions; without them bf16 is slower than float32."""
    return bool(_BF16_FLAGS & cpu_flags())


def _keep_freed_memory() -> None:
    """Make glibc keep freed memory in the process for the next step; other C libraries are left alone.

    By default glibc maps every large tensor anew and unmaps it when it is freed. The kernel then clears the same pages
    in every step, which takes a quarter of the step's time.
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
        raise UsageError(f"--precision fp16: not supported for training on {device.type}; use bf16, fp32 or auto")
    if precision is Precision.BF16 and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UsageError("--precision bf16: not supported by this GPU; use fp16, fp32 or auto")
    return precision
