"""The predictor as a package of its own, ``hrkd_runtime``, for devices without hrkd-cli.

It needs onnxruntime, tokenizers and numpy. ``runtime/`` builds the distribution hrkd-runtime from it, and
``write_bundle`` a zip archive that Python can run and import::

    python hrkd_runtime.pyz student/onnx "a text" "another"

    import sys; sys.path.insert(0, "hrkd_runtime.pyz")
    from hrkd_runtime import Predictor, self_check
"""

from __future__ import annotations

import re
import sys
import zipfile
from pathlib import Path

from hrkd_cli.layout import PREDICTOR_ARCHIVE

_UNIX = 3
_INIT = '''"""Run text classifiers that hrkd-cli exported."""

import os

# onnxruntime reads this when it is imported. Without it, some releases write to the home folder and send usage data.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from hrkd_runtime.predict.predictor import Prediction, Predictor
from hrkd_runtime.predict.selfcheck import self_check
from hrkd_runtime.version import __version__

__all__ = ["Prediction", "Predictor", "__version__", "self_check"]
'''
_MAIN = """import sys

from hrkd_runtime.predict.__main__ import main

sys.exit(main())
"""


def runtime_sources() -> dict[str, str]:
    """Return the modules of the package ``hrkd_runtime`` by path: this folder and what it imports, under that name."""
    package = Path(__file__).resolve().parents[1]
    shared = [package / f"{name}.py" for name in ("choices", "errors", "json_files", "layout", "version")]
    files = [*shared, *sorted(set(package.glob("predict/*.py")) - {Path(__file__).resolve()})]
    sources = {
        f"hrkd_runtime/{file.relative_to(package).as_posix()}": re.sub(
            r"\bhrkd_cli\b", "hrkd_runtime", file.read_text("utf-8")
        )
        for file in files
    }
    return {"hrkd_runtime/__init__.py": _INIT, "hrkd_runtime/__main__.py": _MAIN, **sources}


def write_bundle(path: Path) -> None:
    """Write the archive; the same sources give the same bytes on every machine."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {"__main__.py": _MAIN, **runtime_sources()}.items():
            # Reproducible: no date, no compression (it depends on the zlib version), always "made on Unix".
            entry = zipfile.ZipInfo(name)
            entry.create_system = _UNIX
            archive.writestr(entry, text)


if __name__ == "__main__":
    write_bundle(Path(sys.argv[1] if len(sys.argv) > 1 else PREDICTOR_ARCHIVE))
