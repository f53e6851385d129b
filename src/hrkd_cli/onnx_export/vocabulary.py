"""The vocabulary of a ``tokenizer.json``: what must stay together, and the same tokenizer with fewer tokens.

WordPiece takes the longest token that fits, Unigram the most probable way to cover a word, BPE applies merges in order.
In each of them a text whose tokens all stay is still split as before, as long as a BPE token brings along the tokens
that its merges pass through.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise
from typing import Any

from tokenizers import Tokenizer

from hrkd_cli.errors import ModelError

KINDS = ("WordPiece", "BPE", "Unigram")

Character = tuple[str, bool, bool]
"""A character, whether the tokenizer marks it as the start of a word, and whether as the end of one."""


class Vocabulary:
    """The tokens of a tokenizer.

    Attributes:
        ids: ids of the model's tokens; added tokens may be missing.
        added: ids of the added tokens (special ones and others), which always stay.
        all_ids: both.
        unknown: the unknown token; None where there is none.

    Raises:
        ModelError: a model whose words would become unknown (WordLevel), or that is not known.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._json = tokenizer.to_str()
        content = json.loads(self._json)
        self._model: dict[str, Any] = content["model"]
        self._post_processor = content["post_processor"]
        kind = self._model.get("type")
        if kind not in KINDS:
            raise ModelError(
                f"a {kind} tokenizer cannot be trimmed: words that are dropped would become unknown, since it does not "
                f"split them into characters; only {', '.join(KINDS)} tokenizers can"
            )
        entries = self._model["vocab"]
        self.ids: dict[str, int] = (
            dict(entries) if isinstance(entries, dict) else {entry[0]: index for index, entry in enumerate(entries)}
        )
        self.added = {str(entry["content"]): int(entry["id"]) for entry in content["added_tokens"] or ()}
        self.all_ids = {**self.ids, **self.added}
        unknown = self._model.get("unk_id")
        self.unknown: str | None = self._model.get("unk_token") if unknown is None else str(entries[unknown][0])
        self._prefix = str(self._model.get("continuing_subword_prefix") or ("##" if kind == "WordPiece" else ""))
        self._suffix = str(self._model.get("end_of_word_suffix") or "")
        bytes_ = {f"<0x{n:02X}>" for n in range(256)} if self._model.get("byte_fallback") else set()
        self._bytes = bytes_ & set(self.ids)

    def special(self) -> set[str]:
        """Return the tokens that the tokenizer names: added ones, the unknown one, those it puts around a text."""
        around = {token for _, _, tokens in _id_lists(self._post_processor) for token in tokens}
        return {*self.added, *around, *([self.unknown] if self.unknown is not None else [])}

    def alphabet(self) -> set[str]:
        """Return the tokens without which some character could no longer be read.

        Single characters at each place of a word, every token with a character that has no such one, and bytes.
        """
        characters = {token: self._characters(token) for token in self.ids}
        single = {found[0] for found in characters.values() if len(found) == 1}
        spelled = {t for t, found in characters.items() if len(found) == 1 or not single.issuperset(found)}
        return spelled | self._bytes

    def readable(self) -> set[str]:
        """Return the characters that can be read; none where every character can (bytes)."""
        if self._bytes or self.unknown is None:
            return set()
        return {character for token in self.ids for character, _, _ in self._characters(token)}

    def parts(self, token: str) -> set[str]:
        """Return the other tokens that a token needs: what the merges pass through, the same in every word."""
        symbols = [
            ("" if starts else self._prefix) + character + (self._suffix if ends else "")
            for character, starts, ends in self._characters(token)
        ]
        made: set[str] = set()
        while known := [(self._ranks[pair], n) for n, pair in enumerate(pairwise(symbols)) if pair in self._ranks]:
            _, place = min(known)
            made |= {symbols[place], symbols[place + 1]}
            symbols[place : place + 2] = [self._joined(symbols[place], symbols[place + 1])]
        return {part for part in made if part in self.ids} - {token}

    def smaller(self, kept: set[str]) -> tuple[Tokenizer, tuple[int, ...]]:
        """Return the tokenizer with fewer tokens, and their old ids in the order of the new ones.

        Tokens of the model come first and added tokens that it lacks after them, each in their old order, which is how
        ``tokenizers`` numbers them when it reads the file.

        Raises:
            ModelError: the ``tokenizers`` library numbers the tokens otherwise.
        """
        own = sorted(kept & set(self.ids), key=self.ids.__getitem__)
        behind = sorted(set(self.added) - set(self.ids), key=self.added.__getitem__)
        new = {token: index for index, token in enumerate([*own, *behind])}
        content = json.loads(self._json)
        model = content["model"]
        if isinstance(model["vocab"], dict):
            model["vocab"] = {token: new[token] for token in own}
        else:
            model["vocab"] = [entry for entry in model["vocab"] if entry[0] in new]
        if model.get("unk_id") is not None:
            model["unk_id"] = new[str(self.unknown)]
        if "merges" in model:
            model["merges"] = [pair for pair in self._ranks if {*pair, self._joined(*pair)} <= kept]
        for entry in content["added_tokens"] or ():
            entry["id"] = new[entry["content"]]
        (content["added_tokens"] or []).sort(key=lambda entry: entry["id"])
        for ids, start, tokens in _id_lists(content["post_processor"]):
            ids[start:] = [new[token] for token in tokens]
        content["padding"] = content["truncation"] = None
        return _read_back(content, new), tuple(self.all_ids[token] for token in new)

    @cached_property
    def _ranks(self) -> dict[tuple[str, str], int]:
        merges = self._model.get("merges") or ()
        pairs = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in merges)
        return {(first, second): rank for rank, (first, second) in enumerate(pairs)}

    def _joined(self, first: str, second: str) -> str:
        return first + second.removeprefix(self._prefix)

    def _characters(self, token: str) -> list[Character]:
        starts = not self._prefix or token == self._prefix or not token.startswith(self._prefix)
        text = token if starts else token[len(self._prefix) :]
        ends = bool(self._suffix) and text.endswith(self._suffix) and text != self._suffix
        text = text.removesuffix(self._suffix) if ends else text
        last = len(text) - 1
        return [(c, not self._prefix or (starts and n == 0), ends and n == last) for n, c in enumerate(text)]


def _id_lists(node: Any) -> Iterator[tuple[list[Any], int, list[str]]]:
    """Yield the lists of a post-processor that hold ids, where in them the ids start, and the tokens they are of."""
    if isinstance(node, dict):
        if "ids" in node:  # of TemplateProcessing
            yield node["ids"], 0, node["tokens"]
        for value in node.values():
            yield from _id_lists(value)
    elif isinstance(node, list):
        # ["[SEP]", 102], of BertProcessing and RobertaProcessing
        if len(node) == 2 and isinstance(node[0], str) and isinstance(node[1], int):
            yield node, 1, node[:1]
        else:
            for item in node:
                yield from _id_lists(item)


def _read_back(content: dict[str, Any], ids: dict[str, int]) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_str(json.dumps(content, ensure_ascii=False))
    # tokenizers raises plain Exception for a file that it cannot parse.
    except Exception as error:
        raise ModelError(f"the trimmed tokenizer cannot be read back ({str(error).splitlines()[0][:200]})") from error
    wrong = [token for token, index in ids.items() if tokenizer.token_to_id(token) != index]
    if wrong or tokenizer.get_vocab_size() != len(ids):
        raise ModelError(f"the trimmed tokenizer gives {len(wrong)} tokens other ids than its vocabulary; not written")
    return tokenizer
