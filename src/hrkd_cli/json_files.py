"""Reading of JSON files that hold one object, with a check of the types of the values that hrkd reads."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from hrkd_cli.errors import ModelError, one_line
from hrkd_cli.layout import CHECKPOINT, SPLITS, DatasetFiles, ModelFiles, OnnxFiles

_SCORES = {"accuracy!": float, "macro_f1!": float}
_DEV = {"domains!": {str: _SCORES}, "average!": _SCORES}
_SUSPECT = dict.fromkeys(("domain!", "text!", "label!", "answer!", "location"), str)
_CONFIDENCE = {
    "bins!": int,
    "reliability!": [{"confidence!": float, "accuracy!": float, "n!": int}],
    "risk_coverage!": [{"coverage!": float, "accuracy!": float}],
    "suspects!": [_SUSPECT | {"row!": int, "probability!": float}],
}
_EVALUATED = dict.fromkeys(("model!", "kind!", "precision", "file"), str) | {
    "bytes": float,
    "domains!": {str: {"accuracy!": float, "interval!": [float], "labels!": {str: {"answers!": {str: int}}}}},
    "average!": {"accuracy!": float, "interval!": [float]},
    "found_domains": {str: {str: int}},
    "latency_ms": {"p50!": float, "tokens!": int, "threads!": int},
    "confidence": _CONFIDENCE,
}
_LENGTH = range(1, 2**31)
_THRESHOLD = dict.fromkeys(("threshold!", "lower_bound!", "coverage!", "accuracy!"), float)
_CALIBRATION = {
    "rows!": int,
    "temperatures!": {str: float},
    "domain_temperature!": float,
    "thresholds!": {str: [_THRESHOLD]},
}
SHAPES: dict[str, Any] = {
    ModelFiles.config: {
        "architectures": [str],
        "model_type": str,
        "num_labels": _LENGTH,
        "id2label": {int: object},
        "pad_token_id": int,
        "vocab_size": int,
        "max_position_embeddings": int,
        "hrkd": {"domains": {str: [str]}, "truncate": str, "pair": bool, "domain": str, "domain_posterior": bool}
        | dict.fromkeys(("max_length", "encoder_length"), _LENGTH)
        | {"calibration": {str: _CALIBRATION}},
    },
    ModelFiles.tokenizer_config: {"model_max_length": float, "model_input_names": [str]},
    ModelFiles.run: {
        "stage": str,
        "key": str,
        "options": {str: {"value!": object}},
        "models": {"start": {"name!": str}, "teacher": {"name": str}, "extended": {"name": str}},
        "data": {"path": str, "fingerprint": str},
        "results": {
            "steps": int,
            "seconds": float,
            "examples_per_second": float,
            "best": {"step": int, "dev": _DEV},
            "baselines": {str: float},
            "old_domains": {str: {"n!": int, "before!": float, "after!": float, "by!": str}},
        },
    },
    ModelFiles.metrics: {
        "step!": int,
        "losses": {str: object},
        "ratios": [[float]],
        "layer_ratios": [[float]],
        "dev": _DEV,
    },
    ModelFiles.evaluation: {"split!": str, "data!": str, "domain!": str, "models!": [_EVALUATED], "machine": str},
    OnnxFiles.export_record: {
        "files!": {
            str: {
                "precision!": str,
                "bytes!": float,
                "opset": {str: int},
                "recipe": str,
                "dev": {"accuracy!": {str: float}, "drop!": float, "max_drop": float, "padded_drop": float},
                "tries": [{"precision!": str, "recipe!": str, "bytes!": float, "drop!": float}],
                "latency": [{"tokens!": int, "threads!": int, "p50!": float, "p95!": float}],
                "machine": str,
            }
        }
    },
    OnnxFiles.self_check: {
        "format!": int,
        "cases!": [{"text!": str, "domain!": str, "text_pair": str}],
        "files!": {str: {"tolerance!": float, "labels!": [object], "logits!": [[float]], "sha256!": str}},
        "sha256!": {str: str},
    },
    CHECKPOINT: {"format": int, "step": int, "options": {str: object}, "decisions": {str: object}, "parts": {str: {}}},
    DatasetFiles.manifest: {
        "pair!": bool,
        "domains!": {str: {f"{split}!": int for split in SPLITS}},
        "options": {str: object},
    },
}
"""Types of values, by file name.

A dict has the types of named values, or of all values (``str``; ``int`` if the names are numbers). Values may be
missing or null unless their name ends with ``!``. A range holds the numbers allowed, ``float`` stands for finite
numbers, ``object`` for anything. Other values are not checked.
"""
_TYPE_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def read_json(path: Path, *, missing_ok: bool = False) -> dict[str, Any]:
    """Read a JSON object; with ``missing_ok``, a missing file reads as an empty one.

    Raises:
        ModelError: the file is missing, is not a JSON object, or has a value of another type than in ``SHAPES``.
    """
    if missing_ok and not path.is_file():
        return {}
    content = read_any_object(path)
    if problem := find_mismatch(content, SHAPES.get(path.name, {})):
        raise ModelError(f"{path}: {problem}; it was edited or damaged, or another version of hrkd wrote it")
    return content


def read_any_object(path: Path) -> dict[str, Any]:
    """Read a JSON object without a check of its values; ModelError if it is missing or is none."""
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
        if "\\ud" in text.lower():
            json.dumps(content, ensure_ascii=False).encode()  # half a surrogate pair is valid JSON, but no text
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; name a whole model folder") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read as JSON ({one_line(error)})") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path}: not a JSON object")
    return content


def read_json_or_empty(path: Path) -> dict[str, Any]:
    """Read a JSON object; an empty one if the file is missing or damaged."""
    try:
        return read_json(path)
    except ModelError:
        return {}


def find_mismatch(value: Any, shape: Any, where: str = "") -> str | None:
    """Return which value does not have its type, and what it should be; None if all do."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return f"{where or 'its content'} is not an object"
        if int in shape and (wrong := next((name for name in value if not name.isdecimal()), None)) is not None:
            return f"{where} has a name that is not a whole number, {wrong!r}"
        required = {name[:-1] for name in shape if isinstance(name, str) and name.endswith("!")}
        if missing := sorted(required - value.keys()):
            return f"{f'{where}.{missing[0]}'.lstrip('.')} is missing"
        every = shape.get(str, shape.get(int, object))
        kinds = {name: shape.get(f"{name}!", shape.get(name, every)) for name in value}
        items = [(f"{where}.{name}".lstrip("."), each, kinds[name]) for name, each in value.items()]
        items = [item for item, name in zip(items, value, strict=True) if item[1] is not None or name in required]
    elif isinstance(shape, list):
        if not isinstance(value, list):
            return f"{where} is not a list"
        items = [(f"{where}[{n}]", each, shape[0]) for n, each in enumerate(value)]
    else:
        return None if _fits(value, shape) else f"{where} is not {_TYPE_NAMES.get(shape, 'a whole number above 0')}"
    return next(filter(None, (find_mismatch(each, kind, path) for path, each, kind in items)), None)


def _fits(value: Any, kind: Any) -> bool:
    if kind is object or isinstance(value, bool):
        return kind in (object, bool)
    if isinstance(kind, range):
        return isinstance(value, int) and value in kind
    if kind is float:
        return isinstance(value, int | float) and abs(value) <= sys.float_info.max  # False for NaN
    return isinstance(value, kind)
