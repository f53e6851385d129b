"""The runtime as one file, for devices that cannot or will not install hrkd-cli: ``python -m hrkd_cli.predict.bundle``.

The file is made from the modules of this package, one after the other, so that it is what they are. It needs
onnxruntime, tokenizers and numpy, and is a small program too (see ``runtime/device.py``).
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

RUNTIME_FILE = "hrkd_runtime.py"

# Each uses only those before it.
MODULES = (
    "errors.py",
    "predict/heads.py",
    "predict/truncation.py",
    "predict/folder.py",
    "predict/encoder.py",
    "predict/backend.py",
    "predict/onnx_backend.py",
    "predict/decision.py",
    "predict/predictor.py",
    "predict/selfcheck.py",
    "predict/device.py",
)
_PACKAGE = "hrkd_cli"

_HEAD = '''"""hrkd_runtime {version}: label texts with an exported student. Made by hrkd-cli; do not edit.

    pip install onnxruntime tokenizers numpy

    from hrkd_runtime import Predictor

    model = Predictor("student/onnx", threads=1)
    model.predict(["a text", "another"], domain="books")    # a list
    model.stream(lines, domain="books")                     # one at a time, as they come

    python hrkd_runtime.py student/onnx "a text" "another"
    python hrkd_runtime.py student/onnx --self-check
"""

# ruff: noqa
# mypy: ignore-errors
from __future__ import annotations
'''


def bundle() -> str:
    """Return the source of the one-file runtime.

    Raises:
        ValueError: two modules define the same name, or use the package in a way that one file cannot.
    """
    from hrkd_cli import __version__

    root = Path(__file__).resolve().parents[1]
    imports: dict[str, None] = {}
    parts: list[str] = []
    defined: dict[str, str] = {}
    for module in MODULES:
        source = (root / module).read_text(encoding="utf-8")
        tree = ast.parse(source)
        for name in _names(tree):
            if name in defined:
                raise ValueError(f"{name} is defined in {defined[name]} and in {module}")
            defined[name] = module
        left_out: set[int] = set()
        for node in ast.walk(tree):
            if not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            own = isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == _PACKAGE
            if own or node in tree.body:
                left_out |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
            if own and any(alias.asname for alias in node.names):
                raise ValueError(f"{module}: an import under another name")
            if not own and node in tree.body and not _is_future(node):
                imports[ast.unparse(node)] = None
        if ast.get_docstring(tree) is not None:
            left_out |= set(range(1, (tree.body[0].end_lineno or 1) + 1))
        lines = [line for number, line in enumerate(source.splitlines(), start=1) if number not in left_out]
        parts.append(f"# ---- {module}\n\n" + "\n".join(lines).strip("\n"))
    body = "\n\n\n".join(parts)
    return _HEAD.format(version=__version__) + "\n" + "\n".join(sorted(imports)) + "\n\n" + body + "\n"


def _is_future(node: ast.Import | ast.ImportFrom) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


def _names(tree: ast.Module) -> Iterator[str]:
    """Yield the names that a module defines at its top level."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


if __name__ == "__main__":
    sys.stdout.write(bundle())
