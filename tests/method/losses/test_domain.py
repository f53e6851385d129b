"""The domain loss against numbers worked out by hand."""

from math import log

import pytest
import torch

from hrkd_cli.method import Outputs
from plain_losses import compute_loss, mean_weights

# Rows of domains 0, 0 and 1, with p(domain 0 | text) of 1/2, 3/4 and 1/4.
STUDENT = Outputs(None, None, None, None, torch.tensor([[0.0, 0.0], [log(3), 0.0], [0.0, log(3)]]))
WEIGHTS = mean_weights([[1, 1], [1]], 1, dtype=torch.float32)


@pytest.mark.parametrize("teacher", [None, Outputs(None, None, None, None)])
def test_without_a_teachers_posterior_the_target_is_the_rows_domain(teacher):
    loss = compute_loss("domain", teacher, STUDENT, WEIGHTS)
    assert loss == pytest.approx([(log(2) + log(4 / 3)) / 2, log(4 / 3)])


def test_half_of_the_target_is_the_teachers_posterior():
    """The teacher says 1/5, 1/2 and 1/2, so that the targets of domain 0 are 3/5, 3/4 and 1/4."""
    teacher = Outputs(None, None, None, None, torch.tensor([[0.0, log(4)], [1.0, 1.0], [2.0, 2.0]]))
    loss = compute_loss("domain", teacher, STUDENT, WEIGHTS)
    second = 3 / 4 * log(4 / 3) + 1 / 4 * log(4)
    assert loss == pytest.approx([(log(2) + second) / 2, second])
