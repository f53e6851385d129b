"""Vocabulary trimming: drops tokens from the tokenizer and the embedding table, and reports the effect.

WordPiece takes the longest token that fits, Unigram the most probable segmentation, and BPE applies merges in order. In
all three, a text is tokenized as before if all of its tokens are kept and, for BPE, the intermediate tokens of their
merges too.
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

TOKENIZER_TYPES = ("WordPiece", "BPE", "Unigram")
MAX_LISTED = 10  # number of dropped tokens that the report lists by name

_CHUNK = 1000
_TOKEN_ID = "_token_id"


@dataclass(frozen=True, slots=True)
class TokenizationDiff:
    """How many tokens some texts have, how many of them changed, and unknown tokens before and after trimming."""

    tokens: int
    changed: int
    unknown: int
    unknown_after: int


@dataclass(frozen=True, slots=True)
class TrimReport:
    """Tokens kept and dropped, and the effect on the data.

    Attributes:
        before, after: size of the vocabulary (rows of the embedding table).
        kept: number of tokens by reason: ``special`` (named by tokenizer or configuration), ``used`` (in the train
            split), ``for_characters`` (keep every character readable), ``for_merges`` (intermediate tokens of used
            tokens); they add up to ``after``.
        dropped_used: used tokens that did not fit into ``--vocabulary-size``.
        dropped_most_used: the most used of them with their counts, at most ``MAX_LISTED``.
        train, dev: changes in the tokenization of a split; dev had no influence on the choice.
        accuracy_drop: points of average dev accuracy lost.
    """

    before: int
    after: int
    kept: dict[str, int]
    dropped_used: int
    dropped_most_used: dict[str, int]
    train: TokenizationDiff
    dev: TokenizationDiff
    accuracy_drop: float = 0.0


class Vocabulary:
    """The tokens of a tokenizer.

    Attributes:
        ids: ids of the model's tokens; may lack added tokens.
        all_ids: ids of the model's and the added tokens (special ones and others).
        unknown: the unknown token; None if there is none.
        special: tokens that are always kept.

    Raises:
        ModelError: a WordLevel tokenizer, whose dropped words would become unknown, or an unsupported type.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._json = tokenizer.to_str()
        content = json.loads(self._json)
        self._model: dict[str, Any] = content["model"]
        tokenizer_type = self._model.get("type")
        if tokenizer_type not in TOKENIZER_TYPES:
            raise ModelError(
                f"a {tokenizer_type} tokenizer cannot be trimmed: words that are dropped would become unknown, since "
                f"it does not split them into characters; only {', '.join(TOKENIZER_TYPES)} tokenizers can"
            )
        self.ids = tokenizer.get_vocab(with_added_tokens=False)
        self.all_ids = tokenizer.get_vocab()
        unk_id = self._model.get("unk_id")
        self.unknown: str | None = self._model.get("unk_token") if unk_id is None else tokenizer.id_to_token(unk_id)
        # Tokens that the tokenizer names: added tokens, the unknown token, and those of the post-processor.
        self._added = {str(entry["content"]) for entry in content["added_tokens"]}
        post_processor = {token for _, _, tokens in _id_lists(content["post_processor"]) for token in tokens}
        self.special = set(self.all_ids) & {*self._added, *post_processor, self.unknown}
        default_prefix = "##" if tokenizer_type == "WordPiece" else ""
        self._prefix = str(self._model.get("continuing_subword_prefix") or default_prefix)
        self._suffix = str(self._model.get("end_of_word_suffix") or "")
        byte_tokens = {f"<0x{n:02X}>" for n in range(256)} if self._model.get("byte_fallback") else set()
        self._byte_tokens = byte_tokens & set(self.ids)

    @cached_property
    def character_tokens(self) -> set[str]:
        """The tokens that keep every character readable.

        These are single characters at each position in a word, all tokens with a character that has no token of its
        own, and byte tokens.
        """
        characters = {token: self._characters(token) for token in self.ids}
        needed = {token for token, own in characters.items() if len(own) == 1 or not self.ids.keys() >= {*own}}
        return needed | self._byte_tokens

    def intermediate_tokens(self, token: str) -> set[str]:
        """Return the other tokens that BPE's merges pass through on the way to a token; empty without merges."""
        symbols = self._characters(token)
        merged: set[str] = set()
        while ranks := [(self._ranks[pair], n) for n, pair in enumerate(pairwise(symbols)) if pair in self._ranks]:
            _, n = min(ranks)
            merged |= {symbols[n], symbols[n + 1]}
            symbols[n : n + 2] = [self._merge(symbols[n], symbols[n + 1])]
        return {symbol for symbol in merged if symbol in self.ids} - {token}

    def subset(self, kept: set[str]) -> tuple[Tokenizer, tuple[int, ...]]:
        """Return a tokenizer with some of the tokens, and their old ids in the order of the new ones.

        Model tokens come first, then added tokens that are not in the model, each in the old order. The ``tokenizers``
        library numbers them like this when it reads the file.

        Raises:
            ModelError: the library numbers the tokens differently.
        """
        model_tokens = sorted(kept & set(self.ids), key=self.ids.__getitem__)
        added_tokens = sorted(self._added - set(self.ids), key=self.all_ids.__getitem__)
        new_ids = {token: index for index, token in enumerate([*model_tokens, *added_tokens])}
        content = json.loads(self._json)
        model = content["model"]
        if isinstance(model["vocab"], dict):
            model["vocab"] = {token: new_ids[token] for token in model_tokens}
        else:
            model["vocab"] = [entry for entry in model["vocab"] if entry[0] in new_ids]
        if model.get("unk_id") is not None:
            model["unk_id"] = new_ids[str(self.unknown)]
        if "merges" in model:
            model["merges"] = [pair for pair in self._ranks if {*pair, self._merge(*pair)} <= kept]
        for entry in content["added_tokens"]:
            entry["id"] = new_ids[entry["content"]]
        content["added_tokens"].sort(key=lambda entry: entry["id"])
        for ids, start, tokens in _id_lists(content["post_processor"]):
            ids[start:] = [new_ids[token] for token in tokens]
        content["padding"] = content["truncation"] = None
        return _build_tokenizer(content, new_ids), tuple(self.all_ids[token] for token in new_ids)

    @cached_property
    def _ranks(self) -> dict[tuple[str, str], int]:
        return {(first, second): rank for rank, (first, second) in enumerate(self._model.get("merges") or ())}

    def _merge(self, first: str, second: str) -> str:
        return first + second.removeprefix(self._prefix)

    def _characters(self, token: str) -> list[str]:
        """Return the characters of a token, each written like a token: with the marks of its place in the word."""
        starts_word = not self._prefix or token == self._prefix or not token.startswith(self._prefix)
        text = token if starts_word else token[len(self._prefix) :]
        ends_word = bool(self._suffix) and text.endswith(self._suffix) and text != self._suffix
        text = text.removesuffix(self._suffix) if ends_word else text
        characters = [c if n == 0 and starts_word else self._prefix + c for n, c in enumerate(text)]
        return [*characters[:-1], characters[-1] + self._suffix] if ends_word else characters


