"""Build hook of hrkd-runtime: its modules are those of ``hrkd_runtime.pyz``, made from ``src/hrkd_cli``."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

CHECKOUT = Path(__file__).resolve().parents[1]


class RuntimeModules(BuildHookInterface):
    """Adds the modules and the license to the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the modules to a temporary folder, from which hatchling takes them."""
        sys.path.insert(0, str(CHECKOUT / "src"))
        from hrkd_cli.predict.bundle import runtime_sources

        self.folder = tempfile.TemporaryDirectory()
        for name, text in {**runtime_sources(), "hrkd_runtime/py.typed": ""}.items():
            file = Path(self.folder.name, name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8", newline="\n")
            build_data["force_include"][str(file)] = name
        build_data["force_include"][str(CHECKOUT / "LICENSE")] = "hrkd_runtime/LICENSE"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the temporary folder."""
        self.folder.cleanup()
