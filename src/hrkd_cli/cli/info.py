"""``hrkd info``: versions and machine, for a bug report or a first look at what is fast here."""

from __future__ import annotations

import os
import platform
from typing import Any

from hrkd_cli import __version__
from hrkd_cli.cli import tables
from hrkd_cli.cli.command import command
from hrkd_cli.cli.session import Session
from hrkd_cli.command_settings import InfoSettings
from hrkd_cli.machine import cpu_name, instructions, usable_cpus

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


@command(InfoSettings)
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
            "name": cpu_name(),
            "cores": os.cpu_count(),
            "usable_cores": usable_cpus(),
            "instructions": instructions(),
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


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _devices() -> list[dict[str, str]]:
    """List what ``--device`` can name here. The one place of this command that imports torch, which takes a second."""
    found = [{"device": "cpu", "name": cpu_name()}]
    try:
        import torch
    except (ImportError, OSError) as error:
        return [{"device": "cpu", "name": f"{cpu_name()} (torch cannot be imported: {error})"}]
    if torch.cuda.is_available():
        found += [
            {"device": f"cuda:{index}", "name": torch.cuda.get_device_name(index)}
            for index in range(torch.cuda.device_count())
        ]
    if torch.backends.mps.is_available():
        found.append({"device": "mps", "name": "Apple GPU"})
    return found
