"""A dataset split as token ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from hrkd_cli.choices import ClassWeights
from hrkd_cli.data.dataset import Dataset, TextRows, sample_rows
from hrkd_cli.models.model_tokenizer import ModelTokenizer, token_counts
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.predict.tokenization import TokenizedExample


@dataclass(frozen=True)
class TokenizedSplit:
    """A split as token ids, with its labels.

    Attributes:
        tokenizer: made the token ids and pads them.
        examples: every row by domain, in the order of all domain dimensions.
        labels: label indices by domain, for the labeled rows, which come first; unlabeled rows follow them.
    """

    tokenizer: ModelTokenizer
    examples: dict[str, list[TokenizedExample]]
    labels: dict[str, np.ndarray]

    @cached_property
    def lengths(self) -> dict[str, np.ndarray]:
        """Tokens of each row by domain."""
        return {domain: token_counts(examples) for domain, examples in self.examples.items()}

    @property
    def count(self) -> int:
        """Number of rows of all domains."""
        return sum(map(len, self.examples.values()))

    @property
    def unlabeled(self) -> dict[str, int]:
        """Number of unlabeled rows of each domain that has some."""
        counts = {domain: len(examples) - len(self.labels[domain]) for domain, examples in self.examples.items()}
        return {domain: count for domain, count in counts.items() if count}

    def subsample(self, rows: int) -> TokenizedSplit:
        """Return about ``rows`` labeled rows, the same random share of every domain, or all if there are no more."""
        share = rows / max(1, sum(map(len, self.labels.values())))
        samples = {domain: sample_rows(len(own), share) for domain, own in self.labels.items()}
        examples = {domain: [self.examples[domain][n] for n in sample] for domain, sample in samples.items()}
        return TokenizedSplit(self.tokenizer, examples, {d: self.labels[d][sample] for d, sample in samples.items()})

    def class_weights(self, heads: DomainHeads, choice: ClassWeights) -> Tensor | None:
        """Return (D, C) class weights, rows / (classes x rows of the class), or None for equal weights.

        A class without rows has the weight 1.
        """
        if choice is ClassWeights.NONE:
            return None
        weights = []
        for domain, names in heads.labels.items():
            counts = np.bincount(self.labels[domain], minlength=len(names))
            own = np.where(counts > 0, counts.sum() / (len(names) * counts.clip(min=1)), 1.0)
            weights.append(torch.tensor(own, dtype=torch.float32))
        return torch.nn.utils.rnn.pad_sequence(weights, batch_first=True, padding_value=1.0)


def tokenize_split(
    dataset: Dataset, split: str, tokenizer: ModelTokenizer, unlabeled: Mapping[str, TextRows] | None = None
) -> TokenizedSplit:
    """Tokenize one split of every domain that has it or unlabeled rows, which follow."""
    examples, labels = {}, {}
    for domain, names in dataset.labels.items():
        rows = dataset.split(domain, split)
        texts = (unlabeled or {}).get(domain)
        if len(rows) or texts:
            examples[domain] = tokenizer.encode_rows(rows)
            labels[domain] = np.array([names.index(label) for label in rows.labels], dtype=np.int64)
            if texts:
                examples[domain] += tokenizer.encode_rows(texts)
    return TokenizedSplit(tokenizer, examples, labels)
