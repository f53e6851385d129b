"""Fewer tokens: tokenizer and embedding table cut together, and what that costs on unseen text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer

from hrkd_cli.data.dataset import Dataset
from hrkd_cli.errors import ModelError, UsageError
from hrkd_cli.onnx_export.vocabulary import Vocabulary

SHOWN = 10
"""Dropped tokens that are listed by name."""

_CHUNK = 1000
_TOKEN_ID = "_token_id"
# Their position ids are counted from the padding id, so that it must stay what it is.
_COUNT_FROM_PADDING = frozenset({"roberta", "camembert", "xlm-roberta", "xlm-roberta-xl", "mpnet", "longformer"})


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


@dataclass(frozen=True, slots=True)
class Trimmed:
    """A smaller vocabulary; ``rows`` are the old ids of its tokens, in the order of the new ones."""

    tokenizer: Tokenizer
    rows: tuple[int, ...]
    report: TrimReport


def trim_tokenizer(
    tokenizer: Tokenizer, config: Mapping[str, Any], dataset: Dataset, size: int | None, *, domain: str | None = None
) -> Trimmed:
    """Choose the tokens that stay and make their tokenizer.

    Kept are the tokens that tokenizer and configuration name, those that keep every character readable, and those that
    the train texts use (whole, however long): the ``size`` most used, the others included in the count.

    Args:
        tokenizer: the student's; not changed.
        config: its ``config.json``.
        dataset: rows of train and dev.
        size: most tokens to keep; None for all that are used.
        domain: the only one that will be read. Its own tokens are the last to go, and dev is its own; the other
            domains' words stay where there is room, since it will meet some of them.

    Raises:
        ModelError: a tokenizer that cannot be trimmed, or one that does not fit the embedding table.
        UsageError: ``size`` is less than what has to stay.
    """
    whole = Tokenizer.from_str(tokenizer.to_str())
    whole.no_truncation()
    whole.no_padding()
    vocabulary = Vocabulary(whole)
    ids = vocabulary.all_ids
    if max(ids.values()) >= int(config["vocab_size"]):
        raise ModelError("the tokenizer has more tokens than the embedding table has rows; it is not this model's own")
    special = (vocabulary.special() | _named_by(config, ids)) & set(ids)
    alphabet = vocabulary.alphabet()
    least = len(special | alphabet)
    if size is not None and size < least:
        raise UsageError(
            f"--vocabulary-size {size}: {least} tokens have to stay ({len(special)} special ones and those that keep "
            "every character readable); give at least that many"
        )
    counts = _count(whole, _texts(dataset, "train"))
    own = dataset if domain is None else dataset.only(domain)
    first = counts if domain is None else _count(whole, _texts(own, "train"))
    kept, dropped = choose_tokens(vocabulary, counts, special | alphabet, size, first=first)
    smaller, rows = vocabulary.smaller(kept)
    _check_padding(config, rows)
    read, lost = _lost_characters(whole, smaller, vocabulary)
    used = (set(counts) & kept) - special
    train = _compare(whole, smaller, _texts(dataset, "train"), vocabulary.unknown)
    if size is None and train.changed:
        raise ModelError(
            f"the trimmed tokenizer splits {train.changed} train tokens otherwise, so it is not written; please "
            "report the tokenizer"
        )
    report = TrimReport(
        before=int(config["vocab_size"]),
        after=len(rows),
        kept={
            "special": len(special),
            "used": len(used),
            "for_characters": len(alphabet - special - used),
            "for_merges": len(kept - special - used - alphabet),
        },
        dropped_used=len(dropped),
        dropped_most_used={token: counts[token] for token in dropped[:SHOWN]},
        characters=read,
        characters_lost=lost,
        train=train,
        dev=_compare(whole, smaller, _texts(own, "dev"), vocabulary.unknown),
    )
    return Trimmed(smaller, rows, report)


def _check_padding(config: Mapping[str, Any], rows: Sequence[int]) -> None:
    pad = config.get("pad_token_id")
    if config.get("model_type") in _COUNT_FROM_PADDING and pad is not None and tuple(rows[pad : pad + 1]) != (pad,):
        raise ModelError(
            f"a {config['model_type']} model counts positions from its padding id {pad}, which the trimmed vocabulary "
            "would change; it cannot be trimmed"
        )


def choose_tokens(
    vocabulary: Vocabulary,
    counts: Mapping[str, int],
    mandatory: set[str],
    size: int | None,
    *,
    first: Mapping[str, int],
) -> tuple[set[str], Sequence[str]]:
    """Return the tokens that stay, and the used ones that do not, most used first.

    Args:
        vocabulary: all tokens.
        counts: how often the data uses each token.
        mandatory: tokens that stay whatever the data uses.
        size: most tokens to keep, the mandatory ones included; None for all that the data uses.
        first: the same counts of a baked head's own domain, whose tokens come first.
    """
    kept = set(mandatory)
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
