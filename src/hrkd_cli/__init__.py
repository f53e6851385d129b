"""Distill a multi-domain text classifier into a student for CPUs.

Every command has a function of the same name (``evaluate`` for ``eval``), imported on first use::

    from hrkd_cli import prepare, teach, distill, evaluate, export, report, push, Predictor
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from hrkd_cli.version import __version__

if TYPE_CHECKING:
    from hrkd_cli.data.prepare import prepare
    from hrkd_cli.distillation.distill import distill
    from hrkd_cli.evaluation.evaluate import evaluate
    from hrkd_cli.hub_upload import push
    from hrkd_cli.onnx_export.export import export
    from hrkd_cli.predict.predictor import Predictor
    from hrkd_cli.reporting.report import report
    from hrkd_cli.teaching.teach import teach

__all__ = ["Predictor", "__version__", "distill", "evaluate", "export", "prepare", "push", "report", "teach"]

# onnxruntime reads this when it is imported. Without it, some releases write to the home folder and send usage data.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_MODULES = {
    "prepare": "hrkd_cli.data.prepare",
    "teach": "hrkd_cli.teaching.teach",
    "distill": "hrkd_cli.distillation.distill",
    "evaluate": "hrkd_cli.evaluation.evaluate",
    "export": "hrkd_cli.onnx_export.export",
    "report": "hrkd_cli.reporting.report",
    "push": "hrkd_cli.hub_upload",
    "Predictor": "hrkd_cli.predict.predictor",
}


def __getattr__(name: str) -> Any:
    """Import a public name from the module that defines it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(_MODULES[name])
    except AttributeError as error:  # which Python would hide: "cannot import name"
        raise ImportError(f"{_MODULES[name]} cannot be imported: {error}") from error
    return getattr(module, name)
