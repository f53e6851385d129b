"""The fp32 file, and whether a graph gives what the torch model gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hrkd_cli.errors import ModelError, one_line
from hrkd_cli.events import Note, OnEvent, ignore
from hrkd_cli.models.backend import TorchBackend
from hrkd_cli.onnx_export.rewrites import rewrite_file
from hrkd_cli.onnx_export.trace import write_graph
from hrkd_cli.predict.backend import open_session

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
    """Return the largest difference of logits, and refuse one above ``TOLERANCE``."""
    difference = largest_difference(torch_model, graph)
    if difference > TOLERANCE:
        raise ModelError(
            f"{graph.name}: its logits differ from the model's by {difference:.2g} (at most {TOLERANCE:g} is allowed); "
            "nothing was written"
        )
    return difference


def largest_difference(torch_model: TorchBackend, graph: Path) -> float:
    """Return the largest absolute difference of logits over ``BATCHES`` x ``LENGTHS``, rows padded to varying lengths.

    Raises:
        ModelError: onnxruntime cannot run the graph, or its inputs or outputs are not the model's.
    """
    session = open_session(graph)
    inputs = tuple(node.name for node in session.get_inputs())
    if set(inputs) != set(torch_model.inputs):
        raise ModelError(
            f"{graph}: its inputs are {', '.join(inputs)} but the model takes {', '.join(torch_model.inputs)}"
        )
    largest = 0.0
    for arrays in probes(torch_model):
        expected = torch_model.forward(arrays)
        try:
            found = session.run(None, {name: arrays[name] for name in inputs})[0]
        # onnxruntime has an exception class of its own for every status code, with no common base.
        except Exception as error:
            raise ModelError(f"{graph}: onnxruntime cannot run it ({one_line(error)})") from None
        if found.shape != expected.shape:
            raise ModelError(f"{graph}: gives {found.shape[-1]} outputs but the model {expected.shape[-1]}")
        # nan compares as False with everything, so it must not reach max().
        difference = float(np.abs(found - expected).max())
        largest = max(largest, difference if np.isfinite(difference) else np.inf)
    return largest


def probes(torch_model: TorchBackend) -> Iterator[Mapping[str, Any]]:
    """Yield random inputs: ids from the whole vocabulary, every row but the first padded at its end."""
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
