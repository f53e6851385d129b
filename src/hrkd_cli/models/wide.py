"""The wide branch of a student: linear weights on single tokens and pairs of adjacent tokens, added to its logits.

The encoder reads a text up to the training length; the wide branch also reads the tokens after it. As in "Wide & Deep
Learning for Recommender Systems" (Cheng et al., 2016), the sparse part remembers single words and the dense part
generalizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from hrkd_cli.errors import ModelError, one_line
from hrkd_cli.layout import ModelFiles

HASH_MULTIPLIER = 1_000_003
"""Prime, so that pairs that differ in their first token only fall into different buckets."""

Ids = TypeVar("Ids", Tensor, npt.NDArray[np.int64])


def hash_pairs(first: Ids, second: Ids, buckets: int) -> Ids:
    """Return the bucket of each pair of token ids, from 0 to ``buckets`` - 1."""
    return (first * HASH_MULTIPLIER + second) % buckets


class WideBranch(nn.Module):
    """Logits that are linear in the tokens of a text.

    The logits of T tokens are the sum of the rows of T tokens and T-1 token pairs, divided by the square root of T.

    Attributes:
        embedding: (V + B, O) weights: a row for each of V tokens, then one for each of B buckets of token pairs.
        vocab_size: V.
        hash_ids: (V,) for a trimmed vocabulary, the ids before trimming, which are the ones to hash; else None.
    """

    hash_ids: Tensor | None

    def __init__(self, weight: Tensor, vocab_size: int, hash_ids: Tensor | None = None) -> None:
        super().__init__()
        self.embedding = nn.Embedding(weight.shape[0], weight.shape[1], _weight=weight, _freeze=True)
        self.vocab_size = vocab_size
        self.register_buffer("hash_ids", hash_ids)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the logits, (R, O), of token ids (R, T)."""
        ids = input_ids if self.hash_ids is None else self.hash_ids[input_ids]
        buckets = len(self.embedding.weight) - self.vocab_size
        pair_rows = hash_pairs(ids[:, :-1], ids[:, 1:], buckets) + self.vocab_size
        rows = torch.cat([input_ids, pair_rows], dim=1)
        valid = torch.cat([attention_mask, attention_mask[:, 1:]], dim=1).to(self.embedding.weight.dtype)
        total = (self.embedding(rows) * valid[:, :, None]).sum(dim=1)
        logits: Tensor = total / attention_mask.sum(dim=1, keepdim=True).to(total.dtype).sqrt()
        return logits

    def select(self, token_ids: Sequence[int], columns: Sequence[int]) -> WideBranch:
        """Return a branch for a part of the vocabulary, given by its ids in their new order, and of the outputs."""
        ids, weight = torch.as_tensor(token_ids), self.embedding.weight
        weight = torch.cat([weight[ids], weight[self.vocab_size :]])[:, list(columns)].contiguous()
        if len(ids) == self.vocab_size:
            return WideBranch(weight, self.vocab_size, self.hash_ids)
        return WideBranch(weight, len(ids), ids if self.hash_ids is None else self.hash_ids[ids])

    def save(self, folder: Path) -> None:
        """Write the branch into a model folder."""
        tensors = {"weight": self.embedding.weight.detach()}
        if self.hash_ids is not None:
            tensors["hash_ids"] = self.hash_ids
        save_file(tensors, folder / ModelFiles.wide)

    @classmethod
    def load(cls, folder: Path, vocab_size: int) -> WideBranch:
        """Read the branch of a model folder; ``vocab_size`` is the model's.

        Raises:
            ModelError: the file is missing or damaged.
        """
        path = folder / ModelFiles.wide
        try:
            tensors = load_file(path)
            return cls(tensors["weight"], vocab_size, tensors.get("hash_ids"))
        except Exception as error:  # safetensors has its own error type
            raise ModelError(f"{path}: cannot be read ({one_line(error)}); copy the whole folder again") from None


@dataclass(frozen=True, slots=True)
class ScoredWideBranch:
    """A wide branch that improves a student.

    Attributes:
        branch: the branch, scaled by its share in the logits.
        max_length: tokens of a text that it reads.
        dev: dev scores of the student with the branch, as ``scores_to_json`` returns them.
    """

    branch: WideBranch
    max_length: int
    dev: dict[str, Any]


class WideClassifier(nn.Module):
    """A classifier whose logits are the sum of an encoder's and a wide branch's.

    The encoder reads the first ``max_length`` tokens, the last of which is the text's own last (special) token, as if
    the tokenizer had truncated the text; the branch reads all of them.
    """

    def __init__(self, encoder: Any, wide: WideBranch, max_length: int) -> None:
        super().__init__()
        self.encoder, self.wide, self.max_length = encoder, wide, max_length
        self.train(encoder.training)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None, **options: Any
    ) -> SequenceClassifierOutput:
        """Return an output with the logits, (R, O), of right-padded rows (R, T)."""
        lengths = attention_mask.sum(dim=1, keepdim=True)
        ids, mask = input_ids[:, : self.max_length], attention_mask[:, : self.max_length]
        is_end = torch.arange(ids.shape[1], device=ids.device) == self.max_length - 1
        ids = torch.where(is_end & (lengths > self.max_length), input_ids.gather(1, lengths - 1), ids)
        segments = {} if token_type_ids is None else {"token_type_ids": token_type_ids[:, : self.max_length]}
        logits = self.encoder(input_ids=ids, attention_mask=mask, **segments, **options).logits
        return SequenceClassifierOutput(logits=logits + self.wide(input_ids, attention_mask))
