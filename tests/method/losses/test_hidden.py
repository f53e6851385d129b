"""The hidden loss against numbers worked out by hand."""

import pytest
import torch

from plain_losses import FULL, HALF, HALF_PADDED, compute_loss


def test_hidden_loss_is_the_mean_square_over_valid_tokens():
    teacher = torch.tensor([[[[1.0, 2.0], [9.0, 9.0]]]], dtype=torch.float64)
    student = torch.tensor([[[[0.0, 4.0], [0.0, 0.0]]]], dtype=torch.float64)
    # Token 1: (1 + 4) / 2 = 2.5. Token 2: (81 + 81) / 2 = 81.
    assert compute_loss("hidden", teacher, student, FULL) == pytest.approx((2.5 + 81) / 2)
    assert compute_loss("hidden", teacher, student, HALF) == pytest.approx(2.5)
    assert compute_loss("hidden", teacher, student, HALF_PADDED) == pytest.approx((2.5 + 81) / 2)
