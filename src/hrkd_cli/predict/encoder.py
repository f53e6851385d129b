"""Text to token ids and padded arrays, with nothing but ``tokenizers`` and numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from hrkd_cli.errors import ModelError, UsageError
from hrkd_cli.predict.folder import TOKENIZER, TOKENIZER_CONFIG, one_line, read_json
from hrkd_cli.predict.truncation import HEAD, Cutter

IntArray = npt.NDArray[np.int64]

USUAL_PADS = ("[PAD]", "<pad>")


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids and segment ids of one example, unpadded."""

    ids: list[int]
    types: list[int]

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.ids)


class TextEncoder:
    """A tokenizer that cuts to a length and pads only when asked.

    Padding and truncation settings inside ``tokenizer.json`` are overridden: they belong to whoever saved it.
    """

    def __init__(self, tokenizer: Tokenizer, *, max_length: int, pad_id: int, truncate: str = HEAD) -> None:
        self._tokenizer = tokenizer
        self._cutter = Cutter(tokenizer, max_length, truncate)
        self.max_length = max_length
        self.pad_id = pad_id

    @classmethod
    def from_folder(
        cls, root: Path, *, max_length: int, config: Mapping[str, Any], truncate: str = HEAD
    ) -> TextEncoder:
        """Load ``tokenizer.json`` of a model folder.

        Raises:
            ModelError: the file is missing or broken.
        """
        tokenizer = read_tokenizer(root)
        pad_id = find_pad_id(tokenizer, read_json(root / TOKENIZER_CONFIG, missing_ok=True), config)
        return cls(tokenizer, max_length=max_length, pad_id=pad_id, truncate=truncate)

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[Encoded]:
        """Tokenise texts, or pairs of texts, each cut to ``max_length`` (the longer of a pair first).

        Raises:
            UsageError: a text is not a string, or the numbers of texts and pairs differ.
        """
        check_texts(texts, pairs)
        examples: Sequence[Any] = texts if pairs is None else list(zip(texts, pairs, strict=True))
        return [Encoded(ids, types) for ids, types in self._cutter.encode(examples)]

    def collate(self, batch: Sequence[Encoded], pad_to: int | None = None) -> dict[str, IntArray]:
        """Stack examples into ``input_ids``, ``attention_mask`` and ``token_type_ids``, each [B, T].

        Args:
            batch: examples.
            pad_to: T; None for the longest example of the batch.
        """
        width = max([len(example) for example in batch] + [pad_to or 1])
        ids = np.full((len(batch), width), self.pad_id, dtype=np.int64)
        mask = np.zeros((len(batch), width), dtype=np.int64)
        types = np.zeros((len(batch), width), dtype=np.int64)
        for row, example in enumerate(batch):
            ids[row, : len(example)] = example.ids
            mask[row, : len(example)] = 1
            types[row, : len(example)] = example.types
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def read_tokenizer(root: Path) -> Tokenizer:
    """Read ``tokenizer.json`` of a model folder.

    Raises:
        ModelError: the file is missing or broken.
    """
    path = root / TOKENIZER
    if not path.is_file():
        raise ModelError(f"{root}: no {TOKENIZER} in it; save the model with a fast tokenizer")
    try:
        return Tokenizer.from_file(str(path))
    # tokenizers raises plain Exception for a file that it cannot parse.
    except Exception as error:
        raise ModelError(f"{path}: cannot be read as a tokenizer ({one_line(error)})") from None


def find_pad_id(tokenizer: Tokenizer, tokenizer_config: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    """Return the id of the padding token: the tokenizer's own, else the model's ``pad_token_id``, else a usual name."""
    named = tokenizer_config.get("pad_token")
    token = named.get("content") if isinstance(named, dict) else named
    if token is not None and (found := tokenizer.token_to_id(str(token))) is not None:
        return int(found)
    if config.get("pad_token_id") is not None:
        return int(config["pad_token_id"])
    return next((int(i) for i in map(tokenizer.token_to_id, USUAL_PADS) if i is not None), 0)


def check_texts(texts: Sequence[str], pairs: Sequence[str] | None) -> None:
    """Refuse what is not a list of texts, or two lists of different lengths.

    Raises:
        UsageError: the first thing that is wrong.
    """
    for name, column in (("texts", texts), ("pairs", pairs)):
        if isinstance(column, str):
            raise UsageError(f"{name}: one string was given; give a list of strings")
        for position, text in enumerate(column or ()):
            if not isinstance(text, str):
                raise UsageError(f"{name}[{position}]: {type(text).__name__} is not a text; give a list of strings")
    if pairs is not None and len(pairs) != len(texts):
        raise UsageError(f"{len(texts)} texts but {len(pairs)} second texts; give one for each text")
