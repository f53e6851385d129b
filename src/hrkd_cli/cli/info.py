"""``hrkd info``: versions and machine, for a bug report or a first look at what is fast here."""

from __future__ import annotations

import os
import platform
import re
from typing import Any

from hrkd_cli.cli import tables
from hrkd_cli.cli.command import command
from hrkd_cli.cli.console import Console
from hrkd_cli.formatting import size
from hrkd_cli.machine import cpu_name, instructions, usable_cpus
from hrkd_cli.options import Settings
from hrkd_cli.version import __version__


@command("info", Settings)
def info(run: Console, _options: Settings) -> None:
    """Show versions, processor, memory and devices."""
    with run.engine():
        found = collect()
    memory = size(found["memory_bytes"]) if found["memory_bytes"] else None
    devices = {entry["device"]: entry["name"] for entry in found["devices"]}
    run.result(found, [tables.facts("", {**found, "memory_bytes": memory, "devices": devices}, words=(0, 1))])


def collect() -> dict[str, Any]:
    """Return versions and machine as plain values."""
    cores = {"cores": os.cpu_count(), "usable_cores": usable_cpus()}
    return {
        "hrkd-cli": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": _packages(),
        "cpu": {"name": cpu_name(), **cores, "instructions": instructions()},
        "memory_bytes": _memory(),
        "devices": _devices(),
    }


def _packages() -> dict[str, str | None]:
    """Return the version of every package that this one depends on; None where it is not installed."""
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
    """List what ``--device`` can name here. The one place of this command that imports torch, which takes a second."""
    cpu = {"device": "cpu", "name": cpu_name()}
    try:
        import torch
    except (ImportError, OSError) as error:
        return [{**cpu, "name": f"{cpu_name()} (torch cannot be imported: {error})"}]
    found = [cpu]
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        found.append({"device": f"cuda:{index}", "name": torch.cuda.get_device_name(index)})
    if torch.backends.mps.is_available():
        found.append({"device": "mps", "name": "Apple GPU"})
    return found
