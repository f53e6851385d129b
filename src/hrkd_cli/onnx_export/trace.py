"""The fp32 file: a torch classifier traced into an ONNX graph, which must give the same logits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import bidirectional_mask_function, eager_mask

from hrkd_cli.errors import ModelError, one_line
from hrkd_cli.events import Note, OnEvent, ignore
from hrkd_cli.models.torch_backend import TorchBackend
from hrkd_cli.onnx_export.graph_editor import OPSET, quiet
from hrkd_cli.onnx_export.rewrites import rewrite_file
from hrkd_cli.predict.backend import OnnxBackend
from hrkd_cli.predict.heads import FloatArray

Arrays = Mapping[str, Any]
Forward = Callable[[Arrays], FloatArray]

ATTENTION = "hrkd_trace"
TRACE_SHAPE = (2, 9)  # two rows: a batch of one may be traced into a constant

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
        ModelError: also where onnxruntime cannot run the graph, or it has another number of outputs.
    """
    backend = OnnxBackend(Path(torch_model.name_or_path), graph)
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
    tokenizer = torch_model.tokenizer
    vocabulary = int(torch_model.model.config.vocab_size)
    lengths = sorted({min(length, tokenizer.max_length) for length in LENGTHS})
    for batch in BATCHES:
        for length in lengths:
            ids = random.integers(0, vocabulary, size=(batch, length))
            # The padding id inside a text would make a row that no tokenizer gives.
            ids = np.where(ids == tokenizer.pad_id, (tokenizer.pad_id + 1) % vocabulary, ids)
            valid = np.array([max(1, length - 3 * row) for row in range(batch)])
            mask = (np.arange(length) < valid[:, None]).astype(np.int64)
            types = (np.arange(length) >= length // 2).astype(np.int64) * mask
            yield {
                "input_ids": np.where(mask, ids, tokenizer.pad_id).astype(np.int64),
                "attention_mask": mask,
                "token_type_ids": types,
            }


class _LogitsOnly(torch.nn.Module):
    """A classifier that takes its inputs by position and returns only logits, as tracing needs."""

    def __init__(self, model: Any, inputs: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.inputs = inputs
        # The exporter puts back the mode it found on this module, which would switch dropout on inside.
        self.train(model.training)

    def forward(self, *tensors: Tensor) -> Tensor:
        logits: Tensor = self.model(**dict(zip(self.inputs, tensors, strict=True)), return_dict=True).logits
        return logits


def write_graph(model: Any, inputs: Sequence[str], path: Path) -> None:
    """Trace a sequence classifier (eval mode, CPU, float32) and write its graph; batch size and length are dynamic.

    ``inputs`` are the tokenizer's outputs that it takes, in order.

    Raises:
        ModelError: the architecture cannot be traced.
    """
    ids = torch.ones(TRACE_SHAPE, dtype=torch.long)
    values = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    axes = {name: {0: "batch_size", 1: "sequence_length"} for name in inputs}
    attention = model.config._attn_implementation
    model.set_attn_implementation(ATTENTION)
    try:
        with quiet(), torch.no_grad():
            # The TorchScript exporter: the newer one needs another package, takes ten times as long, and its graphs
            # fail in onnxruntime's quantizer.
            torch.onnx.export(
                _LogitsOnly(model, inputs),
                tuple(values[name] for name in inputs),
                str(path),
                input_names=list(inputs),
                output_names=["logits"],
                dynamic_axes={**axes, "logits": {0: "batch_size"}},
                opset_version=OPSET,
                dynamo=False,
            )
    except OSError:
        raise
    # Tracing runs the architecture's own code, which may raise anything.
    except Exception as error:
        raise ModelError(
            f"a {model.config.model_type} model cannot be traced into an ONNX graph ({one_line(error)}); its torch "
            "weights still work with hrkd eval and hrkd predict"
        ) from error
    finally:
        model.set_attn_implementation(attention)


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """Return softmax(query key^T * scaling + mask) value, [B, T, heads, width], without branches."""
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    return (scores.softmax(-1) @ value).transpose(1, 2), None


def _mask(
    *, attention_mask: Tensor | None = None, mask_function: Any, dtype: torch.dtype = torch.float32, **options: Any
) -> Tensor | None:
    """Return the bias for padding as [B, 1, 1, T]: four operators, where the [B, 1, T, T] of transformers takes 60.

    Any other mask, such as that of local attention, is built by transformers.
    """
    if mask_function is bidirectional_mask_function and attention_mask is not None:
        return (1 - attention_mask[:, None, None, :].to(dtype)) * torch.finfo(dtype).min
    mask: Tensor = eager_mask(attention_mask=attention_mask, mask_function=mask_function, dtype=dtype, **options)
    return mask


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, _mask)
