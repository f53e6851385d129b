"""Which tokens of a vocabulary must stay together: what keeps every character readable, and what a token is built from.

A ``tokenizer.json`` names its model's kind. WordPiece takes the longest token that fits, Unigram the most probable way
to cover a word, BPE applies merges in order. In each of them a text whose tokens all stay is still split as before, as
long as a BPE token brings along the tokens that its merges pass through.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, Protocol

from hrkd_cli.errors import ModelError

KINDS = ("WordPiece", "BPE", "Unigram")


class Rules(Protocol):
    """What one kind of model asks of a smaller vocabulary."""

    def tokens(self) -> dict[str, int]:
        """Return the model's tokens with their ids; added tokens of the tokenizer may be missing."""

    def alphabet(self) -> set[str]:
        """Return the tokens without which some character could no longer be read."""

    def characters(self) -> set[str]:
        """Return the characters that can be read; none where every character can (bytes)."""

    def parts(self, token: str) -> set[str]:
        """Return the other tokens that a token needs."""

    def rewritten(self, kept: Mapping[str, int]) -> dict[str, Any]:
        """Return the model's entry of ``tokenizer.json`` with only the kept tokens, under their new ids."""


def make_rules(model: Mapping[str, Any]) -> Rules:
    """Return the rules of a model entry of ``tokenizer.json``.

    Raises:
        ModelError: a kind of model whose words would become unknown (WordLevel), or that is not known.
    """
    kind = str(model.get("type"))
    if kind == "WordPiece":
        return _WordPiece(model)
    if kind == "BPE":
        return _Bpe(model)
    if kind == "Unigram":
        return _Unigram(model)
    raise ModelError(
        f"a {kind} tokenizer cannot be trimmed: words that are dropped would become unknown, since it does not split "
        f"them into characters; only {', '.join(KINDS)} tokenizers can"
    )


class _WordPiece:
    def __init__(self, model: Mapping[str, Any]) -> None:
        self._model = model
        self._vocab: dict[str, int] = dict(model["vocab"])
        self._prefix = str(model.get("continuing_subword_prefix") or "##")

    def tokens(self) -> dict[str, int]:
        return self._vocab

    def _pieces(self) -> Iterator[tuple[str, str, bool]]:
        """Yield each token, its characters, and whether it starts a word."""
        for token in self._vocab:
            begins = not token.startswith(self._prefix) or token == self._prefix
            yield token, token if begins else token[len(self._prefix) :], begins

    def alphabet(self) -> set[str]:
        """Return single characters at both places of a word, and every token with a character that has no such one."""
        first = {text for _, text, begins in self._pieces() if begins and len(text) == 1}
        later = {text for _, text, begins in self._pieces() if not begins and len(text) == 1}
        kept = set()
        for token, text, begins in self._pieces():
            inside = text[1:] if begins else text
            if len(text) == 1 or (begins and text[:1] not in first) or not set(inside) <= later:
                kept.add(token)
        return kept

    def characters(self) -> set[str]:
        return {character for _, text, _ in self._pieces() for character in text}

    def parts(self, token: str) -> set[str]:
        return set()

    def rewritten(self, kept: Mapping[str, int]) -> dict[str, Any]:
        return {**self._model, "vocab": dict(kept)}


class _Unigram:
    def __init__(self, model: Mapping[str, Any]) -> None:
        self._model = model
        self._scores: dict[str, float] = dict(model["vocab"])

    def tokens(self) -> dict[str, int]:
        return {token: index for index, (token, _) in enumerate(self._model["vocab"])}

    def alphabet(self) -> set[str]:
        """Return single characters, tokens with a character that has no such one, bytes, and the unknown token."""
        single = {token for token in self._scores if len(token) == 1}
        kept = {token for token in self._scores if len(token) == 1 or not set(token) <= single}
        if self._model.get("byte_fallback"):
            kept |= {token for token in (f"<0x{byte:02X}>" for byte in range(256)) if token in self._scores}
        if self._model.get("unk_id") is not None:
            kept.add(self._model["vocab"][self._model["unk_id"]][0])
        return kept

    def characters(self) -> set[str]:
        return set() if self._model.get("byte_fallback") else {c for token in self._scores for c in token}

    def parts(self, token: str) -> set[str]:
        return set()

    def rewritten(self, kept: Mapping[str, int]) -> dict[str, Any]:
        # Ids are positions in the list.
        ordered = sorted(kept, key=lambda token: kept[token])
        unknown = self._model.get("unk_id")
        name = self._model["vocab"][unknown][0] if unknown is not None else None
        return {
            **self._model,
            "vocab": [[token, self._scores[token]] for token in ordered],
            "unk_id": None if name is None else kept[name],
        }