def trim_tokenizer(
    tokenizer: Tokenizer, config: Mapping[str, Any], dataset: Dataset, size: int | None, *, domain: str | None = None
) -> tuple[Tokenizer, tuple[int, ...], TrimReport]:
    """Trim a tokenizer to the tokens of the train split; return it, the old ids in the new order, and a report.

    The trimmed vocabulary has the tokens that tokenizer and configuration name, those that keep every character
    readable, and those of the train texts, which are read in full.

    Args:
        tokenizer: the student's; its truncation and padding are turned off.
        config: the student's ``config.json``.
        dataset: data with train and dev splits.
        size: maximum number of tokens, the most used ones; None to keep all that are used.
        domain: the domain of a single-domain export. Its tokens take precedence, and ``dev`` of the report covers only
            its rows. Tokens of the other domains fill the rest, because some of them will occur in its texts.

    Raises:
        ModelError: the tokenizer cannot be trimmed.
        UsageError: ``size`` is less than the number of tokens that must be kept.
    """
    tokenizer.no_truncation()
    tokenizer.no_padding()
    vocabulary = Vocabulary(tokenizer)
    special = vocabulary.special | _config_tokens(config, vocabulary.all_ids)
    domain_data = dataset.select_domains(domain) if domain is not None else dataset
    counts = _count_tokens(tokenizer, _text_chunks(dataset, "train"))
    domain_counts = counts if domain is None else _count_tokens(tokenizer, _text_chunks(domain_data, "train"))
    kept, dropped = select_tokens(vocabulary, counts, special, size, domain_counts=domain_counts)
    trimmed, old_ids = vocabulary.subset(kept)
    _check_padding(config, old_ids)
    used = (set(counts) & kept) - special
    report = TrimReport(
        before=int(config["vocab_size"]),
        after=len(old_ids),
        kept={
            "special": len(special),
            "used": len(used),
            "for_characters": len(vocabulary.character_tokens - special - used),
            "for_merges": len(kept - special - used - vocabulary.character_tokens),
        },
        dropped_used=len(dropped),
        dropped_most_used={token: counts[token] for token in dropped[:MAX_LISTED]},
        train=_compare(tokenizer, trimmed, _text_chunks(dataset, "train"), vocabulary.unknown),
        dev=_compare(tokenizer, trimmed, _text_chunks(domain_data, "dev"), vocabulary.unknown),
    )
    if size is None and report.train.changed:
        raise ModelError(
            f"the trimmed tokenizer changes {report.train.changed} train tokens, so nothing was written; please "
            "report the tokenizer"
        )
    return trimmed, old_ids, report


