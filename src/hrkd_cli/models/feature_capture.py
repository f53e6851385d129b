"""Capture of hidden states, queries and keys from chosen layers of a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from hrkd_cli.errors import ModelError
from hrkd_cli.method import Outputs
from hrkd_cli.models.attention_function import record_attention, use_training_kernels
from hrkd_cli.models.loading import explain_model_errors
from hrkd_cli.models.model_tokenizer import ModelTokenizer, TokenBatch


class FeatureCapture:
    """Runs a classifier and returns its logits and the hidden states, queries and keys of chosen layers.

    Args:
        model: a transformers sequence classifier; its attention function is replaced.
        layers: 1-based numbers of the layers to capture; empty for logits only.
        attention: whether to capture queries and keys.
    """

    def __init__(self, model: nn.Module, layers: Sequence[int], *, attention: bool) -> None:
        self.model = model
        self.layers = tuple(layers)
        self.attention = attention and bool(layers)
        use_training_kernels(model)

    def __call__(self, batch: TokenBatch) -> Outputs:
        """Run one batch; the logits are those of all outputs, (R, outputs).

        Raises:
            ModelError: the architecture's attention cannot be captured.
        """
        if not self.layers:
            return Outputs(None, None, None, self.model(**batch.inputs).logits)
        with record_attention() as calls:
            output = self.model(**batch.inputs, output_hidden_states=True)
        hidden = torch.stack([output.hidden_states[n] for n in (0, *self.layers)])
        if not self.attention:
            return Outputs(hidden, None, None, output.logits)
        config: Any = self.model.config
        # The losses compare (R, A, T, d) with A d = hidden size; key heads that several query heads share have fewer A.
        shapes = {tuple(tensor.shape[1::2]) for query, key, _ in calls for tensor in (query, key)}
        fits = all(heads * size == config.hidden_size for heads, size in shapes)
        if len(calls) != config.num_hidden_layers or len(shapes) != 1 or not fits:
            raise ModelError(
                f"the attention scores of {config.model_type} models cannot be captured; distill with "
                "--attention-weight 0 or --method logits"
            )
        captured = [calls[n - 1] for n in self.layers]
        queries = torch.stack([query * scale for query, _, scale in captured])
        return Outputs(hidden, queries, torch.stack([key for _, key, _ in captured]), output.logits)


def check_forward(capture: FeatureCapture, tokenizer: ModelTokenizer, name: str) -> None:
    """Run a model on two short texts of different length, so that one that cannot be trained is refused early.

    Raises:
        ModelError: it cannot run, or its hidden states do not have the width in its config.
    """
    config: Any = capture.model.config
    problem = f"{name}: a {config.model_type} model cannot be trained here; use an encoder such as BERT"
    with explain_model_errors(problem), torch.no_grad():
        batch = tokenizer.collate(tokenizer.encode(["a", "a longer text"]), next(capture.model.parameters()).device)
        hidden = capture(batch).hidden
    if hidden is not None and hidden.shape[-1] != config.hidden_size:
        raise ModelError(f"{problem}: hidden states of {hidden.shape[-1]} dimensions, not {config.hidden_size}")