class _Bpe:
    def __init__(self, model: Mapping[str, Any]) -> None:
        self._model = model
        self._vocab: dict[str, int] = dict(model["vocab"])
        self._prefix = str(model.get("continuing_subword_prefix") or "")
        self._suffix = str(model.get("end_of_word_suffix") or "")

    @cached_property
    def _merges(self) -> list[tuple[str, str]]:
        pairs = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in self._model["merges"])
        return [(first, second) for first, second in pairs]

    @cached_property
    def _ranks(self) -> dict[tuple[str, str], int]:
        return {pair: rank for rank, pair in enumerate(self._merges)}

    def _joined(self, first: str, second: str) -> str:
        return first + second.removeprefix(self._prefix)

    def tokens(self) -> dict[str, int]:
        return self._vocab

    def alphabet(self) -> set[str]:
        """Return the tokens that no merge makes: characters or bytes, and special ones."""
        return set(self._vocab) - {self._joined(*pair) for pair in self._merges}

    def characters(self) -> set[str]:
        # With an alphabet of bytes, or bytes to fall back on, nothing is ever unknown.
        if self._model.get("byte_fallback") or not self._model.get("unk_token"):
            return set()
        return {token for token in self.alphabet() if len(token) == 1}

    def parts(self, token: str) -> set[str]:
        """Return what the merges pass through on their way to a token; the same in every word that it is part of."""
        symbols = self._symbols(token)
        made: set[str] = set()
        while len(symbols) > 1:
            ranked = [(self._ranks.get(pair), n) for n, pair in enumerate(pairwise(symbols))]
            known = [(rank, n) for rank, n in ranked if rank is not None]
            if not known:
                break
            _, place = min(known)
            made |= {symbols[place], symbols[place + 1]}
            symbols[place : place + 2] = [self._joined(symbols[place], symbols[place + 1])]
        return {part for part in made if part in self._vocab} - {token}

    def _symbols(self, token: str) -> list[str]:
        begins = not (self._prefix and token.startswith(self._prefix))
        text = token if begins else token[len(self._prefix) :]
        ends = bool(self._suffix) and text.endswith(self._suffix) and text != self._suffix
        text = text[: -len(self._suffix)] if ends else text
        symbols = [c if begins and n == 0 else self._prefix + c for n, c in enumerate(text)]
        if ends and symbols:
            symbols[-1] += self._suffix
        return symbols

    def rewritten(self, kept: Mapping[str, int]) -> dict[str, Any]:
        merges = [
            [first, second]
            for first, second in self._merges
            if first in kept and second in kept and self._joined(first, second) in kept
        ]
        return {**self._model, "vocab": dict(kept), "merges": merges}


def choose_tokens(
    rules: Rules, counts: Mapping[str, int], mandatory: set[str], size: int | None, *, first: Mapping[str, int]
) -> tuple[set[str], Sequence[str]]:
    """Choose the tokens that stay.

    Args:
        rules: of the tokenizer's model.
        counts: how often the data uses each token.
        mandatory: tokens that stay whatever the data uses.
        size: most tokens to keep, the mandatory ones included; None for all that the data uses.
        first: how often the part of the data uses them whose tokens come first (a baked head's own domain).

    Returns:
        The tokens that stay, and the used ones that do not, most used first.
    """
    ids = rules.tokens()
    kept = set(mandatory)
    dropped = []
    used = [token for token, n in counts.items() if n and token in ids]
    used.sort(key=lambda token: (-first.get(token, 0), -counts[token], ids[token]))
    for token in used:
        if token in kept:
            continue
        needed = {token, *rules.parts(token)} - kept
        if size is None or len(kept) + len(needed) <= size:
            kept |= needed
        else:
            dropped.append(token)
    return kept, [token for token in dropped if token not in kept]
