"""Mean pooling for classifiers that read the first token, as one more layer of the encoder.

Sentence encoders are trained so that the mean of their hidden states says what a text means. transformers' classifiers
of the BERT family read the first token instead. A pooling layer gives them the mean without new code: it is a layer of
the same architecture with fixed weights, whose queries and keys are 0, so that attention is uniform. It adds
``MEAN_FACTOR`` times the mean to each token's state; the norm makes this nearly the mean alone. Its feed-forward part
is 0. So ``from_pretrained`` opens the model and computes the same logits.

Here the layer skips its products with constants, and neither trains nor enters the ONNX graph.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

MEAN_FACTOR = 32.0
POOLER_FACTOR = 0.5  # keeps normalized states where tanh is nearly linear

# Architectures with BERT's layers and a head that takes tanh of a dense layer of the first token.
POOLED = ("bert", "roberta", "xlm-roberta", "camembert")
_FLAG = "mean_pooling_layer"


class MeanPooling:
    """Forward pass of a pooling layer without its products with constants."""

    attention: Any
    output: Any

    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None, *_: Any, **options: Any) -> Tensor:
        """Return the layer's output, (R, T, H), from attention with scores of 0 and two norms."""
        from transformers import AttentionInterface
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        attention = self.attention.self
        states = hidden.view(*hidden.shape[:2], -1, attention.attention_head_size).transpose(1, 2)
        attend = AttentionInterface().get(attention.config._attn_implementation, sdpa_attention_forward)
        zeros = torch.zeros_like(states)
        mean, _ = attend(attention, zeros, zeros, states, attention_mask, dropout=0.0, scaling=1.0, **options)
        norm = self.attention.output.LayerNorm
        pooled: Tensor = self.output.LayerNorm(norm(MEAN_FACTOR * mean.reshape(*hidden.shape[:2], -1) + hidden))
        return pooled


def has_pooling_layer(config: Any) -> bool:
    """Return whether the last of a model's hidden layers is a pooling layer."""
    return bool(getattr(config, _FLAG, False))


def encoder_layers(config: Any) -> int:
    """Return the number of a model's layers without the pooling layer."""
    return int(config.num_hidden_layers) - has_pooling_layer(config)


def with_pooling_layer(classifier: Any) -> Any:
    """Return a copy of a classifier of a ``POOLED`` architecture that reads the mean of the hidden states."""
    config = type(classifier.config).from_dict(classifier.config.to_dict())
    config.num_hidden_layers += 1
    setattr(config, _FLAG, True)
    pooled = type(classifier)(config).to(torch.float32)
    pooled.load_state_dict(classifier.state_dict(), strict=False)
    set_pooling_layer(pooled)
    pooler = pooled.base_model.pooler if pooled.config.model_type == "bert" else pooled.classifier
    with torch.no_grad():
        pooler.dense.weight.copy_(POOLER_FACTOR * torch.eye(config.hidden_size))
        pooler.dense.bias.zero_()
    return pooled.eval()


def set_pooling_layer(classifier: Any) -> None:
    """Write the fixed weights of the pooling layer, which the last layer is to be."""
    classifier.base_model.encoder.layer[-1].load_state_dict(_fixed_weights(classifier))
    skip_constants(classifier)


def skip_constants(classifier: Any) -> None:
    """Make the pooling layer, if there is one, fixed and fast; this is not saved with the model.

    If the layer was trained elsewhere, it becomes a layer like the others.
    """
    if not has_pooling_layer(classifier.config):
        return
    layer, fixed = classifier.base_model.encoder.layer[-1], _fixed_weights(classifier)
    if any(not torch.equal(own, fixed[name]) for name, own in layer.state_dict().items()):
        setattr(classifier.config, _FLAG, False)
        return
    layer.requires_grad_(False)
    # A subclass, because transformers finds the hidden states to return by the class of the layers.
    layer.__class__ = type("MeanPoolingLayer", (MeanPooling, type(layer)), {})


def _fixed_weights(classifier: Any) -> dict[str, Tensor]:
    """Return the weights of the pooling layer by name."""
    layer, identity = classifier.base_model.encoder.layer[-1], torch.eye(classifier.config.hidden_size)
    ones = torch.ones(classifier.config.hidden_size)
    return {name: torch.zeros_like(own) for name, own in layer.state_dict().items()} | {
        "attention.self.value.weight": identity,
        "attention.output.dense.weight": MEAN_FACTOR * identity,
        "attention.output.LayerNorm.weight": ones,
        "output.LayerNorm.weight": ones,
    }
