"""The ranges of a graph's activations, over texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from hrkd_cli.data.dataset import Dataset
from hrkd_cli.evaluation.graph import read_graph
from hrkd_cli.events import OnEvent, Progress, ignore
from hrkd_cli.onnx_export.onnx_graph import Array, OnnxGraph
from hrkd_cli.onnx_export.recipes import Ranges
from hrkd_cli.predict.tokenization import TextTokenizer

TEXTS = 256
_ERRORS_ONLY = 3


@dataclass(frozen=True, slots=True)
class Extremes:
    """Smallest and largest value of an activation in each text."""

    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)

    def span(self, ranges: Ranges) -> tuple[float, float]:
        """Return the range to quantise: of all values, or from the mean smallest to the mean largest of a text."""
        if ranges is Ranges.EXTREMES:
            return min(self.low), max(self.high)
        return float(np.mean(self.low)), float(np.mean(self.high))


def calibration_inputs(
    encoder: TextTokenizer, dataset: Dataset, split: str, *, texts: int = TEXTS
) -> list[dict[str, Array]]:
    """Return the inputs of evenly spread rows of a split, one row each and without padding."""
    rows: list[tuple[str, str | None]] = []
    for domain in dataset.domains:
        part = dataset.split(domain, split)
        pairs: Sequence[str | None] = part.pairs or [None] * len(part.texts)
        rows += list(zip(part.texts, pairs, strict=True))
    chosen = [rows[i] for i in np.linspace(0, len(rows) - 1, num=min(texts, len(rows))).round().astype(int)]
    firsts = [first for first, _ in chosen]
    seconds = [second for _, second in chosen if second is not None]
    return [dict(encoder.collate([row])) for row in encoder.encode(firsts, seconds or None)]


def activation_extremes(
    path: Path, inputs: Iterable[Mapping[str, Array]], *, on_event: OnEvent = ignore
) -> dict[str, Extremes]:
    """Run an fp32 graph and return the extremes of everything that a dense layer reads.

    Args:
        path: the graph.
        inputs: padded arrays by name; padding would be measured too, so there should be none.
        on_event: told how far it is.
    """
    model = read_graph(path)
    graph = OnnxGraph(model)
    tensors = sorted({node.input[0] for node in graph.nodes if _is_dense(graph, node)})
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in tensors)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    found = {name: Extremes() for name in tensors}
    rows = list(inputs)
    for number, arrays in enumerate(rows, start=1):
        values = session.run(tensors, {name: arrays[name] for name in names})
        for name, value in zip(tensors, values, strict=True):
            found[name].low.append(float(value.min()))
            found[name].high.append(float(value.max()))
        on_event(Progress("measuring activations on dev", number, len(rows)))
    return found


def _is_dense(graph: OnnxGraph, node: Any) -> bool:
    if node.op_type not in ("MatMul", "Gemm") or node.input[0] in graph.constants:
        return False
    weight = graph.constants.get(node.input[1])
    return weight is not None and weight.ndim == 2
