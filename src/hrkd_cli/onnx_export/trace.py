"""Traces a torch classifier into an fp32 ONNX file, and checks that the file gives the same logits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import bidirectional_mask_function, eager_mask

from hrkd_cli.errors import ModelError, one_line
from hrkd_cli.events import Note, OnEvent, Progress, ignore
from hrkd_cli.models.loading import quiet_libraries
from hrkd_cli.models.torch_backend import TorchBackend
from hrkd_cli.onnx_export.graph_editor import OPSET, ModelInputs
from hrkd_cli.onnx_export.rewrites import rewrite_file
from hrkd_cli.predict.backend import OnnxBackend
from hrkd_cli.predict.heads import FloatArray

Forward = Callable[[ModelInputs], FloatArray]

TRACEABLE_ATTENTION = "hrkd_trace"
TRACE_SHAPE = (2, 9)  # two rows, because a batch of one may be traced as a constant

PARITY_TOLERANCE = 1e-4  # the same terms, added in another order
PARITY_BATCH_SIZES = (1, 2, 5)
PARITY_LENGTHS = (2, 7, 33, 128)  # and the maximum length
PARITY_SEED = 0


def write_fp32(torch_model: TorchBackend, path: Path, *, on_event: OnEvent = ignore) -> None:
    """Write a model's fp32 file: rewritten, or as traced if rewriting changes the logits.

    Raises:
        ModelError: the architecture cannot be traced, or the file's logits are not torch's.
    """
    on_event(Progress("tracing the student into an ONNX graph"))
    trace_to_onnx(torch_model, path)
    traced = path.read_bytes()
    counts = rewrite_file(path)
    try:
        difference = check_parity(torch_model, path)
    except ModelError:
        path.write_bytes(traced)
        difference = check_parity(torch_model, path)
        on_event(Note("rewriting changed the logits, so the graph is kept as traced, which is slower", warning=True))
    else:
        applied = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counts.items() if count)
        on_event(Note(f"rewritten: {applied or 'nothing'}"))
    on_event(Note(f"{path.name} gives the student's logits (largest difference {difference:.1g})"))


def check_parity(torch_model: TorchBackend, path: Path) -> float:
    """Return the largest logit difference between a model and an ONNX file over ``random_inputs``.

    Raises:
        ModelError: the difference exceeds ``PARITY_TOLERANCE``, onnxruntime cannot run the file, or it has another
            number of outputs.
    """
    backend = OnnxBackend(Path(torch_model.name_or_path), path)
    difference = max_logit_difference(random_inputs(torch_model), torch_model.forward, backend.forward)
    if difference > PARITY_TOLERANCE:
        raise ModelError(
            f"{path.name}: its logits differ from the model's by {difference:.2g} (at most {PARITY_TOLERANCE:g} is "
            "allowed); nothing was written"
        )
    return difference


def max_logit_difference(batches: Iterable[ModelInputs], expected: Forward, actual: Forward) -> float:
    """Return the largest absolute difference between the logits of two models; infinite for nan."""
    largest = 0.0
    for arrays in batches:
        expected_logits, logits = expected(arrays), actual(arrays)
        if logits.shape != expected_logits.shape:
            raise ModelError(
                f"the ONNX file gives {logits.shape[-1]} outputs but the model {expected_logits.shape[-1]}"
            )
        difference = float(np.abs(expected_logits - logits).max())
        # Comparisons with nan are False, so max() would drop it.
        largest = max(largest, difference if np.isfinite(difference) else np.inf)
    return largest


def random_inputs(torch_model: TorchBackend) -> Iterator[ModelInputs]:
    """Yield random batches of ``PARITY_BATCH_SIZES`` x ``PARITY_LENGTHS`` and the model's maximum length.

    They have any token ids, and padding in later rows.
    """
    random = np.random.default_rng(PARITY_SEED)
    tokenizer = torch_model.tokenizer
    vocab_size = int(torch_model.model.config.vocab_size)
    lengths = sorted({min(length, tokenizer.max_length) for length in (*PARITY_LENGTHS, tokenizer.max_length)})
    for batch_size in PARITY_BATCH_SIZES:
        for length in lengths:
            ids = random.integers(0, vocab_size, size=(batch_size, length))
            # No tokenizer gives a padding id inside a text.
            ids = np.where(ids == tokenizer.pad_id, (tokenizer.pad_id + 1) % vocab_size, ids)
            row_lengths = np.array([max(1, length - 3 * row) for row in range(batch_size)])
            mask = (np.arange(length) < row_lengths[:, None]).astype(np.int64)
            segments = (np.arange(length) >= length // 2).astype(np.int64) * mask
            yield {
                "input_ids": np.where(mask, ids, tokenizer.pad_id).astype(np.int64),
                "attention_mask": mask,
                "token_type_ids": segments,
            }


def trace_to_onnx(torch_model: TorchBackend, path: Path) -> None:
    """Trace a sequence classifier (eval mode, CPU, float32) into an ONNX file with dynamic batch size and length.

    Raises:
        ModelError: the architecture cannot be traced.
    """
    model, input_names = torch_model.model, torch_model.input_names
    ids = torch.ones(TRACE_SHAPE, dtype=torch.long)
    values = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    axes = {name: {0: "batch_size", 1: "sequence_length"} for name in input_names}
    attention = model.config._attn_implementation
    model.set_attn_implementation(TRACEABLE_ATTENTION)
    try:
        with quiet_libraries(), torch.no_grad():
            # The TorchScript exporter, because the newer one needs another package, takes ten times as long, and
            # writes graphs that fail in onnxruntime's quantizer.
            torch.onnx.export(
                torch_model.network,
                ({name: values[name] for name in input_names},),  # by name
                str(path),
                input_names=list(input_names),
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
            f"{model.config.model_type} models cannot be traced into an ONNX graph ({one_line(error)}); the torch "
            "weights still work with hrkd eval and hrkd predict"
        ) from error
    finally:
        model.set_attn_implementation(attention)


def _traceable_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """Return softmax(query key^T * scaling + mask) value, (B, T, heads, width), without data-dependent branches."""
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    return (scores.softmax(-1) @ value).transpose(1, 2), None


def _padding_bias(
    *, attention_mask: Tensor | None = None, mask_function: Any, dtype: torch.dtype = torch.float32, **options: Any
) -> Tensor | None:
    """Return the attention bias for padding as (B, 1, 1, T), which takes 4 operators; transformers' takes 60.

    Other masks, such as those of local attention, are left to transformers.
    """
    if mask_function is bidirectional_mask_function and attention_mask is not None:
        return (1 - attention_mask[:, None, None, :].to(dtype)) * torch.finfo(dtype).min
    mask: Tensor = eager_mask(attention_mask=attention_mask, mask_function=mask_function, dtype=dtype, **options)
    return mask


AttentionInterface.register(TRACEABLE_ATTENTION, _traceable_attention)
AttentionMaskInterface.register(TRACEABLE_ATTENTION, _padding_bias)
