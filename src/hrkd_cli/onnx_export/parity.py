"""The fp32 file, and whether a graph gives what the torch model gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hrkd_cli.errors import ModelError
from hrkd_cli.events import Note, OnEvent, ignore
from hrkd_cli.models.backend import TorchBackend
from hrkd_cli.onnx_export.rewrites import rewrite_file
from hrkd_cli.onnx_export.trace import write_graph
from hrkd_cli.predict.backend import OnnxBackend
from hrkd_cli.predict.heads import FloatArray

Arrays = Mapping[str, Any]
Forward = Callable[[Arrays], FloatArray]

TOLERANCE = 1e-4  # the same numbers, added up in another order
BATCHES = (1, 2, 5)
LENGTHS = (2, 7, 33, 128)
SEED = 0


def write_fp32(torch_model: TorchBackend, path: Path, *, on_event: OnEvent = ignore) -> None:
    """Write a student's graph, rewritten where that keeps its logits and as it was traced where it does not.

    Raises:
        ModelError: the architecture cannot be traced, or the graph's logits are not torch's.
    """
    on_event(Note("tracing the student into an ONNX graph"))
    write_graph(torch_model.model, torch_model.inputs, path)
    traced = path.read_bytes()
    counts = rewrite_file(path)
    try:
        difference = check_equal(torch_model, path)
    except ModelError:
        path.write_bytes(traced)
        difference = check_equal(torch_model, path)
        on_event(Note("rewriting the graph changed its logits: it is kept as it was traced, and slower", warning=True))
    else:
        done = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counts.items() if count)
        on_event(Note(f"rewritten: {done or 'nothing'}"))
    on_event(Note(f"{path.name} gives the student's logits (largest difference {difference:.1g})"))


def check_equal(torch_model: TorchBackend, graph: Path) -> float:
    """Return the largest difference of logits over ``probes``, and refuse one above ``TOLERANCE``.

    Raises:
        ModelError: also where onnxruntime cannot run the graph, or its inputs or outputs are not the model's.
    """
    backend = OnnxBackend(Path(torch_model.where), graph)
    if set(backend.inputs) != set(torch_model.inputs):
        raise ModelError(
            f"{graph}: its inputs are {', '.join(backend.inputs)} but the model takes {', '.join(torch_model.inputs)}"
        )
    difference = largest_difference(probes(torch_model), torch_model.forward, backend.forward)
    if difference > TOLERANCE:
        raise ModelError(
            f"{graph.name}: its logits differ from the model's by {difference:.2g} (at most {TOLERANCE:g} is allowed); "
            "nothing was written"
        )
    return difference


def largest_difference(batches: Iterable[Arrays], expected: Forward, found: Forward) -> float:
    """Return the largest absolute difference of two models' logits; infinite for nan."""
    largest = 0.0
    for arrays in batches:
        one, other = expected(arrays), found(arrays)
        if one.shape != other.shape:
            raise ModelError(f"the graph gives {other.shape[-1]} outputs but the model {one.shape[-1]}")
        # nan compares as False with everything, so it must not reach max().
        difference = float(np.abs(one - other).max())
        largest = max(largest, difference if np.isfinite(difference) else np.inf)
    return largest


def probes(torch_model: TorchBackend) -> Iterator[Arrays]:
    """Yield random inputs, ``BATCHES`` x ``LENGTHS``: ids from the whole vocabulary, all rows but the first padded."""
    random = np.random.default_rng(SEED)
    encoder = torch_model.encoder
    vocabulary = int(torch_model.model.config.vocab_size)
    lengths = sorted({min(length, encoder.max_length) for length in LENGTHS})
    for batch in BATCHES:
        for length in lengths:
            ids = random.integers(0, vocabulary, size=(batch, length))
            # The padding id inside a text would make a row that no tokenizer gives.
            ids = np.where(ids == encoder.pad_id, (encoder.pad_id + 1) % vocabulary, ids)
            valid = np.array([max(1, length - 3 * row) for row in range(batch)])
            mask = (np.arange(length) < valid[:, None]).astype(np.int64)
            types = (np.arange(length) >= length // 2).astype(np.int64) * mask
            yield {
                "input_ids": np.where(mask, ids, encoder.pad_id).astype(np.int64),
                "attention_mask": mask,
                "token_type_ids": types,
            }
