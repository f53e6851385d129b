"""A torch classifier traced into an ONNX file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import bidirectional_mask_function, eager_mask

from hrkd_cli.errors import ModelError, one_line
from hrkd_cli.onnx_export.graph_editor import quiet

# The first with LayerNormalization as one operator: 14 to 16 work too, but spell each norm out in nine, whose square
# overflows once a graph is turned to fp16. Every onnxruntime since 1.12 reads it.
OPSET = 17

ATTENTION = "hrkd_trace"

TRACE_SHAPE = (2, 9)  # two rows: a batch of one may be traced into a constant


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
    """Trace a classifier in eval mode and write its graph with dynamic batch size and sequence length.

    Args:
        model: a transformers sequence classifier on the CPU, in float32.
        inputs: the tokenizer's outputs that it takes, in order.
        path: the file to write.

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
