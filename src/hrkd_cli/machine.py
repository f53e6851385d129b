"""The machine that this process runs on: its processor, cores and instruction sets, and what is installed."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from hrkd_cli.version import __version__

CPU_INFO = Path("/proc/cpuinfo")
INSTRUCTIONS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm", "bf16")
"""Those that decide how fast int8 and bf16 are, and whether int8 saturates, as /proc/cpuinfo spells them."""


def machine_name() -> str:
    """Return processor, cores and instruction sets in a few words, for results that depend on them."""
    cores = usable_cpus()
    parts = [cpu_name(), f"{cores} core{'s' if cores != 1 else ''}", " ".join(instructions())]
    return ", ".join(part for part in parts if part)


def versions(*more: str) -> dict[str, str]:
    """Return the installed versions of what decides a model's numbers, and of more packages."""
    ours = {"python": platform.python_version(), "hrkd-cli": __version__}
    return ours | {name: version(name) for name in ("torch", "transformers", "tokenizers", "numpy", *more)}


def cpu_name() -> str:
    """Return the processor's name."""
    name = _cpuinfo().get("model name")
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        name = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return name or platform.processor() or platform.machine()


def cpu_flags() -> frozenset[str]:
    """Return the processor's features; nothing where the system does not list them (outside Linux)."""
    facts = _cpuinfo()
    return frozenset(facts.get("flags", facts.get("Features", "")).split())


def instructions() -> list[str]:
    """Return those of ``INSTRUCTIONS`` that the processor has."""
    flags = cpu_flags()
    return [name for name in INSTRUCTIONS if name in flags]


def usable_cpus() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpuinfo() -> dict[str, str]:
    """Return Linux's /proc/cpuinfo, the first entry of each name; nothing elsewhere."""
    if not CPU_INFO.is_file():
        return {}
    lines = CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    entries = (line.partition(":") for line in reversed(lines))
    return {name.strip(): value.strip() for name, _, value in entries}