def _check_padding(config: Mapping[str, Any], old_ids: Sequence[int]) -> None:
    pad = config.get("pad_token_id")
    counts_from_padding = config.get("model_type") in OFFSET_POSITION_TYPES
    if counts_from_padding and pad is not None and tuple(old_ids[pad : pad + 1]) != (pad,):
        raise ModelError(
            f"this {config['model_type']} model counts positions from its padding id {pad}, which trimming would "
            "change; it cannot be trimmed"
        )


def select_tokens(
    vocabulary: Vocabulary,
    counts: Mapping[str, int],
    special: set[str],
    size: int | None,
    *,
    domain_counts: Mapping[str, int],
) -> tuple[set[str], Sequence[str]]:
    """Return the tokens to keep, and the used tokens that are dropped, most used first.

    ``counts`` is how often the train split uses each token. ``domain_counts`` is the same for the rows of a
    single-domain export, whose tokens come first. Special tokens and those that keep every character readable are
    always kept and count toward ``size`` (None for no limit).
    """
    kept = special | vocabulary.character_tokens
    if size is not None and size < len(kept):
        raise UsageError(
            f"--vocabulary-size {size}: {len(kept)} tokens must be kept ({len(special)} special ones and those that "
            "keep every character readable); give at least that many"
        )
    dropped = []
    used = [token for token, count in counts.items() if count and token in vocabulary.ids]
    used.sort(key=lambda token: (-domain_counts.get(token, 0), -counts[token], vocabulary.ids[token]))
    for token in used:
        if token in kept:
            continue
        needed = {token, *vocabulary.intermediate_tokens(token)} - kept
        if size is None or len(kept) + len(needed) <= size:
            kept |= needed
        else:
            dropped.append(token)
    return kept, [token for token in dropped if token not in kept]


def trim_embeddings(model: Any, old_ids: Sequence[int]) -> None:
    """Reduce a classifier's embedding table to some rows (old ids in the new order), in place.

    Token ids in the model's configuration change accordingly.
    """
    new_ids = {old_id: new_id for new_id, old_id in enumerate(old_ids)}
    config = model.config
    for name, value in config.to_dict().items():
        if name.endswith(_TOKEN_ID) and isinstance(value, int):
            setattr(config, name, new_ids.get(value))
        elif name.endswith(_TOKEN_ID) and isinstance(value, list):
            setattr(config, name, [new_ids[v] for v in value if v in new_ids])
    embeddings = model.get_input_embeddings()
    embeddings.weight = torch.nn.Parameter(embeddings.weight.detach()[list(old_ids)])
    embeddings.num_embeddings = config.vocab_size = len(old_ids)
    embeddings.padding_idx = config.pad_token_id


