"""Text to token ids, and token ids to padded tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from hrkd_cli.choices import Truncate
from hrkd_cli.data.dataset import TextRows
from hrkd_cli.models.torch_backend import input_names
from hrkd_cli.predict.tokenization import TextTokenizer, TokenizedExample

_CHUNK = 10_000


@dataclass(frozen=True, slots=True)
class Batch:
    """Token ids of B examples, padded to T tokens each.

    Attributes:
        inputs: what the model's forward takes: ``input_ids``, ``attention_mask``, perhaps ``token_type_ids``, (B, T).
        mask: (B, T), true at valid tokens.
    """

    inputs: dict[str, Tensor]
    mask: Tensor


class Encoder:
    """A model's fast tokenizer with a fixed cut (see ``TextTokenizer``), and the padding that goes with it.

    ``inputs``: what the model takes, and later its exported graph (see ``input_names``).
    """

    def __init__(self, model: Any, tokenizer: Any, max_length: int, truncate: str = Truncate.HEAD) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.inputs = input_names(model, tokenizer.model_input_names)
        # A copy: truncation must not stay on the tokenizer that is saved later.
        backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        pad_id = int(tokenizer.pad_token_id or 0)
        self.text = TextTokenizer(backend, max_length=max_length, pad_id=pad_id, truncate=truncate)

    def encode(self, rows: TextRows) -> list[TokenizedExample]:
        """Encode rows (labels are not looked at), at their real lengths."""
        found = []
        for start in range(0, len(rows.texts), _CHUNK):  # the library's own results are much larger than the ids
            part = slice(start, start + _CHUNK)
            for one in self.text.encode(rows.texts[part], rows.pairs[part] if rows.pairs is not None else None):
                found.append(TokenizedExample(np.array(one.ids, dtype=np.int32), np.array(one.type_ids, dtype=np.int8)))
        return found

    def collate(self, encoded: Sequence[TokenizedExample], device: torch.device, *, pad_to: int | None = None) -> Batch:
        """Pad examples to the longest of them, or to ``pad_to`` tokens."""
        arrays = self.text.collate(encoded, pad_to)
        tensors = {name: to_device(torch.from_numpy(arrays[name]), device) for name in self.inputs}
        return Batch(tensors, tensors["attention_mask"].bool())


def lengths_of(encoded: Sequence[TokenizedExample]) -> np.ndarray:
    """Return the number of tokens of each example."""
    return np.array([len(one) for one in encoded], dtype=np.int64)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Move a host tensor; to a GPU without waiting for it."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def same_tokenizer(first: Any, second: Any, probe: Sequence[str]) -> bool:
    """Tell whether two tokenizers give the same ids: equal vocabularies and equal encodings of some real texts."""
    if first.get_vocab() != second.get_vocab():
        return False
    texts = list(probe)
    encodings = (t.backend_tokenizer.encode_batch(texts) for t in (first, second))
    return all(a.ids == b.ids for a, b in zip(*encodings, strict=True))
