"""What this machine is called, for figures that depend on it."""

from __future__ import annotations

import os
import platform
from pathlib import Path

_INSTRUCTIONS = ("avx2", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
"""Those that decide how fast int8 is, as /proc/cpuinfo spells them."""


def machine_name() -> str:
    """Return processor, cores and instruction sets in a few words."""
    facts = _cpuinfo()
    name = facts.get("model name") or platform.processor() or platform.machine()
    flags = set((facts.get("flags") or facts.get("Features") or "").split())
    known = [flag for flag in _INSTRUCTIONS if flag in flags]
    cores = usable_cpus()
    parts = [name, f"{cores} core{'s' if cores != 1 else ''}", " ".join(known)]
    return ", ".join(part for part in parts if part)


def usable_cpus() -> int:
    """Return how many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpuinfo() -> dict[str, str]:
    """Return the first processor's entries of Linux's /proc/cpuinfo; nothing elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    facts: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    return facts
