"""A student with fewer tokens: tokenizer and embedding table cut together, and what that costs on unseen text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer

from hrkd_cli.data.dataset import Dataset
from hrkd_cli.errors import ModelError, UsageError
from hrkd_cli.onnx_export.retokenize import Description, describe, number, rebuild, special_names
from hrkd_cli.onnx_export.vocab_rules import choose_tokens

SHOWN = 10
"""Dropped tokens that are listed by name."""

_CHUNK = 1000
_TOKEN_ID = "_token_id"
# Their position ids are counted from the padding id, so that it must stay what it is.
_COUNT_FROM_PADDING = frozenset({"roberta", "camembert", "xlm-roberta", "xlm-roberta-xl", "mpnet", "longformer"})


@dataclass(frozen=True, slots=True)
class Reading:
    """How some texts are split before and after.

    Attributes:
        tokens: tokens before.
        changed: those of them that became others.
        unknown: unknown tokens before.
        unknown_after: unknown tokens after.
    """

    tokens: int
    changed: int
    unknown: int
    unknown_after: int

    def to_json(self) -> dict[str, int]:
        """Return the counts as plain values."""
        return {
            "tokens": self.tokens,
            "changed": self.changed,
            "unknown": self.unknown,
            "unknown_after": self.unknown_after,
        }


@dataclass(frozen=True, slots=True)
class TrimReport:
    """What was kept and what was dropped.

    Attributes:
        before: tokens of the vocabulary (rows of the embedding table) before.
        after: tokens after.
        special: kept because tokenizer or configuration name them.
        used: others that the train split uses and that stay.
        alphabet: others, kept so that every character stays readable.
        merged: others, kept because the merges of a used token pass through them (BPE).
        dropped: used tokens that were dropped all the same (``--vocabulary-size``).
        most_used: the dropped tokens that the data uses most, with their counts, at most ``SHOWN``.
        characters: characters that the old vocabulary reads (0 where it reads bytes).
        characters_lost: of those, the ones that became unknown.
        train: how the train texts are split.
        dev: how the dev texts, which no choice was made on, are split.
    """

    before: int
    after: int
    special: int
    used: int
    alphabet: int
    merged: int
    dropped: int
    most_used: tuple[tuple[str, int], ...]
    characters: int
    characters_lost: int
    train: Reading
    dev: Reading

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {
            "before": self.before,
            "after": self.after,
            "kept": {
                "special": self.special,
                "used": self.used,
                "for_characters": self.alphabet,
                "for_merges": self.merged,
            },
            "dropped_used": self.dropped,
            "dropped_most_used": dict(self.most_used),
            "characters": self.characters,
            "characters_lost": self.characters_lost,
            "train": self.train.to_json(),
            "dev": self.dev.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Trimmed:
    """A smaller vocabulary.

    Attributes:
        tokenizer: its tokenizer.
        rows: old ids of its tokens, in the order of the new ones.
        report: what was kept and dropped.
    """

    tokenizer: Tokenizer
    rows: tuple[int, ...]
    report: TrimReport


def plan_trim(
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
    description = describe(whole)
    ids = {**description.rules.tokens(), **description.special}
    if max(ids.values()) >= int(config["vocab_size"]):
        raise ModelError("the tokenizer has more tokens than the embedding table has rows; it is not this model's own")
    special = (special_names(description) | _named_by(config, ids)) & set(ids)
    alphabet = description.rules.alphabet()
    counts = _count(whole, _texts(dataset, "train"))
    _check_size(size, special, alphabet)
    own = dataset if domain is None else dataset.only(domain)
    first = counts if domain is None else _count(whole, _texts(own, "train"))
    kept, dropped = choose_tokens(description.rules, counts, special | alphabet, size, first=first)
    smaller, rows = _smaller(description, ids, kept, config)
    read, lost = _lost_characters(whole, smaller, description)
    used = (set(counts) & kept) - special
    report = TrimReport(
        before=int(config["vocab_size"]),
        after=len(rows),
        special=len(special),
        used=len(used),
        alphabet=len(alphabet - special - used),
        merged=len(kept - special - used - alphabet),
        dropped=len(dropped),
        most_used=tuple((token, counts[token]) for token in dropped[:SHOWN]),
        characters=read,
        characters_lost=lost,
        train=_compare(whole, smaller, _texts(dataset, "train"), description),
        dev=_compare(whole, smaller, _texts(own, "dev"), description),
    )
    if size is None and report.train.changed:
        raise ModelError(
            f"the trimmed tokenizer splits {report.train.changed} train tokens otherwise, so it is not written; please "
            "report the tokenizer"
        )
    return Trimmed(smaller, rows, report)


def _check_size(size: int | None, special: set[str], alphabet: set[str]) -> None:
    least = len(special | alphabet)
    if size is not None and size < least:
        raise UsageError(
            f"--vocabulary-size {size}: {least} tokens have to stay ({len(special)} special ones and those that keep "
            "every character readable); give at least that many"
        )


def _smaller(
    description: Description, ids: Mapping[str, int], kept: set[str], config: Mapping[str, Any]
) -> tuple[Tokenizer, tuple[int, ...]]:
    """Return the smaller tokenizer, and the old ids in the order of the new ones."""
    pad = config.get("pad_token_id")
    numbers = number(description, kept, pinned=pad)
    rows = tuple(ids[token] for token in sorted(numbers, key=lambda token: numbers[token]))
    if config.get("model_type") in _COUNT_FROM_PADDING and pad is not None and rows[pad : pad + 1] != (pad,):
        raise ModelError(
            f"a {config['model_type']} model counts positions from its padding id {pad}, which {len(rows)} tokens "
            "cannot keep; it cannot be trimmed that far"
        )
    return rebuild(description, numbers), rows


def apply_trim(model: Any, rows: Sequence[int]) -> None:
    """Cut a classifier's embedding table to the kept rows and number the ids in its configuration anew, in place.

    Args:
        model: a transformers sequence classifier.
        rows: old ids, in the order of the new ones.
    """
    old = model.get_input_embeddings()
    with torch.no_grad():
        weight = old.weight[torch.tensor(rows, device=old.weight.device)].clone()
    renumbered = {old_id: new_id for new_id, old_id in enumerate(rows)}
    config = model.config
    for name, value in config.to_dict().items():
        if name.endswith(_TOKEN_ID) and isinstance(value, int):
            setattr(config, name, renumbered.get(value))
        elif name.endswith(_TOKEN_ID) and isinstance(value, list):
            setattr(config, name, [renumbered[v] for v in value if v in renumbered])
    config.vocab_size = len(rows)
    new = torch.nn.Embedding(len(rows), weight.shape[1], padding_idx=config.pad_token_id)
    new.weight = torch.nn.Parameter(weight, requires_grad=old.weight.requires_grad)
    model.set_input_embeddings(new)


def _named_by(config: Mapping[str, Any], ids: Mapping[str, int]) -> set[str]:
    """Return the tokens that a configuration names by id (``pad_token_id`` and its like)."""
    named: set[int] = set()
    for name, value in config.items():
        if name.endswith(_TOKEN_ID):
            named |= {v for v in (value if isinstance(value, list) else [value]) if isinstance(v, int)}
    return {token for token, index in ids.items() if index in named}


def _texts(dataset: Dataset, split: str) -> Iterator[str]:
    for domain in dataset.domains:
        rows = dataset.split(domain, split)
        yield from rows.texts
        yield from rows.pairs or ()


def _chunks(texts: Iterator[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    for text in texts:
        chunk.append(text)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _count(tokenizer: Tokenizer, texts: Iterator[str]) -> Counter[str]:
    ids: Counter[int] = Counter()
    for chunk in _chunks(texts):
        for encoding in tokenizer.encode_batch(chunk, add_special_tokens=False):
            # By id: an unknown piece goes by its own text in some tokenizers.
            ids.update(encoding.ids)
    return Counter({str(tokenizer.id_to_token(index)): n for index, n in ids.items()})


def _unknown(description: Description) -> str | None:
    """Return the unknown token of a tokenizer; None where it has none."""
    model = description.content["model"]
    if isinstance(model.get("unk_token"), str):
        return str(model["unk_token"])
    return None if model.get("unk_id") is None else str(model["vocab"][model["unk_id"]][0])


def _compare(before: Tokenizer, after: Tokenizer, texts: Iterator[str], description: Description) -> Reading:
    """Count the tokens that became others: same text, but not the same token at the same place."""
    tokens = changed = unknown = unknown_after = 0
    unknown_id, new_id = (t.token_to_id(name) if (name := _unknown(description)) else None for t in (before, after))
    for chunk in _chunks(texts):
        pairs = zip(*(t.encode_batch(chunk, add_special_tokens=False) for t in (before, after)), strict=True)
        for old, new in pairs:
            tokens += len(old.ids)
            unknown += old.ids.count(unknown_id)
            unknown_after += new.ids.count(new_id)
            if old.tokens != new.tokens:
                there = set(zip(new.offsets, new.tokens, strict=True))
                changed += sum(place not in there for place in zip(old.offsets, old.tokens, strict=True))
    return Reading(tokens, changed, unknown, unknown_after)


def _lost_characters(before: Tokenizer, after: Tokenizer, description: Description) -> tuple[int, int]:
    """Count the characters that the old tokenizer reads, and those of them that the new one does not.

    Each is tried alone and inside a word, since vocabularies list the two apart.
    """
    name = _unknown(description)
    characters = sorted(description.rules.characters())
    if name is None or not characters:
        return len(characters), 0
    probes = [probe for c in characters for probe in (c, f"a{c}a")]
    old, new = (t.encode_batch(probes, add_special_tokens=False) for t in (before, after))
    unknown, unknown_after = before.token_to_id(name), after.token_to_id(name)
    read = [unknown not in encoding.ids for encoding in old]
    lost = [known and unknown_after in encoding.ids for known, encoding in zip(read, new, strict=True)]
    of_each = range(0, len(probes), 2)
    return sum(read[n] or read[n + 1] for n in of_each), sum(lost[n] or lost[n + 1] for n in of_each)
