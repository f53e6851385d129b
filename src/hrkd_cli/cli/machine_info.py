"""The machine report of ``hrkd info``: versions, processor, memory and devices."""

from __future__ import annotations

import os
import platform
import re
from typing import Any

from hrkd_cli.machine import cpu_name, instruction_sets, usable_cpus
from hrkd_cli.version import __version__


def machine_info() -> dict[str, Any]:
    """Return the report as plain values."""
    cores = {"cores": os.cpu_count(), "usable_cores": usable_cpus()}
    return {
        "hrkd-cli": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": _packages(),
        "cpu": {"name": cpu_name(), **cores, "instructions": instruction_sets()},
        "memory_bytes": _memory(),
        "devices": _devices(),
    }


def _packages() -> dict[str, str | None]:
    """Return the version of every dependency; None if it is not installed."""
    from importlib import metadata

    def version(package: str) -> str | None:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return None

    required = metadata.requires("hrkd-cli") if version("hrkd-cli") else None
    names = [re.split(r"[^\w-]", line)[0] for line in required or () if "extra ==" not in line]
    return {name: version(name) for name in names}


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _devices() -> list[dict[str, str]]:
    """Return the devices that ``--device`` accepts on this machine."""
    cpu = {"device": "cpu", "name": cpu_name()}
    try:
        import torch
    except (ImportError, OSError) as error:
        return [{**cpu, "name": f"{cpu_name()} (torch cannot be imported: {error})"}]
    devices = [cpu]
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        devices.append({"device": f"cuda:{index}", "name": torch.cuda.get_device_name(index)})
    if torch.backends.mps.is_available():
        devices.append({"device": "mps", "name": "Apple GPU"})
    return devices
