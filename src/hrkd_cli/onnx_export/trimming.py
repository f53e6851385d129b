"""Fewer tokens: tokenizer and embedding table cut together, and what that costs on unseen text.

WordPiece takes the longest token that fits, Unigram the most probable way to cover a word, BPE applies merges in order.
In each of them a text whose tokens all stay is still split as before, as long as a BPE token brings along the tokens
that its merges pass through.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from tokenizers import Tokenizer

from hrkd_cli.data.dataset import Dataset
from hrkd_cli.errors import ModelError, UsageError
from hrkd_cli.predict.model_spec import OFFSET_POSITION_TYPES

KINDS = ("WordPiece", "BPE", "Unigram")
SHOWN = 10
"""Dropped tokens that are listed by name."""

_CHUNK = 1000
_TOKEN_ID = "_token_id"

Character = tuple[str, bool, bool]
"""A character, whether the tokenizer marks it as the start of a word, and whether as the end of one."""


@dataclass(frozen=True, slots=True)
class TokenizationDiff:
    """How some texts are split: tokens before, how many became others, and unknown tokens before and after."""

    tokens: int
    changed: int
    unknown: int
    unknown_after: int


@dataclass(frozen=True, slots=True)
class TrimReport:
    """What was kept and what was dropped.

    Attributes:
        before, after: tokens of the vocabulary (rows of the embedding table).
        kept: tokens by reason: ``special`` (tokenizer or configuration name them), ``used`` (by the train split),
            ``for_characters`` (so that every character stays readable), ``for_merges`` (a used token's merges pass
            through them); together ``after``.
        dropped_used: used tokens that were dropped all the same (``--vocabulary-size``).
        dropped_most_used: those of them that the data uses most, with their counts, at most ``SHOWN``.
        characters, characters_lost: what the old vocabulary reads (0 where it reads bytes), and what became unknown.
        train, dev: how their texts are split; no choice was made on dev.
        accuracy_drop: points of average dev accuracy that trimming cost.
    """

    before: int
    after: int
    kept: dict[str, int]
    dropped_used: int
    dropped_most_used: dict[str, int]
    characters: int
    characters_lost: int
    train: TokenizationDiff
    dev: TokenizationDiff
    accuracy_drop: float = 0.0


class Vocabulary:
    """The tokens of a tokenizer.

    Attributes:
        ids: ids of the model's tokens; added tokens may be missing.
        all_ids: ids of these and of the added tokens (special ones and others).
        unknown: the unknown token; None where there is none.
        special: tokens that always stay.

    Raises:
        ModelError: a model whose words would become unknown (WordLevel), or that is not known.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._json = tokenizer.to_str()
        content = json.loads(self._json)
        self._model: dict[str, Any] = content["model"]
        kind = self._model.get("type")
        if kind not in KINDS:
            raise ModelError(
                f"a {kind} tokenizer cannot be trimmed: words that are dropped would become unknown, since it does not "
                f"split them into characters; only {', '.join(KINDS)} tokenizers can"
            )
        self.ids = tokenizer.get_vocab(with_added_tokens=False)
        self.all_ids = tokenizer.get_vocab()
        unknown = self._model.get("unk_id")
        self.unknown: str | None = self._model.get("unk_token") if unknown is None else tokenizer.id_to_token(unknown)
        # Those that the tokenizer names: added ones, the unknown one, those it puts around a text.
        self._added = {str(entry["content"]) for entry in content["added_tokens"]}
        around = {token for _, _, tokens in _id_lists(content["post_processor"]) for token in tokens}
        self.special = set(self.all_ids) & {*self._added, *around, self.unknown}
        self._prefix = str(self._model.get("continuing_subword_prefix") or ("##" if kind == "WordPiece" else ""))
        self._suffix = str(self._model.get("end_of_word_suffix") or "")
        bytes_ = {f"<0x{n:02X}>" for n in range(256)} if self._model.get("byte_fallback") else set()
        self._bytes = bytes_ & set(self.ids)

    @cached_property
    def alphabet(self) -> set[str]:
        """The tokens without which some character could no longer be read.

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
        behind = sorted(self._added - set(self.ids), key=self.all_ids.__getitem__)
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
        for entry in content["added_tokens"]:
            entry["id"] = new[entry["content"]]
        content["added_tokens"].sort(key=lambda entry: entry["id"])
        for ids, start, tokens in _id_lists(content["post_processor"]):
            ids[start:] = [new[token] for token in tokens]
        content["padding"] = content["truncation"] = None
        return _read_back(content, new), tuple(self.all_ids[token] for token in new)

    @cached_property
    def _ranks(self) -> dict[tuple[str, str], int]:
        return {(first, second): rank for rank, (first, second) in enumerate(self._model.get("merges") or ())}

    def _joined(self, first: str, second: str) -> str:
        return first + second.removeprefix(self._prefix)

    def _characters(self, token: str) -> list[Character]:
        starts = not self._prefix or token == self._prefix or not token.startswith(self._prefix)
        text = token if starts else token[len(self._prefix) :]
        ends = bool(self._suffix) and text.endswith(self._suffix) and text != self._suffix
        text = text.removesuffix(self._suffix) if ends else text
        last = len(text) - 1
        return [(c, not self._prefix or (starts and n == 0), ends and n == last) for n, c in enumerate(text)]


def trim_tokenizer(
    tokenizer: Tokenizer, config: Mapping[str, Any], dataset: Dataset, size: int | None, *, domain: str | None = None
) -> tuple[Tokenizer, tuple[int, ...], TrimReport]:
    """Choose the tokens that stay; return their tokenizer, their old ids in the order of the new ones, and a report.

    Kept are the tokens that tokenizer and configuration name, those that keep every character readable, and those that
    the train texts use (whole, however long): the ``size`` most used, the others included in the count.

    Args:
        tokenizer: the student's; its truncation and padding are switched off.
        config: its ``config.json``.
        dataset: rows of train and dev.
        size: most tokens to keep; None for all that are used.
        domain: the only one that will be read. Its own tokens are the last to go, and dev is its own; the other
            domains' words stay where there is room, since it will meet some of them.

    Raises:
        ModelError: a tokenizer that cannot be trimmed, or one that does not fit the embedding table.
        UsageError: ``size`` is less than what has to stay.
    """
    tokenizer.no_truncation()
    tokenizer.no_padding()
    vocabulary = Vocabulary(tokenizer)
    if max(vocabulary.all_ids.values()) >= int(config["vocab_size"]):
        raise ModelError("the tokenizer has more tokens than the embedding table has rows; it is not this model's own")
    special = vocabulary.special | _named_by(config, vocabulary.all_ids)
    own = dataset.select_domains(domain) if domain is not None else dataset
    counts = _count(tokenizer, _texts(dataset, "train"))
    first = counts if domain is None else _count(tokenizer, _texts(own, "train"))
    kept, dropped = choose_tokens(vocabulary, counts, special, size, first=first)
    smaller, rows = vocabulary.smaller(kept)
    _check_padding(config, rows)
    read, lost = _lost_characters(tokenizer, smaller, vocabulary)
    used = (set(counts) & kept) - special
    report = TrimReport(
        before=int(config["vocab_size"]),
        after=len(rows),
        kept={
            "special": len(special),
            "used": len(used),
            "for_characters": len(vocabulary.alphabet - special - used),
            "for_merges": len(kept - special - used - vocabulary.alphabet),
        },
        dropped_used=len(dropped),
        dropped_most_used={token: counts[token] for token in dropped[:SHOWN]},
        characters=read,
        characters_lost=lost,
        train=_compare(tokenizer, smaller, _texts(dataset, "train"), vocabulary.unknown),
        dev=_compare(tokenizer, smaller, _texts(own, "dev"), vocabulary.unknown),
    )
    if size is None and report.train.changed:
        raise ModelError(
            f"the trimmed tokenizer splits {report.train.changed} train tokens otherwise, so it is not written; please "
            "report the tokenizer"
        )
    return smaller, rows, report


def _check_padding(config: Mapping[str, Any], rows: Sequence[int]) -> None:
    pad = config.get("pad_token_id")
    if config.get("model_type") in OFFSET_POSITION_TYPES and pad is not None and tuple(rows[pad : pad + 1]) != (pad,):
        raise ModelError(
            f"a {config['model_type']} model counts positions from its padding id {pad}, which the trimmed vocabulary "
            "would change; it cannot be trimmed"
        )


def choose_tokens(
    vocabulary: Vocabulary, counts: Mapping[str, int], special: set[str], size: int | None, *, first: Mapping[str, int]
) -> tuple[set[str], Sequence[str]]:
    """Return the tokens that stay, and the used ones that do not, most used first.

    ``counts`` is how often the data uses each token, ``first`` how often a baked head's own domain does, whose tokens
    come first. Special tokens and those that keep every character readable stay whatever the data uses; ``size`` (None
    for no limit) includes them.
    """
    kept = special | vocabulary.alphabet
    if size is not None and size < len(kept):
        raise UsageError(
            f"--vocabulary-size {size}: {len(kept)} tokens have to stay ({len(special)} special ones and those that "
            "keep every character readable); give at least that many"
        )
    dropped = []
    used = [token for token, n in counts.items() if n and token in vocabulary.ids]
    used.sort(key=lambda token: (-first.get(token, 0), -counts[token], vocabulary.ids[token]))
    for token in used:
        if token in kept:
            continue
        needed = {token, *vocabulary.parts(token)} - kept
        if size is None or len(kept) + len(needed) <= size:
            kept |= needed
        else:
            dropped.append(token)
    return kept, [token for token in dropped if token not in kept]


def trim_embeddings(model: Any, rows: Sequence[int]) -> None:
    """Cut a classifier's embedding table to the kept rows (old ids in the order of the new ones), in place.

    The ids in its configuration get their new values.
    """
    new_ids = {old_id: new_id for new_id, old_id in enumerate(rows)}
    config = model.config
    for name, value in config.to_dict().items():
        if name.endswith(_TOKEN_ID) and isinstance(value, int):
            setattr(config, name, new_ids.get(value))
        elif name.endswith(_TOKEN_ID) and isinstance(value, list):
            setattr(config, name, [new_ids[v] for v in value if v in new_ids])
    table = model.get_input_embeddings()
    table.weight = torch.nn.Parameter(table.weight.detach()[list(rows)])
    table.num_embeddings = config.vocab_size = len(rows)
    table.padding_idx = config.pad_token_id


def _named_by(config: Mapping[str, Any], ids: Mapping[str, int]) -> set[str]:
    """Return the tokens that a configuration names by id (``pad_token_id`` and its like)."""
    values = [value for name, value in config.items() if name.endswith(_TOKEN_ID)]
    named = {v for value in values for v in (value if isinstance(value, list) else [value]) if isinstance(v, int)}
    return {token for token, index in ids.items() if index in named}


def _texts(dataset: Dataset, split: str) -> Iterator[list[str]]:
    """Yield all texts of a split, some at a time."""
    for domain in dataset.domains:
        rows = dataset.split(domain, split)
        texts = [*rows.texts, *(rows.pairs or ())]
        for start in range(0, len(texts), _CHUNK):
            yield texts[start : start + _CHUNK]


def _count(tokenizer: Tokenizer, texts: Iterable[list[str]]) -> Counter[str]:
    ids: Counter[int] = Counter()
    for chunk in texts:
        for encoding in tokenizer.encode_batch(chunk, add_special_tokens=False):
            # By id: an unknown piece goes by its own text in some tokenizers.
            ids.update(encoding.ids)
    return Counter({str(tokenizer.id_to_token(index)): n for index, n in ids.items()})


def _compare(before: Tokenizer, after: Tokenizer, texts: Iterable[list[str]], unknown: str | None) -> TokenizationDiff:
    """Count the tokens that became others: same text, but not the same token at the same place."""
    tokens = changed = lost = lost_after = 0
    unknown_id, unknown_id_after = (t.token_to_id(unknown) if unknown is not None else None for t in (before, after))
    for chunk in texts:
        pairs = zip(*(t.encode_batch(chunk, add_special_tokens=False) for t in (before, after)), strict=True)
        for old, new in pairs:
            tokens += len(old.ids)
            lost += old.ids.count(unknown_id)
            lost_after += new.ids.count(unknown_id_after)
            if old.tokens != new.tokens:
                there = set(zip(new.offsets, new.tokens, strict=True))
                changed += sum(place not in there for place in zip(old.offsets, old.tokens, strict=True))
    return TokenizationDiff(tokens, changed, lost, lost_after)


def _lost_characters(before: Tokenizer, after: Tokenizer, vocabulary: Vocabulary) -> tuple[int, int]:
    """Count the characters that the old tokenizer reads, and those of them that the new one does not.

    Each is tried alone and inside a word, since vocabularies list the two apart.
    """
    read, lost = set(), set()
    unknown, unknown_after = (t.token_to_id(str(vocabulary.unknown)) for t in (before, after))
    for character in vocabulary.readable():
        for text in (character, f"a{character}a"):
            old, new = (t.encode(text, add_special_tokens=False).ids for t in (before, after))
            if unknown not in old:
                read.add(character)
                if unknown_after in new:
                    lost.add(character)
    return len(read), len(lost)


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
