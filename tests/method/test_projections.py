"""Projections: their initial weights and shapes."""

import pytest
import torch

from hrkd_cli.method import Projections


def test_projections_start_at_small_weights_and_apply_one_matrix_per_layer():
    torch.manual_seed(0)
    projections = Projections(200, 300, 2)
    assert projections.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert not projections.bias.any()
    hidden = torch.randn(3, 1, 4, 200)
    projected = projections(hidden)
    assert projected.shape == (3, 1, 4, 300)
    for layer in range(3):
        expected = torch.nn.functional.linear(hidden[layer], projections.weight[layer], projections.bias[layer])
        torch.testing.assert_close(projected[layer], expected)


def test_projections_of_equal_widths_can_start_near_the_identity():
    torch.manual_seed(0)
    noise = Projections(200, 200, 1, near_identity=True).weight - torch.eye(200)
    assert noise.std().item() == pytest.approx(0.02, rel=0.02)
    assert noise.mean().item() == pytest.approx(0, abs=1e-3)
