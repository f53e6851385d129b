"""The label loss against numbers worked out by hand."""

import pytest
import torch

from hrkd_cli.method import Labels
from plain_losses import compute_loss, mean_weights


def test_label_loss_is_the_mean_over_the_labeled_rows():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, -1.0]])
    labels = Labels(torch.tensor([0, 1, 0]), torch.tensor([0.5, 0.5, 0.0]))
    weights = mean_weights([[1, 1], [1]], 1, dtype=torch.float32)
    terms = -logits.log_softmax(dim=1)
    loss = compute_loss("label", logits, logits, weights, labels=labels)
    assert loss == pytest.approx([(terms[0, 0] + terms[1, 1]).item() / 2, 0.0])
    class_weights = torch.tensor([[4.0, 1.0], [1.0, 2.0], [1.0, 1.0]])
    loss = compute_loss("label", logits, logits, weights, labels=labels, class_weights=class_weights)
    assert loss[0] == pytest.approx((4 * terms[0, 0] + 2 * terms[1, 1]).item() / 2)
