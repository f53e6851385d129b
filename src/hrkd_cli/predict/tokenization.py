"""Text to token ids and padded arrays, with nothing but ``tokenizers`` and numpy.

Texts that are too long keep their first tokens, their last ones, or both ends. Special tokens always stay. Of a pair,
the longer text is cut first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from hrkd_cli.choices import Truncate
from hrkd_cli.errors import ModelError, UsageError, one_line
from hrkd_cli.layout import ModelFiles

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TokenizedExample:
    """Token ids and token type ids of one example, without padding."""

    ids: list[int] | npt.NDArray[np.integer]
    type_ids: list[int] | npt.NDArray[np.integer]

    def __len__(self) -> int:
        return len(self.ids)


class TextTokenizer:
    """A tokenizer that truncates to a length and pads only when asked.

    Args:
        tokenizer: a copy that may be changed: its padding and truncation settings are replaced, since they belong to
            whoever saved it.
        max_length: most tokens of an example, special ones included.
        pad_id: id of the padding token.
        truncate: ``head`` keeps the first tokens of a text, ``tail`` the last, ``head-tail`` the first half and the
            last half of the tokens that it may have, the odd one in the first half.
    """

    def __init__(self, tokenizer: Tokenizer, *, max_length: int, pad_id: int, truncate: str = Truncate.HEAD) -> None:
        self.max_length = max_length
        self.pad_id = pad_id
        self._tokenizer = tokenizer
        tokenizer.no_padding()
        tokenizer.no_truncation()
        # The library truncates at one end only: for head-tail it says how many tokens of each text stay.
        self._whole = Tokenizer.from_str(tokenizer.to_str()) if truncate == Truncate.HEAD_TAIL else None
        direction = "left" if truncate == Truncate.TAIL else "right"
        tokenizer.enable_truncation(max_length, strategy="longest_first", direction=direction)

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[TokenizedExample]:
        """Tokenize texts, or pairs of texts, each truncated to ``max_length``.

        Raises:
            UsageError: a text is not a string, or the numbers of texts and pairs differ.
        """
        _check_texts(texts, pairs)
        examples: Sequence[Any] = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
        encodings = self._tokenizer.encode_batch(examples)
        found = [TokenizedExample(encoding.ids, encoding.type_ids) for encoding in encodings]
        if self._whole is not None:
            long = [n for n, example in enumerate(found) if len(example) == self.max_length]
            for n, whole in zip(long, self._whole.encode_batch([examples[n] for n in long]), strict=True):
                kept = _both_ends(whole.sequence_ids, encodings[n].sequence_ids)
                found[n] = TokenizedExample([whole.ids[i] for i in kept], [whole.type_ids[i] for i in kept])
        return found

    def pad(self, batch: Sequence[TokenizedExample], pad_to: int | None = None) -> dict[str, IntArray]:
        """Stack examples into ``input_ids``, ``attention_mask`` and ``token_type_ids``, each [B, T].

        T is at least ``pad_to``.
        """
        width = max([len(example) for example in batch] + [pad_to or 1])
        ids = np.full((len(batch), width), self.pad_id, dtype=np.int64)
        mask, types = np.zeros_like(ids), np.zeros_like(ids)
        for row, example in enumerate(batch):
            ids[row, : len(example)] = example.ids
            mask[row, : len(example)] = 1
            types[row, : len(example)] = example.type_ids
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def read_tokenizer(root: Path) -> Tokenizer:
    """Read ``tokenizer.json`` of a model folder; ModelError if it is missing or broken."""
    path = root / ModelFiles.tokenizer
    if not path.is_file():
        raise ModelError(f"{root}: no {ModelFiles.tokenizer} in it; save the model with a fast tokenizer")
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
    return next((int(i) for i in map(tokenizer.token_to_id, ("[PAD]", "<pad>")) if i is not None), 0)


def _both_ends(whole: list[int | None], cut: list[int | None]) -> list[int]:
    """Return the positions in a whole example of special tokens and, from both ends, of as many as a cut one has.

    Each token is of text 0 or 1, or None for a special token.
    """
    kept = [n for n, text in enumerate(whole) if text is None]
    for text in (0, 1):
        own, share = [n for n, one in enumerate(whole) if one == text], cut.count(text)
        kept += own[: (share + 1) // 2] + own[len(own) - share // 2 :]
    return sorted(kept)


def _check_texts(texts: Sequence[str], pairs: Sequence[str] | None) -> None:
    for name, column in (("texts", texts), ("pairs", pairs)):
        if isinstance(column, str):
            raise UsageError(f"{name}: one string was given; give a list of strings")
        for position, text in enumerate(column if column is not None else ()):
            if not isinstance(text, str):
                raise UsageError(f"{name}[{position}]: {type(text).__name__} is not a text; give a list of strings")
    if pairs is not None and len(pairs) != len(texts):
        raise UsageError(f"{len(texts)} texts but {len(pairs)} second texts; give one for each text")
