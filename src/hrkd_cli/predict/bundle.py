"""The predictor as one file, for devices without hrkd-cli: ``python -m hrkd_cli.predict.bundle hrkd_runtime.pyz``.

A zip archive that Python can run and import; it needs onnxruntime, tokenizers and numpy::

    python hrkd_runtime.pyz student/onnx "a text" "another"

    import sys; sys.path.insert(0, "hrkd_runtime.pyz")
    from hrkd_runtime import Predictor, self_check
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

from hrkd_cli.layout import PREDICTOR_ARCHIVE

_UNIX = 3
_API = """from hrkd_cli.predict.predictor import Prediction, Predictor
from hrkd_cli.predict.selfcheck import self_check

__all__ = ["Prediction", "Predictor", "self_check"]
"""


def write_bundle(path: Path) -> None:
    """Write the archive; the same sources give the same bytes on every machine."""
    package = Path(__file__).resolve().parents[1]
    shared = [package / f"{name}.py" for name in ("__init__", "choices", "errors", "json_files", "layout", "version")]
    sources = [*shared, *sorted(package.glob("predict/*.py"))]
    content = {f"hrkd_cli/{file.relative_to(package).as_posix()}": file.read_text("utf-8") for file in sources}
    content |= {"__main__.py": content["hrkd_cli/predict/__main__.py"], "hrkd_runtime.py": _API}
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in content.items():
            # Reproducible: no date, no compression (it depends on the zlib version), always "made on Unix".
            entry = zipfile.ZipInfo(name)
            entry.create_system = _UNIX
            archive.writestr(entry, text)


if __name__ == "__main__":
    write_bundle(Path(sys.argv[1] if len(sys.argv) > 1 else PREDICTOR_ARCHIVE))
