"""The prediction loss against numbers worked out by hand."""

import math

import pytest
import torch

from plain_losses import compute_loss, mean_weights

ONE_ROW = mean_weights([[1]], 1, dtype=torch.float32)


def test_prediction_loss_is_a_cross_entropy_over_the_number_of_classes_at_any_temperature():
    teacher = torch.tensor([[math.log(3.0), 0.0]])  # probabilities 3/4, 1/4
    student = torch.tensor([[0.0, 0.0]])  # 1/2, 1/2
    assert compute_loss("prediction", teacher, student, ONE_ROW, mean_classes=2) == pytest.approx(math.log(2) / 2)
    # At temperature 2 the teacher's probabilities are sqrt(3) : 1, the student's stay even; there is no factor t^2.
    loss = compute_loss("prediction", teacher, student, ONE_ROW, mean_classes=2, temperature=2.0)
    assert loss == pytest.approx(math.log(2) / 2)
    student = torch.tensor([[math.log(4.0), 0.0]])  # 4/5, 1/5; at t = 2: 2/3, 1/3
    root = math.sqrt(3)
    expected = (root / (root + 1) * math.log(3 / 2) + 1 / (root + 1) * math.log(3)) / 2
    loss = compute_loss("prediction", teacher, student, ONE_ROW, mean_classes=2, temperature=2.0)
    assert loss == pytest.approx(expected)


def test_class_weights_multiply_the_terms_of_the_classes():
    logits, class_weights = torch.zeros(1, 2), torch.tensor([[3.0, 1.0]])
    loss = compute_loss("prediction", logits, logits, ONE_ROW, mean_classes=2, class_weights=class_weights)
    assert loss == pytest.approx(math.log(2))
