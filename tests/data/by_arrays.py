"""The product's splitting, of examples: keys made from them, and places turned back into rows."""

import numpy as np
from plain_splitting import Splits

from hrkd_cli.data.sources.records import Dropped
from hrkd_cli.data.splitting import NO_SPLIT, REASONS, TRAIN, Keys, keep_few, normalise, split_rows
from hrkd_cli.layout import SPLITS


def make_keys(examples):
    """Return the keys of examples, and the names of their domains and labels."""
    names = {"text": {}, "whole": {}, "domain": {}, "label": {}}

    def numbers(kind, values):
        return np.array([names[kind].setdefault(value, len(names[kind])) for value in values], dtype=np.int32)

    texts = [normalise(row.text) for row in examples]
    pairs = [None if row.text_pair is None else normalise(row.text_pair) for row in examples]
    splits = [NO_SPLIT if row.split is None else SPLITS.index(row.split) for row in examples]
    keys = Keys(
        text=numbers("text", texts),
        whole=numbers("whole", zip(texts, pairs, strict=True)),
        domain=numbers("domain", [row.domain for row in examples]),
        label=numbers("label", [row.label for row in examples]),
        split=np.array(splits, dtype=np.int8),
    )
    return keys, list(names["domain"]), list(names["label"])


def split_examples(examples, *, dev, test, dedupe, seed):
    examples = list(examples)
    keys, _, _ = make_keys(examples)
    places = split_rows(keys, dev=dev, test=test, dedupe=dedupe, seed=seed).tolist()
    kept = [(row, SPLITS[place]) for row, place in zip(examples, places, strict=True) if place < len(SPLITS)]
    rows = {name: {} for name in sorted({row.domain for row, _ in kept})}
    for wanted in SPLITS:
        for row, split in kept:
            if split == wanted:
                rows[row.domain].setdefault(split, []).append(row)
    left = [(row, REASONS[place]) for row, place in zip(examples, places, strict=True) if place >= len(SPLITS)]
    # Leaks before duplicates.
    left.sort(key=lambda entry: list(REASONS.values()).index(entry[1]) > 1)
    return Splits(rows, [Dropped(reason, row.domain, row.file, row.line) for row, reason in left])


def few_shot(examples, fraction, seed):
    keys, domains, labels = make_keys(examples)
    places = np.full(len(examples), TRAIN, dtype=np.int8)
    keep_few(keys, places, fraction, seed, domains=domains, labels=labels)
    return [row for row, place in zip(examples, places.tolist(), strict=True) if place == TRAIN]
