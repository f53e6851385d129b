"""Tokenization for a transformers model: texts to token ids, and token ids to padded torch tensors."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from hrkd_cli.choices import Truncate
from hrkd_cli.data.dataset import TextRows
from hrkd_cli.errors import ModelError
from hrkd_cli.models.device import to_device
from hrkd_cli.predict.tokenization import TextTokenizer, TokenizedExample

_CHUNK_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Token ids of R rows, padded to T tokens.

    Attributes:
        inputs: arguments of the model's forward: ``input_ids``, ``attention_mask``, perhaps ``token_type_ids``, each
            (R, T).
        mask: (R, T), true at tokens that are not padding.
    """

    inputs: dict[str, Tensor]
    mask: Tensor


class ModelTokenizer(TextTokenizer):
    """A model's fast tokenizer with a maximum length, which makes batches of torch tensors.

    Attributes:
        pretrained: the transformers tokenizer, unchanged, as it is saved with the model.
        input_names: inputs of the model, see ``input_names``.
    """

    def __init__(self, model: Any, pretrained: Any, max_length: int, truncate: str = Truncate.HEAD) -> None:
        self.pretrained = pretrained
        self.input_names = input_names(model, pretrained.model_input_names)
        # A copy, because truncation must not stay on the tokenizer that is saved later.
        backend = Tokenizer.from_str(pretrained.backend_tokenizer.to_str())
        check_vocabulary(backend, model.config, pretrained.name_or_path)
        super().__init__(backend, max_length=max_length, pad_id=int(pretrained.pad_token_id or 0), truncate=truncate)

    def encode_rows(self, rows: TextRows) -> list[TokenizedExample]:
        """Tokenize the texts of rows without padding, into compact arrays."""
        examples = []
        for start in range(0, len(rows.texts), _CHUNK_ROWS):  # the library's own results are much larger than token ids
            chunk = slice(start, start + _CHUNK_ROWS)
            for one in self.encode(rows.texts[chunk], rows.pairs[chunk] if rows.pairs is not None else None):
                examples.append(
                    TokenizedExample(np.array(one.ids, dtype=np.int32), np.array(one.type_ids, dtype=np.int8))
                )
        return examples

    def collate(
        self, examples: Sequence[TokenizedExample], device: torch.device, *, pad_to: int | None = None
    ) -> TokenBatch:
        """Pad examples to the longest of them, or to ``pad_to`` tokens, as tensors on a device."""
        arrays = self.pad(examples, pad_to)
        tensors = {name: to_device(torch.from_numpy(arrays[name]), device) for name in self.input_names}
        return TokenBatch(tensors, tensors["attention_mask"].bool())


def check_vocabulary(tokenizer: Tokenizer, config: Any, name: str) -> None:
    """Raise ModelError if a tokenizer gives ids that a model's embedding table does not have."""
    largest, rows = max(tokenizer.get_vocab().values()), getattr(config, "vocab_size", None)
    if isinstance(rows, int) and largest >= rows:
        raise ModelError(
            f"{name}: its tokenizer has {largest + 1} tokens, but the model only {rows} embeddings; save the model's "
            "own tokenizer there, or resize its embeddings (resize_token_embeddings)"
        )


def input_names(model: Any, tokenizer_names: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of a model's inputs, in the usual order.

    ``token_type_ids`` is one of them if the model takes it and has more than one segment type, and if the tokenizer
    lists it in ``tokenizer_names`` (its ``model_input_names``) or lists nothing.
    """
    names = ("input_ids", "attention_mask")
    accepted = "token_type_ids" in inspect.signature(model.forward).parameters
    has_types = (getattr(model.config, "type_vocab_size", 0) or 0) > 1
    if accepted and has_types and (not tokenizer_names or "token_type_ids" in tokenizer_names):
        return (*names, "token_type_ids")
    return names


def token_counts(examples: Sequence[TokenizedExample]) -> np.ndarray:
    """Return the number of tokens of each example."""
    return np.array([len(example) for example in examples], dtype=np.int64)


def same_tokenizer(first: Any, second: Any, probe: Sequence[str]) -> bool:
    """Return whether two tokenizers have equal vocabularies and give the probe texts the same ids."""
    if first.get_vocab() != second.get_vocab():
        return False
    texts = list(probe)
    encodings = (t.backend_tokenizer.encode_batch(texts) for t in (first, second))
    return all(a.ids == b.ids for a, b in zip(*encodings, strict=True))
