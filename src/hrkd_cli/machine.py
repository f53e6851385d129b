"""The machine that this process runs on: processor, cores, instruction sets, and package versions."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from hrkd_cli.formatting import plural
from hrkd_cli.version import __version__

CPU_INFO = Path("/proc/cpuinfo")
INSTRUCTION_SETS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm", "bf16")
"""Instruction sets that affect the speed of int8 and bf16 and int8 saturation, as spelled in /proc/cpuinfo."""


def machine_name() -> str:
    """Return a short description of the machine, for results that depend on it."""
    parts = [cpu_name(), plural(usable_cpus(), "core"), " ".join(instruction_sets())]
    return ", ".join(part for part in parts if part)


def package_versions(*more: str) -> dict[str, str]:
    """Return the versions of Python, hrkd-cli, the packages that affect a model's weights, and ``more``."""
    packages = ("torch", "transformers", "tokenizers", "numpy", *more)
    return {"python": platform.python_version(), "hrkd-cli": __version__} | {name: version(name) for name in packages}


def cpu_name() -> str:
    """Return the processor's name."""
    name = _cpuinfo().get("model name")
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        name = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return name or platform.processor() or platform.machine()


def cpu_flags() -> frozenset[str]:
    """Return the processor's feature flags; empty outside Linux."""
    info = _cpuinfo()
    return frozenset(info.get("flags", info.get("Features", "")).split())  # x86, Arm


def instruction_sets() -> list[str]:
    """Return the processor's instruction sets, out of ``INSTRUCTION_SETS``."""
    flags = cpu_flags()
    return [name for name in INSTRUCTION_SETS if name in flags]


def usable_cpus() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def system_load() -> float:
    """Return the number of processes that ran or waited for a CPU in the last minute; 0 where it is not known."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def _cpuinfo() -> dict[str, str]:
    """Return the first value of each key in /proc/cpuinfo; empty outside Linux."""
    if not CPU_INFO.is_file():
        return {}
    lines = CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    entries = (line.partition(":") for line in reversed(lines))
    return {name.strip(): value.strip() for name, _, value in entries}
