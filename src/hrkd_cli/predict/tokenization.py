"""Tokenize texts and pad them into arrays, with only ``tokenizers`` and numpy.

Truncation keeps the first tokens of a long text, the last ones, or both ends. It never removes special tokens, and
shortens the longer text of a pair first.
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
    """Token ids and segment ids of one text or pair, unpadded."""

    ids: list[int] | npt.NDArray[np.integer]
    type_ids: list[int] | npt.NDArray[np.integer]

    def __len__(self) -> int:
        return len(self.ids)


class TextTokenizer:
    """A tokenizer that truncates to ``max_length``; ``pad`` pads.

    Args:
        tokenizer: changed in place: its own padding and truncation settings are replaced.
        max_length: maximum number of tokens, including special tokens.
        pad_id: id of the padding token.
        truncate: ``head`` keeps the first tokens of a text, ``tail`` the last, ``head-tail`` half from each end (the
            first half gets the odd one).
    """

    def __init__(self, tokenizer: Tokenizer, *, max_length: int, pad_id: int, truncate: str = Truncate.HEAD) -> None:
        self.max_length = max_length
        self.pad_id = pad_id
        self._tokenizer = tokenizer
        tokenizer.no_padding()
        tokenizer.no_truncation()
        # The library truncates only one end. For head-tail, its result gives the number of tokens of each text to keep.
        self._untruncated = Tokenizer.from_str(tokenizer.to_str()) if truncate == Truncate.HEAD_TAIL else None
        direction = "left" if truncate == Truncate.TAIL else "right"
        tokenizer.enable_truncation(max_length, strategy="longest_first", direction=direction)

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[TokenizedExample]:
        """Tokenize texts, or pairs of texts, each truncated to ``max_length``.

        Raises:
            UsageError: see ``check_texts``.
        """
        check_texts(texts, pairs)
        inputs: Sequence[Any] = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
        encodings = self._tokenizer.encode_batch(inputs)
        examples = [TokenizedExample(encoding.ids, encoding.type_ids) for encoding in encodings]
        if self._untruncated is not None:
            long = [n for n, example in enumerate(examples) if len(example) == self.max_length]
            for n, full in zip(long, self._untruncated.encode_batch([inputs[n] for n in long]), strict=True):
                keep = _head_tail_positions(full.sequence_ids, encodings[n].sequence_ids)
                examples[n] = TokenizedExample([full.ids[i] for i in keep], [full.type_ids[i] for i in keep])
        return examples

    def pad(self, batch: Sequence[TokenizedExample], pad_to: int | None = None) -> dict[str, IntArray]:
        """Pad examples into ``input_ids``, ``attention_mask`` and ``token_type_ids``, each (B, T).

        T is the longest example's length, but at least ``pad_to``.
        """
        length = max([len(example) for example in batch] + [pad_to or 1])
        ids = np.full((len(batch), length), self.pad_id, dtype=np.int64)
        mask, type_ids = np.zeros_like(ids), np.zeros_like(ids)
        for row, example in enumerate(batch):
            ids[row, : len(example)] = example.ids
            mask[row, : len(example)] = 1
            type_ids[row, : len(example)] = example.type_ids
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": type_ids}


def read_tokenizer(root: Path) -> Tokenizer:
    """Read a model folder's ``tokenizer.json``; ModelError if it is missing or damaged."""
    path = root / ModelFiles.tokenizer
    if not path.is_file():
        raise ModelError(f"{root}: no {ModelFiles.tokenizer} in it; save the model with a fast tokenizer")
    try:
        return Tokenizer.from_file(str(path))
    # tokenizers raises a plain Exception for a file that it cannot parse.
    except Exception as error:
        raise ModelError(f"{path}: cannot be read as a tokenizer ({one_line(error)})") from None


def find_pad_id(tokenizer: Tokenizer, tokenizer_config: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    """Return the padding token's id, named by the tokenizer or else the model; else of ``[PAD]`` or ``<pad>``.

    Returns 0 if there is none.
    """
    token = tokenizer_config.get("pad_token")
    if isinstance(token, dict):
        token = token.get("content")
    if token is not None and (pad_id := tokenizer.token_to_id(str(token))) is not None:
        return int(pad_id)
    if config.get("pad_token_id") is not None:
        return int(config["pad_token_id"])
    default_ids = (tokenizer.token_to_id(name) for name in ("[PAD]", "<pad>"))
    return next((int(pad_id) for pad_id in default_ids if pad_id is not None), 0)


def _head_tail_positions(full: list[int | None], truncated: list[int | None]) -> list[int]:
    """Return the positions to keep of an untruncated example: special tokens, and half of each text from each end.

    Both arguments give the text of each token, 0 or 1, or None for a special token. ``truncated`` determines how many
    tokens of each text to keep.
    """
    keep = [position for position, text in enumerate(full) if text is None]
    for text in (0, 1):
        positions = [position for position, of_text in enumerate(full) if of_text == text]
        count = truncated.count(text)
        keep += positions[: (count + 1) // 2] + positions[len(positions) - count // 2 :]
    return sorted(keep)


def check_texts(texts: Sequence[str], pairs: Sequence[str] | None) -> None:
    """Raise a UsageError if a text is not a string or not Unicode, or the numbers of texts and pairs differ."""
    for name, column in (("texts", texts), ("pairs", pairs)):
        if isinstance(column, str):
            raise UsageError(f"{name}: one string was given; give a list of strings")
        for position, text in enumerate(column if column is not None else ()):
            if not isinstance(text, str):
                raise UsageError(f"{name}[{position}]: {type(text).__name__} is not a text; give a list of strings")
            try:
                text.encode()  # bytes of the command line that are not UTF-8 are lone surrogates
            except UnicodeEncodeError as error:
                place = f"{text[error.start]!r} at position {error.start}"
                raise UsageError(f"{name}[{position}]: not UTF-8 ({place}); convert it") from None
    if pairs is not None and len(pairs) != len(texts):
        raise UsageError(f"not as many second texts ({len(pairs)}) as texts ({len(texts)}); give one for each")
