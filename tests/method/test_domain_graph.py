"""The domain graph: its ratios, dropout and hierarchy. test_golden.py compares its numbers with the released code."""

import torch

from hrkd_cli.method import DomainGraph


def test_ratios_are_softmaxes_over_domains_and_over_layers():
    torch.manual_seed(1)
    graph = DomainGraph(8, 2, 3).eval()
    ratios = graph(torch.randn(3, 3, 8))
    assert ratios.domain.shape == (3, 3)
    torch.testing.assert_close(ratios.domain.sum(dim=1), torch.ones(3))
    assert [tuple(r.shape) for r in ratios.layer] == [(3, 2), (3, 3)]
    for layer in ratios.layer:
        torch.testing.assert_close(layer.sum(dim=1), torch.ones(3))


def test_dropout_is_active_in_train_mode_only():
    torch.manual_seed(1)
    graph = DomainGraph(8, 1, 3)
    prototypes = torch.randn(2, 3, 8)
    assert not torch.equal(graph(prototypes).domain, graph(prototypes).domain)
    graph.eval()
    assert torch.equal(graph(prototypes).domain, graph(prototypes).domain)


def test_without_hierarchy_there_are_no_layer_ratios():
    prototypes = torch.randn(3, 3, 8, generator=torch.Generator().manual_seed(5))
    with_and_without = []
    for hierarchy in (True, False):
        torch.manual_seed(2)
        with_and_without.append(DomainGraph(8, 2, 3, hierarchy=hierarchy).eval()(prototypes))
    mixed, unmixed = with_and_without
    assert unmixed.layer == ()
    torch.testing.assert_close(mixed.domain[0], unmixed.domain[0])  # layer 0 is never mixed
