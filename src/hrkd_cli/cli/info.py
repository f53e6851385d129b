"""``hrkd info``: versions and machine, for a bug report or a first look at what is fast here."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from hrkd_cli import __version__
from hrkd_cli.cli import tables
from hrkd_cli.cli.session import Session
from hrkd_cli.command_settings import InfoSettings

_PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "numpy",
    "pyarrow",
    "scikit-learn",
    "onnx",
    "onnxruntime",
    "optimum",
    "typer",
    "rich",
)
# Instruction sets that decide how fast int8 and bf16 are, and whether int8 saturates.
_INSTRUCTIONS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm", "bf16")


def info(run: Session, _options: InfoSettings) -> None:
    """Show versions, processor, memory and devices."""
    with run.engine(progress=False):
        found = collect()
    run.console.result(found, [tables.machine(found)])


def collect() -> dict[str, Any]:
    """Return versions and machine as plain values."""
    return {
        "hrkd-cli": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "cpu": {
            "name": _cpu_name(),
            "cores": os.cpu_count(),
            "usable_cores": _usable_cores(),
            "instructions": _instructions(),
        },
        "memory_bytes": _memory(),
        "devices": _devices(),
    }


def _version(package: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpuinfo(key: str) -> str:
    """Return the first value of a key in Linux's /proc/cpuinfo; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in pairs if name.strip() == key), "")


def _cpu_name() -> str:
    if name := _cpuinfo("model name"):
        return name
    if platform.system() == "Darwin":
        import subprocess

        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        asked = subprocess.run(command, capture_output=True, text=True, check=False)
        if name := asked.stdout.strip():
            return name
    return platform.processor() or platform.machine()


def _instructions() -> list[str]:
    there = set((_cpuinfo("flags") or _cpuinfo("Features")).split())
    return [name for name in _INSTRUCTIONS if name in there]


def _usable_cores() -> int | None:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count()


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _devices() -> list[dict[str, str]]:
    """List what ``--device`` can name here. The one place of this command that imports torch, which takes a second."""
    found = [{"device": "cpu", "name": _cpu_name()}]
    try:
        import torch
    except (ImportError, OSError) as error:
        return [{"device": "cpu", "name": f"{_cpu_name()} (torch cannot be imported: {error})"}]
    if torch.cuda.is_available():
        found += [
            {"device": f"cuda:{index}", "name": torch.cuda.get_device_name(index)}
            for index in range(torch.cuda.device_count())
        ]
    if torch.backends.mps.is_available():
        found.append({"device": "mps", "name": "Apple GPU"})
    return found
