"""Text to token ids, and token ids to padded tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hrkd_cli.choices import Truncate
from hrkd_cli.data.dataset import Rows
from hrkd_cli.models.backend import input_names
from hrkd_cli.predict.tokenization import TextTokenizer

_CHUNK = 10_000


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of many examples, at their real lengths.

    Attributes:
        ids: an int32 array an example.
        types: token type ids, as ``ids``; None when the model takes none.
    """

    ids: list[np.ndarray]
    types: list[np.ndarray] | None

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.ids)

    def lengths(self) -> np.ndarray:
        """Return the number of tokens of each example."""
        return np.array([len(i) for i in self.ids], dtype=np.int64)


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
    """A tokenizer with a fixed cut, and the padding that goes with it.

    Args:
        tokenizer: a fast transformers tokenizer.
        max_length: examples are cut to this many tokens, the longer text of a pair first.
        takes_types: whether the model takes token type ids (see ``make_encoder``).
        truncate: what is kept of longer texts (see ``hrkd_cli.predict.tokenization``).
    """

    def __init__(self, tokenizer: Any, max_length: int, *, takes_types: bool, truncate: str = Truncate.HEAD) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.truncate = truncate
        self.pad_id = int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0)
        self.takes_types = takes_types

    def encode(self, rows: Rows) -> Encoded:
        """Encode rows (labels are not looked at)."""
        from tokenizers import Tokenizer

        # A copy: truncation must not stay on the tokenizer that is saved later.
        backend = Tokenizer.from_str(self.tokenizer.backend_tokenizer.to_str())
        own = TextTokenizer(backend, max_length=self.max_length, pad_id=self.pad_id, truncate=self.truncate)
        ids, types = [], []
        for start in range(0, len(rows.texts), _CHUNK):  # the library's own results are much larger than the ids
            part = slice(start, start + _CHUNK)
            for example in own.encode(rows.texts[part], rows.pairs[part] if rows.pairs is not None else None):
                ids.append(np.array(example.ids, dtype=np.int32))
                if self.takes_types:
                    types.append(np.array(example.types, dtype=np.int32))
        return Encoded(ids, types if self.takes_types else None)

    def collate(
        self, encoded: Encoded, indices: Sequence[int], device: torch.device, *, pad_to: int | None = None
    ) -> Batch:
        """Pad the chosen examples to the longest of them, or to ``pad_to`` tokens."""
        return self.collate_rows([(encoded, index) for index in indices], device, pad_to=pad_to)

    def collate_rows(
        self, rows: Sequence[tuple[Encoded, int]], device: torch.device, *, pad_to: int | None = None
    ) -> Batch:
        """Pad examples of several domains to the longest of them, or to ``pad_to`` tokens."""
        ids = [encoded.ids[index] for encoded, index in rows]
        lengths = np.array([len(i) for i in ids])
        longest = pad_to or int(lengths.max())
        mask = np.arange(longest) < lengths[:, None]
        inputs = {"input_ids": _padded(ids, longest, self.pad_id), "attention_mask": mask.astype(np.int64)}
        if self.takes_types:
            types = [encoded.types[index] for encoded, index in rows if encoded.types is not None]
            inputs["token_type_ids"] = _padded(types, longest, 0)
        tensors = {name: to_device(torch.from_numpy(array), device) for name, array in inputs.items()}
        return Batch(tensors, tensors["attention_mask"].bool())


def joined(first: Encoded, second: Encoded) -> Encoded:
    """Return the examples of both, one after the other; both are of the same encoder."""
    types = None if first.types is None or second.types is None else first.types + second.types
    return Encoded(first.ids + second.ids, types)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Move a host tensor; to a GPU without waiting for it."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def make_encoder(model: Any, tokenizer: Any, max_length: int, truncate: str = Truncate.HEAD) -> Encoder:
    """Make the encoder of a model: it gives the inputs that the model, and later its exported graph, takes."""
    names = input_names(model, {"model_input_names": list(tokenizer.model_input_names)})
    return Encoder(tokenizer, max_length, takes_types="token_type_ids" in names, truncate=truncate)


def same_tokenizer(first: Any, second: Any, probe: Sequence[str]) -> bool:
    """Tell whether two tokenizers give the same ids: equal vocabularies and equal encodings of some real texts."""
    if first.get_vocab() != second.get_vocab():
        return False
    texts = list(probe)
    encodings = (t.backend_tokenizer.encode_batch(texts) for t in (first, second))
    return all(a.ids == b.ids for a, b in zip(*encodings, strict=True))


def _padded(arrays: Sequence[np.ndarray], longest: int, value: int) -> np.ndarray:
    out = np.full((len(arrays), longest), value, dtype=np.int64)
    for row, array in zip(out, arrays, strict=True):
        row[: len(array)] = array
    return out