def _config_tokens(config: Mapping[str, Any], ids: Mapping[str, int]) -> set[str]:
    """Return the tokens that a configuration names by id, such as ``pad_token_id``."""
    named: set[int] = set()
    for name, value in config.items():
        if name.endswith(_TOKEN_ID):
            named.update(v for v in (value if isinstance(value, list) else [value]) if isinstance(v, int))
    return {token for token, index in ids.items() if index in named}


def _text_chunks(dataset: Dataset, split: str) -> Iterator[list[str]]:
    """Yield all texts of a split in chunks."""
    for domain in dataset.domains:
        rows = dataset.split(domain, split)
        texts = [*rows.texts, *(rows.pairs or ())]
        for start in range(0, len(texts), _CHUNK):
            yield texts[start : start + _CHUNK]


def _count_tokens(tokenizer: Tokenizer, chunks: Iterable[list[str]]) -> Counter[str]:
    ids: Counter[int] = Counter()
    for chunk in chunks:
        for encoding in tokenizer.encode_batch(chunk, add_special_tokens=False):
            # By id, because some tokenizers give the text of an unknown token as its name.
            ids.update(encoding.ids)
    return Counter({str(tokenizer.id_to_token(index)): count for index, count in ids.items()})


def _compare(before: Tokenizer, after: Tokenizer, chunks: Iterable[list[str]], unknown: str | None) -> TokenizationDiff:
    """Compare two tokenizers; a token has changed if the same token is not at the same position in the text."""
    total = changed = unknown_before = unknown_after = 0
    old_unk, new_unk = (t.token_to_id(unknown) if unknown is not None else None for t in (before, after))
    for chunk in chunks:
        encodings = (t.encode_batch(chunk, add_special_tokens=False) for t in (before, after))
        for old, new in zip(*encodings, strict=True):
            total += len(old.ids)
            unknown_before += old.ids.count(old_unk)
            unknown_after += new.ids.count(new_unk)
            if old.tokens != new.tokens:
                new_positions = set(zip(new.offsets, new.tokens, strict=True))
                old_positions = zip(old.offsets, old.tokens, strict=True)
                changed += sum(position not in new_positions for position in old_positions)
    return TokenizationDiff(total, changed, unknown_before, unknown_after)


def _id_lists(node: Any) -> Iterator[tuple[list[Any], int, list[str]]]:
    """Yield each list of a post-processor that holds token ids, the index of its first id, and the tokens."""
    if isinstance(node, dict):
        if "ids" in node:  # TemplateProcessing
            yield node["ids"], 0, node["tokens"]
        for value in node.values():
            yield from _id_lists(value)
    elif isinstance(node, list):
        # ["[SEP]", 102] in BertProcessing and RobertaProcessing
        if len(node) == 2 and isinstance(node[0], str) and isinstance(node[1], int):
            yield node, 1, node[:1]
        else:
            for item in node:
                yield from _id_lists(item)


def _build_tokenizer(content: dict[str, Any], ids: dict[str, int]) -> Tokenizer:
    """Build a tokenizer from the content of its file; ModelError if it does not give the expected ids."""
    try:
        tokenizer = Tokenizer.from_str(json.dumps(content, ensure_ascii=False))
    # tokenizers raises plain Exception for a file that it cannot parse.
    except Exception as error:
        raise ModelError(f"the trimmed tokenizer cannot be read back ({str(error).splitlines()[0][:200]})") from error
    wrong = [token for token, index in ids.items() if tokenizer.token_to_id(token) != index]
    if wrong or tokenizer.get_vocab_size() != len(ids):
        raise ModelError(
            f"the trimmed tokenizer gives {len(wrong)} tokens other ids than its vocabulary; nothing was written"
        )
    return tokenizer
