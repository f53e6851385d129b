"""Mean weights of the rows, tokens and query-key pairs of a batch."""

from types import SimpleNamespace

import numpy as np
import torch

from hrkd_cli.choices import Precision
from hrkd_cli.distillation.distill_collator import DistillCollator
from hrkd_cli.models.precision import PrecisionPolicy
from hrkd_cli.predict.tokenization import TokenizedExample
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.tokenized_split import TokenizedSplit

LENGTHS = {"a": (2, 9, 3), "b": (9, 4)}
STEP_ROWS = {"a": [0, 2], "b": [1]}
REFS = [("a", 0), ("a", 2), ("b", 1)]


def make_collator(**options):
    examples = {domain: [TokenizedExample(np.zeros(n), []) for n in own] for domain, own in LENGTHS.items()}
    context = TrainContext(PrecisionPolicy(Precision.FP32, torch.device("cpu")))
    tokenizer = SimpleNamespace(max_length=4)
    return DistillCollator(None, TokenizedSplit(tokenizer, examples, {}), context, **options)


def test_every_row_token_and_pair_of_a_domain_has_the_same_weight():
    weights = make_collator().mean_weights(STEP_ROWS, REFS)
    torch.testing.assert_close(weights.per_row, torch.tensor([1 / 2, 1 / 2, 1]))
    expected = [[1 / 5, 1 / 5, 0.0, 0.0], [1 / 5, 1 / 5, 1 / 5, 0.0], [1 / 4] * 4]
    torch.testing.assert_close(weights.per_token, torch.tensor(expected))
    torch.testing.assert_close(weights.per_pair, torch.tensor([1 / 13, 1 / 13, 1 / 16]))
    assert weights.key_mask.sum(dim=1).tolist() == [2, 3, 4]
    assert weights.query_mask is weights.key_mask


def test_means_that_include_padding_count_every_token_up_to_the_padded_length():
    weights = make_collator(pad_to=10).mean_weights(STEP_ROWS, REFS)
    torch.testing.assert_close(weights.per_token, torch.tensor([1 / 20, 1 / 20, 1 / 10])[:, None].repeat(1, 10))
    torch.testing.assert_close(weights.per_pair, torch.tensor([1 / 200, 1 / 200, 1 / 100]))
    assert weights.key_mask.sum(dim=1).tolist() == [2, 3, 4]
    assert weights.query_mask is None


def test_instance_weights_make_the_means_weighted_means():
    collator = make_collator()
    collator.row_weights = {"a": np.array([0.5, 9.0, 1.5]), "b": np.array([9.0, 0.3])}
    weights = collator.mean_weights(STEP_ROWS, REFS)
    tokens, pairs = 0.5 * 2 + 1.5 * 3, 0.5 * 4 + 1.5 * 9
    torch.testing.assert_close(weights.per_row, torch.tensor([0.25, 0.75, 1.0]))
    first, second = [0.5 / tokens] * 2, [1.5 / tokens] * 3
    expected = [[*first, 0.0, 0.0], [*second, 0.0], [0.25] * 4]
    torch.testing.assert_close(weights.per_token, torch.tensor(expected))
    torch.testing.assert_close(weights.per_pair, torch.tensor([0.5 / pairs, 1.5 / pairs, 1 / 16]))
    assert weights.domain_one_hot.tolist() == [[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    torch.testing.assert_close(weights.domain_one_hot @ weights.per_token.sum(dim=1), torch.ones(2))
