"""The total loss by hand, with and without a graph."""

import pytest
import torch

from hrkd_cli.method import weighted_layer_losses, weighted_terms

# Two domains and one layer: (L+1, D) for hidden states, (L, D) for attention, (D,) for predictions.
LOSSES = {
    "hidden": torch.tensor([[1.0, 4.0], [2.0, 6.0]]),
    "attention": torch.tensor([[3.0, 1.0]]),
    "prediction": torch.tensor([5.0, 7.0]),
}


def test_the_terms_of_the_total_are_losses_times_ratios_and_weights():
    ratios = torch.tensor([[0.5, 0.5], [0.25, 0.75]])
    terms = weighted_terms(LOSSES, ratios, {"hidden": 2.0, "attention": 20.0, "prediction": 3.0})
    # hidden: 0.5*1 + 0.25*2 + 0.5*4 + 0.75*6 = 7.5; attention: 0.25*3 + 0.75*1 = 1.5; prediction: 12 / 2.
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {"hidden": 2 * 7.5, "attention": 20 * 1.5, "prediction": 3 * 6}
    )


def test_without_a_graph_every_ratio_is_one_and_predictions_are_summed():
    terms = weighted_terms(LOSSES, None, dict.fromkeys(LOSSES, 1.0))
    assert sum(terms.values()).item() == pytest.approx((1 + 2 + 4 + 6) + (3 + 1) + (5 + 7))


def test_layer_losses_are_weighted_and_aligned_at_the_last_layer():
    assert weighted_layer_losses(LOSSES, {"hidden": 1.0, "attention": 2.0}).tolist() == [
        [1.0, 4.0],
        [2.0 + 6.0, 6.0 + 2.0],
    ]
