"""Each loss against numbers worked out by hand."""

import math

import pytest
import torch

from hrkd_cli.method import attention_loss, hidden_loss, prediction_loss, prototype

FULL = torch.tensor([[True, True]])
HALF = torch.tensor([[True, False]])


def test_hidden_loss_is_the_mean_square_over_valid_tokens():
    teacher = torch.tensor([[[1.0, 2.0], [9.0, 9.0]]])
    student = torch.tensor([[[0.0, 4.0], [0.0, 0.0]]])
    # Token 1: (1 + 4) / 2 = 2.5. Token 2: (81 + 81) / 2 = 81.
    assert hidden_loss(teacher, student, FULL).item() == pytest.approx((2.5 + 81) / 2)
    assert hidden_loss(teacher, student, HALF).item() == pytest.approx(2.5)
    assert hidden_loss(teacher, student, HALF, padded=True).item() == pytest.approx((2.5 + 81) / 2)


def test_attention_loss_counts_valid_pairs():
    teacher = torch.zeros(1, 2, 2, 2)
    student = torch.tensor([[[[1.0, 5.0], [2.0, 7.0]], [[3.0, 5.0], [2.0, 7.0]]]])  # two heads
    # All valid: squares 1 + 25 + 4 + 49 and 9 + 25 + 4 + 49 over 4 pairs x 2 heads.
    assert attention_loss(teacher, student, FULL).item() == pytest.approx((79 + 87) / 8)
    # One valid token: only the pair (0, 0) counts, squares 1 and 9 over 2 heads.
    assert attention_loss(teacher, student, HALF).item() == pytest.approx(5.0)
    # Released: the padded key is zeroed, the padded query is not, and all 8 positions divide.
    assert attention_loss(teacher, student, HALF, padded=True).item() == pytest.approx((1 + 4 + 9 + 4) / 8)


def test_what_stands_at_padded_keys_has_no_gradient():
    student = torch.full((1, 1, 2, 2), -1e4, requires_grad=True)
    attention_loss(torch.zeros(1, 1, 2, 2), student, HALF, padded=True).backward()
    assert student.grad[..., 1].abs().sum() == 0
    assert student.grad[..., 0].abs().sum() > 0


def test_prediction_loss_by_hand():
    teacher = torch.tensor([[math.log(3.0), 0.0]])  # probabilities 3/4, 1/4
    student = torch.tensor([[0.0, 0.0]])  # 1/2, 1/2
    assert prediction_loss(teacher, student).item() == pytest.approx(math.log(2) / 2)
    # At temperature 2 the teacher's probabilities are sqrt(3) : 1, the student's stay even; there is no factor t^2.
    assert prediction_loss(teacher, student, temperature=2.0).item() == pytest.approx(math.log(2) / 2)
    student = torch.tensor([[math.log(4.0), 0.0]])  # 4/5, 1/5; at t = 2: 2/3, 1/3
    root = math.sqrt(3)
    expected = (root / (root + 1) * math.log(3 / 2) + 1 / (root + 1) * math.log(3)) / 2
    assert prediction_loss(teacher, student, temperature=2.0).item() == pytest.approx(expected)


def test_prediction_loss_divides_by_the_mean_number_of_classes():
    logits = torch.zeros(1, 4)
    assert prediction_loss(logits, logits).item() == pytest.approx(math.log(4) / 4)
    assert prediction_loss(logits, logits, mean_classes=3).item() == pytest.approx(math.log(4) / 3)


def test_class_weights_scale_the_classes_terms():
    logits = torch.zeros(1, 2)
    weights = torch.tensor([3.0, 1.0])
    assert prediction_loss(logits, logits, class_weights=weights).item() == pytest.approx(math.log(2))


def test_prototype_is_the_mean_over_valid_tokens_of_the_whole_batch():
    hidden = torch.tensor([[[1.0], [2.0]], [[6.0], [100.0]]])
    mask = torch.tensor([[True, True], [True, False]])
    assert prototype(hidden, mask).tolist() == [3.0]
    assert prototype(hidden, mask, padded=True).tolist() == [109 / 4]
