"""Hidden states, queries and keys of chosen layers of a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from hrkd_cli.errors import ModelError
from hrkd_cli.method import Outputs
from hrkd_cli.models.attention_function import recording, use_our_attention
from hrkd_cli.models.encoding import Batch


class Capture:
    """Runs a classifier, with our attention function, and keeps what distillation compares.

    Args:
        model: a transformers sequence classifier.
        layers: 1-based numbers of the layers to look at; empty for logits only.
        attention: whether queries and keys are wanted.
    """

    def __init__(self, model: nn.Module, layers: Sequence[int], *, attention: bool) -> None:
        self.model = model
        self.layers = tuple(layers)
        self.attention = attention and bool(layers)
        use_our_attention(model)

    def __call__(self, batch: Batch) -> Outputs:
        """Run one batch; the logits are all that the model has, (R, outputs).

        Raises:
            ModelError: the architecture does not show its attention.
        """
        if not self.layers:
            return Outputs(None, None, None, self.model(**batch.inputs).logits)
        with recording() as seen:
            output = self.model(**batch.inputs, output_hidden_states=True)
        hidden = torch.stack([output.hidden_states[n] for n in (0, *self.layers)])
        if not self.attention:
            return Outputs(hidden, None, None, output.logits)
        config: Any = self.model.config
        if len(seen) != config.num_hidden_layers:
            raise ModelError(
                f"the attention scores of a {config.model_type} model cannot be seen; distil it with "
                "--attention-weight 0 or --method logits"
            )
        chosen = [seen[n - 1] for n in self.layers]
        queries = torch.stack([query * scale for query, _, scale in chosen])
        return Outputs(hidden, queries, torch.stack([key for _, key, _ in chosen]), output.logits)


def layer_map(teacher_layers: int, student_layers: int) -> tuple[int, ...]:
    """Return m(l) for l = 1..L: the teacher layer (1-based) that student layer l learns from.

    ``m(l) = l N / L``, rounded half up.
    """
    return tuple(
        (2 * n * teacher_layers + student_layers) // (2 * student_layers) for n in range(1, student_layers + 1)
    )
