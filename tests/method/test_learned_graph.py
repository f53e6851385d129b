"""The learned graph: equal ratios at first, which can differ between domains."""

import pytest
import torch

from hrkd_cli.method import LearnedGraph


def test_ratios_start_equal_and_can_differ_between_domains():
    torch.manual_seed(0)
    graph = LearnedGraph(32, 2, 3)
    prototypes = torch.randn(3, 1, 32) * 10 + torch.randn(3, 3, 32)  # nearly parallel
    assert graph(prototypes).domain.tolist() == [pytest.approx([1 / 3] * 3)] * 3
    torch.nn.init.normal_(graph.score)
    ratios = graph(prototypes)
    assert (ratios.domain.max(dim=1).values - ratios.domain.min(dim=1).values).min().item() > 0.1
    assert [tuple(r.shape) for r in ratios.layer] == [(3, 2), (3, 3)]
    torch.testing.assert_close(ratios.domain.sum(dim=1), torch.ones(3))
