"""The total by hand, its ablations, graphs and projections."""

import pytest
import torch

from hrkd_cli.method import LOSSES, DomainGraph, Projections, combine, weighted_losses
from hrkd_cli.method.total import layer_losses

# Two domains, one layer: losses of layers are (L, D), of the embedding and the layer or of the layer alone.
HAND = {
    "hidden": torch.tensor([[1.0, 4.0], [2.0, 6.0]]),
    "attention": torch.tensor([[3.0, 1.0]]),
    "prediction": torch.tensor([5.0, 7.0]),
}


def test_total_by_hand():
    ratios = torch.tensor([[0.5, 0.5], [0.25, 0.75]])
    parts = combine(HAND, ratios, {"hidden": 2.0, "attention": 20.0, "prediction": 3.0})
    # hidden: 0.5*1 + 0.25*2 + 0.5*4 + 0.75*6 = 7.5; attention: 0.25*3 + 0.75*1 = 1.5; prediction: 12 / 2.
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(
        {"hidden": 2 * 7.5, "attention": 20 * 1.5, "prediction": 3 * 6}
    )


def test_without_a_graph_every_ratio_is_one_and_predictions_are_summed():
    parts = combine(HAND, None, dict.fromkeys(HAND, 1.0))
    assert sum(parts.values()).item() == pytest.approx((1 + 2 + 4 + 6) + (3 + 1) + (5 + 7))


def test_losses_of_layers_by_hand():
    assert layer_losses(HAND, {"hidden": 1.0, "attention": 2.0}).tolist() == [[1.0, 4.0], [2.0 + 6.0, 6.0 + 2.0]]


def test_only_losses_with_a_weight_are_computed():
    weights = dict.fromkeys((loss.name for loss in LOSSES), 0.0) | {"hidden": 2.0, "attention": 3.0, "label": 0.5}
    found = {loss.name: weight for loss, weight in weighted_losses(weights, layers=True).items()}
    assert found == {"hidden": 2.0, "attention": 6.0, "label": 0.5}
    found = {loss.name: weight for loss, weight in weighted_losses(weights, layers=False).items()}
    assert found == {"label": 0.5}


def test_graph_ratios_are_shares():
    torch.manual_seed(1)
    graph = DomainGraph(8, 2, 3).eval()
    ratios = graph(torch.randn(3, 3, 8))
    assert ratios.domain.shape == (3, 3)
    torch.testing.assert_close(ratios.domain.sum(dim=1), torch.ones(3))
    assert [tuple(r.shape) for r in ratios.layer] == [(3, 2), (3, 3)]
    for layer in ratios.layer:
        torch.testing.assert_close(layer.sum(dim=1), torch.ones(3))


def test_graph_drops_out_in_train_mode_only():
    torch.manual_seed(1)
    graph = DomainGraph(8, 1, 3)
    prototypes = torch.randn(2, 3, 8)
    assert not torch.equal(graph(prototypes).domain, graph(prototypes).domain)
    graph.eval()
    assert torch.equal(graph(prototypes).domain, graph(prototypes).domain)


def test_hierarchy_can_be_left_out():
    prototypes = torch.randn(3, 3, 8, generator=torch.Generator().manual_seed(5))
    found = []
    for hierarchy in (True, False):
        torch.manual_seed(2)
        found.append(DomainGraph(8, 2, 3, hierarchy=hierarchy).eval()(prototypes))
    assert found[1].layer == ()
    torch.testing.assert_close(found[0].domain[0], found[1].domain[0])  # the embedding layer goes in as it is


def test_projections_start_small_and_map_widths():
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


def test_projections_of_equal_widths_can_start_around_the_identity():
    torch.manual_seed(0)
    noise = Projections(200, 200, 1, around_identity=True).weight - torch.eye(200)
    assert noise.std().item() == pytest.approx(0.02, rel=0.02)
    assert noise.mean().item() == pytest.approx(0, abs=1e-3)
