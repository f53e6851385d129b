"""A split as token ids, and class weights from its labels."""

import numpy as np
import pytest

from hrkd_cli.choices import ClassWeights
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.training.tokenized_split import TokenizedSplit


def test_balanced_class_weights_are_inverse_to_class_sizes():
    heads = DomainHeads.build({"books": ("bad", "good")})
    train = TokenizedSplit(None, {}, {"books": np.array([0, 0, 0, 1])})
    assert train.class_weights(heads, ClassWeights.BALANCED)[0].tolist() == pytest.approx([4 / 6, 2])
    assert train.class_weights(heads, ClassWeights.NONE) is None


def test_a_class_without_rows_changes_the_weights_of_no_other_class():
    heads = DomainHeads.build({"books": ("bad", "fair", "good")})
    train = TokenizedSplit(None, {}, {"books": np.array([0, 0, 0, 2])})
    assert train.class_weights(heads, ClassWeights.BALANCED)[0].tolist() == pytest.approx([4 / 9, 1, 4 / 3])
