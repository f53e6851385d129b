"""Helpers on model outputs: sums by domain and masking."""

import pytest
import torch

from hrkd_cli.method.model_outputs import masked_copy
from plain_losses import mean_weights


def test_values_per_row_are_summed_by_domain():
    weights = mean_weights([[1, 1], [1]], 1)
    per_row = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]], dtype=torch.float64)
    assert weights.sum_by_domain(per_row).tolist() == [[3.0, 4.0], [24.0, 32.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("in_place", [False, True])
def test_masked_values_become_zero_even_where_they_are_not_numbers(dtype, in_place):
    values = torch.tensor([1.5, float("nan"), -2.0, float("inf")], dtype=dtype)
    out = values if in_place else torch.full_like(values, 7)
    masked_copy(values, torch.tensor([True, False, True, False]), out=out)
    assert out.tolist() == [1.5, 0.0, -2.0, 0.0]
