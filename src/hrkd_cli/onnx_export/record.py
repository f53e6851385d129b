"""What is known of each exported file: ``onnx/export.json``, and a few words inside the file itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnxruntime

from hrkd_cli import __version__
from hrkd_cli.evaluation.graph import read_graph
from hrkd_cli.evaluation.latency import Latency
from hrkd_cli.layout import ONNX
from hrkd_cli.onnx_export.gate import AccuracyGate, points_lost
from hrkd_cli.onnx_export.recipes import FORMATS, Precision
from hrkd_cli.onnx_export.result import ExportedFile
from hrkd_cli.onnx_export.targets import Weights
from hrkd_cli.predict.folder import read_json_or_empty

if TYPE_CHECKING:
    from hrkd_cli.onnx_export.trying import Made

FORMAT = 1
Entry = dict[str, Any]


class Record:
    """What is known of each file of an ``onnx`` folder, by file name."""

    def __init__(self, files: dict[str, Entry] | None = None) -> None:
        self.files = files or {}

    @classmethod
    def read(cls, folder: Path) -> Record:
        """Read the record of an ``onnx`` folder; an absent or foreign one is empty."""
        try:
            content = read_json_or_empty(folder / ONNX.record)
            files = content["files"] if content["format"] == FORMAT else {}
            return cls({name: dict(entry) for name, entry in files.items() if (folder / name).is_file()})
        except (KeyError, TypeError, ValueError, AttributeError):
            return cls()

    def add(self, name: str, entry: Entry, *, kept: bool = False) -> None:
        """Add or replace a file's entry; what is known of a kept file and was not measured again stays."""
        before = self.files.get(name, {}) if kept else {}
        self.files[name] = {key: before[key] for key in ("dev", "latency", "machine") if key in before} | entry

    def retime(self, figures: Mapping[str, Sequence[Latency]], machine: str) -> None:
        """Replace the latency of files that were there before."""
        for name, found in figures.items():
            self.files[name] |= {"latency": [figure.to_json() for figure in found], "machine": machine}

    def write(self, folder: Path) -> None:
        """Write the record into a folder."""
        files = dict(sorted(self.files.items()))
        text = json.dumps({"format": FORMAT, "files": files}, indent=2, ensure_ascii=False)
        (folder / ONNX.record).write_text(text + "\n", encoding="utf-8")


def file_entry(
    file: ExportedFile, path: Path, weights: Weights, made: Made | None, gate: AccuracyGate | None, machine: str
) -> Entry:
    """Describe one file.

    Args:
        file: what export returns of it.
        path: where it lies now.
        weights: how int8 weights are stored.
        made: how a smaller file was made; None for fp32.
        gate: what scored it; None where nothing was scored. Losses count from the folder's own torch weights.
        machine: what it was timed on.
    """
    model = read_graph(path)
    entry: Entry = {
        "precision": file.precision,
        "bytes": file.bytes,
        "opset": {item.domain or "ai.onnx": item.version for item in model.opset_import},
        "oldest_onnxruntime": FORMATS[Precision(file.precision)].oldest_onnxruntime,
        "versions": {"hrkd-cli": __version__, "onnxruntime": onnxruntime.__version__},
    }
    if made is not None and gate is not None:
        best = made.best
        drops = {one.recipe: points_lost(gate.before, one.gate.accuracy) for one in made.tries}
        tries = [{**one.to_json(), "drop": drops[one.recipe]} for one in made.tries]
        dev = {"accuracy": dict(best.gate.accuracy), "drop": drops[best.recipe], "max_drop": best.gate.max_drop}
        entry |= {"recipe": best.recipe, "tries": tries, "dev": dev}
        if made.padded_drop is not None:
            entry["dev"]["padded_drop"] = made.padded_drop
    elif gate is not None:
        # The fp32 graph gives the model's logits, hence its labels.
        entry["dev"] = {"accuracy": dict(gate.before), "drop": 0.0}
    if target := {item.key: item.value for item in model.metadata_props}.get("hrkd.target"):
        entry |= {"target": target, "weight_bits": weights.bits}
    if file.latency:
        entry |= {"latency": [figure.to_json() for figure in file.latency], "machine": machine}
    return entry
