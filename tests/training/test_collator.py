"""A step's rows in pieces of similar length: which rows go together, and that losses and gradients stay the same."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hrkd_cli.choices import Precision
from hrkd_cli.models.precision import PrecisionPolicy
from hrkd_cli.predict.tokenization import TokenizedExample
from hrkd_cli.training import collator
from hrkd_cli.training.collator import Collator, length_buckets
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.tokenized_split import TokenizedSplit
from objectives import make_objective

CPU = torch.device("cpu")


def test_rows_are_split_where_that_spares_most_padding():
    lengths = {"a": np.array([100, 30, 90]), "b": np.array([31, 100, 32])}
    refs = [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1), ("b", 2)]
    # 6 x 100 padded tokens; with the three short rows apart 3 x 32 + 3 x 100, 204 fewer.
    assert length_buckets(refs, lengths, CPU) == [[("a", 1), ("b", 0), ("b", 2)], [("a", 0), ("a", 2), ("b", 1)]]
    assert length_buckets(refs, lengths, torch.device("cuda")) == [refs]


@pytest.mark.parametrize(
    ("lengths", "pieces"),
    [
        ([40], 1),
        ([40, 40, 40], 1),
        ([10, 137], 1),  # 127 spared
        ([10, 138], 2),
        ([340, 468, 468, 468], 2),  # 128 spared of 1,872, not a tenth
        ([10, 200, 400], 3),
        ([512, 512], 1),
        ([512, 512, 512, 512, 512], 3),  # more than 1,024 tokens each
        ([5000], 1),
    ],
)
def test_a_second_pass_must_be_worth_it(lengths, pieces):
    refs = [("a", n) for n in range(len(lengths))]
    found = length_buckets(refs, {"a": np.array(lengths)}, CPU)
    assert len(found) == pieces
    assert sorted(ref for piece in found for ref in piece) == refs


@pytest.mark.parametrize(
    "options",
    [
        {"graph": "frozen"},
        {"graph": "uniform", "label_weight": 0.5},
        {"method": "logits"},
        {"graph": "none"},
    ],
)
def test_pieces_have_the_losses_and_gradients_of_the_whole(teacher, dataset, monkeypatch, options):
    rows = {"books": [0, 1, 2, 3, 4], "music": [3, 4, 5, 6, 7]}
    found = []
    for spared in (1e9, 0):
        monkeypatch.setattr(collator, "MIN_SAVED_TOKENS", spared)
        monkeypatch.setattr(collator, "MIN_SAVED_FRACTION", 0)
        objective, _, student = make_objective(teacher, dataset, **options)
        student.eval()
        batch = objective.collator(rows)
        assert (len(batch) > 1) == (spared == 0)
        loss = objective.backward(batch)
        modules = (student, objective.projections)
        gradients = [p.grad for m in modules if m for p in m.parameters() if p.grad is not None]
        found.append([*loss.by_kind.values(), loss.total, *gradients])
    assert len(found[0]) == len(found[1])
    for whole, pieces in zip(*found, strict=True):
        torch.testing.assert_close(pieces, whole, rtol=1e-4, atol=1e-6)


def test_rows_are_padded_for_the_longest_of_a_piece_or_as_released(teacher, dataset):
    rows = {"books": [0, 1, 2], "music": [3, 4]}
    objective, _, _ = make_objective(teacher, dataset, graph="uniform")
    (batch,) = objective.collator({"books": [0, 1], "music": [3, 4]})
    assert batch.tokens.mask.shape == (4, 16)
    assert batch.tokens.mask.sum(dim=1).max() == 13
    assert batch.teacher().hidden.shape[1:3] == batch.weights.key_mask.shape == (4, 16)
    objective, _, _ = make_objective(teacher, dataset, graph="uniform", means="released")
    (batch,) = objective.collator(rows)
    assert batch.tokens.mask.shape == (5, 16)


def test_bf16_pieces_are_bf16_whole(teacher, dataset, monkeypatch):
    """The losses go by other kernels in bf16."""
    rows = {"books": [0, 1, 2, 3, 4], "music": [3, 4, 5, 6, 7]}
    monkeypatch.setattr(collator, "MIN_SAVED_FRACTION", 0)
    found = []
    for spared in (1e9, 0):
        monkeypatch.setattr(collator, "MIN_SAVED_TOKENS", spared)
        objective, _, student = make_objective(teacher, dataset, precision=Precision.BF16, graph="uniform")
        student.eval()
        loss = objective.backward(objective.collator(rows))
        gradients = [p.grad for m in (student, objective.projections) for p in m.parameters() if p.grad is not None]
        found.append([*loss.by_kind.values(), *gradients])
    for whole, pieces in zip(*found, strict=True):
        assert (whole - pieces).norm() <= 0.02 * whole.norm()


class NoTokens:
    """A tokenizer that makes no tensors."""

    max_length = 20

    def collate(self, examples, device, *, pad_to):
        return None


@pytest.mark.parametrize(
    ("device", "longest", "padded"), [("cpu", 8, 8), ("cpu", 9, 16), ("cpu", 17, 20), ("cuda", 9, 9)]
)
def test_a_batch_on_a_cpu_is_padded_to_a_multiple_of_8_or_the_maximum(device, longest, padded):
    found = Collator(TokenizedSplit(NoTokens(), {}, {}), SimpleNamespace(device=torch.device(device)))
    assert found.padded_length(longest) == padded


def test_labels_share_the_weight_of_their_domain_over_the_labeled_rows_of_the_step():
    examples = {domain: [TokenizedExample(np.zeros(4), [])] * 5 for domain in "ab"}
    split = TokenizedSplit(NoTokens(), examples, {"a": np.array([1, 0, 2]), "b": np.array([1, 1])})
    context = TrainContext(PrecisionPolicy(Precision.FP32, CPU))
    rows = {"a": [0, 2, 4], "b": [3, 4]}  # a's row 4 and both of b have no label
    (batch,) = Collator(split, context)(rows)
    assert batch.labels.targets.tolist() == [1, 2, 0, 0, 0]
    assert batch.labels.weights.tolist() == [0.5, 0.5, 0, 0, 0]
