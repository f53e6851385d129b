"""The attention loss against numbers worked out by hand."""

import pytest
import torch

from plain_losses import FULL, HALF, HALF_PADDED, compute_loss, mean_weights


def queries_keys(scores):
    """Queries and keys that have the given scores, (1, 1, heads, T, T)."""
    queries = torch.tensor([[scores]], dtype=torch.float64)
    return queries, torch.eye(2, dtype=torch.float64).expand_as(queries)


def test_attention_loss_is_the_mean_square_over_valid_pairs():
    student = queries_keys([[[1.0, 5.0], [2.0, 7.0]], [[3.0, 5.0], [2.0, 7.0]]])  # two heads
    teacher = queries_keys(torch.zeros(2, 2, 2).tolist())
    # All valid: squares 1 + 25 + 4 + 49 and 9 + 25 + 4 + 49 over 4 pairs x 2 heads.
    assert compute_loss("attention", teacher, student, FULL) == pytest.approx((79 + 87) / 8)
    # One valid token: only the pair (0, 0) counts, squares 1 and 9 over 2 heads.
    assert compute_loss("attention", teacher, student, HALF) == pytest.approx(5.0)
    # Released: the padded key is zeroed, the padded query is not, and all 8 positions divide.
    assert compute_loss("attention", teacher, student, HALF_PADDED) == pytest.approx((1 + 4 + 9 + 4) / 8)


def test_different_numbers_of_heads_are_merged_into_groups():
    """Two student heads and four teacher heads: two groups of two teacher heads, scores added, over sqrt(2)."""
    torch.manual_seed(0)
    teacher = tuple(torch.randn(1, 1, 4, 3, 5, dtype=torch.float64) for _ in range(2))
    student = tuple(torch.randn(1, 1, 2, 3, 7, dtype=torch.float64) for _ in range(2))
    loss = compute_loss("attention", teacher, student, mean_weights([[3]], 3))
    scores = (teacher[0] @ teacher[1].mT)[0, 0]
    merged = torch.stack([scores[0] + scores[1], scores[2] + scores[3]]) / 2**0.5
    assert loss == pytest.approx((merged - (student[0] @ student[1].mT)[0, 0]).square().mean().item())


def test_both_numbers_of_heads_may_differ_from_the_number_of_groups():
    """Four student heads and six teacher heads: the mean runs over two groups."""
    torch.manual_seed(0)
    teacher = tuple(torch.randn(1, 1, 6, 3, 5, dtype=torch.float64) for _ in range(2))
    student = tuple(torch.randn(1, 1, 4, 3, 7, dtype=torch.float64) for _ in range(2))
    loss = compute_loss("attention", teacher, student, mean_weights([[3]], 3))
    merged = [
        (queries @ keys.mT)[0, 0].view(2, -1, 3, 3).sum(dim=1) / (queries.shape[2] / 2) ** 0.5
        for queries, keys in (teacher, student)
    ]
    assert loss == pytest.approx((merged[0] - merged[1]).square().mean().item())
