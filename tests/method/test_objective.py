"""The objective as a whole: padding, ratios, ablations."""

import pytest
import torch

from hrkd_cli.method import DomainGraph, DomainTerms, Projections, Signals, combine, domain_terms
from tiny import random_signals


def pad(signals: Signals, extra: int, junk: float) -> Signals:
    """Pad T by ``extra`` positions filled with junk."""
    hidden = [torch.nn.functional.pad(h, (0, 0, 0, extra), value=junk) for h in signals.hidden]
    scores = [torch.nn.functional.pad(s, (0, extra, 0, extra), value=junk) for s in signals.scores]
    return Signals(hidden, scores, signals.logits)


def batch(seed: int):
    generator = torch.Generator().manual_seed(seed)
    sizes = {"layers": 2, "batch": 3, "length": 5, "width": 8}
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[1, 3:] = False
    return random_signals(generator, **sizes), random_signals(generator, **sizes), mask


def total(terms: list[DomainTerms]) -> torch.Tensor:
    torch.manual_seed(0)
    graph = DomainGraph(8, 2, 2).double().eval()
    return combine(terms, graph(torch.stack([t.prototypes for t in terms], dim=1)).domain).total


def test_padding_a_batch_further_changes_no_loss():
    short, long = [], []
    for seed in (1, 2):
        teacher, student, mask = batch(seed)
        short.append(domain_terms(teacher, student, mask))
        wide = torch.nn.functional.pad(mask, (0, 7))
        # A teacher's scores at padded keys carry the additive mask; the student's may be anything.
        long.append(domain_terms(pad(teacher, 7, -1e4), pad(student, 7, 3.0), wide))
    for a, b in zip(short, long, strict=True):
        for name in ("hidden", "attention", "prediction", "prototypes"):
            torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=0, atol=1e-6)
    assert abs(total(short) - total(long)).item() <= 1e-6


def test_released_means_do_see_padding():
    teacher, student, mask = batch(1)
    wide = torch.nn.functional.pad(mask, (0, 7))
    a = domain_terms(teacher, student, mask, padded=True)
    b = domain_terms(pad(teacher, 7, 0.0), pad(student, 7, 1.0), wide, padded=True)
    assert (a.hidden - b.hidden).abs().max() > 1e-2


def terms(hidden: list[float], attention: list[float], prediction: float) -> DomainTerms:
    return DomainTerms(torch.tensor(hidden), torch.tensor(attention), torch.tensor(prediction), torch.zeros(2, 4))


def test_total_by_hand():
    domains = [terms([1.0, 2.0], [0.0, 3.0], 5.0), terms([4.0, 6.0], [0.0, 1.0], 7.0)]
    ratios = torch.tensor([[0.5, 0.5], [0.25, 0.75]])
    parts = combine(domains, ratios, hidden_weight=2.0, attention_weight=10.0, prediction_weight=3.0)
    # hidden: 0.5*1 + 0.25*2 + 0.5*4 + 0.75*6 = 7.5; attention: 0.25*3 + 0.75*1 = 1.5; prediction: 12 / 2.
    assert parts.hidden.item() == pytest.approx(2 * 7.5)
    assert parts.attention.item() == pytest.approx(2 * 10 * 1.5)
    assert parts.prediction.item() == pytest.approx(3 * 6)
    assert parts.total.item() == pytest.approx(15 + 30 + 18)


def test_without_a_graph_every_ratio_is_one_and_predictions_are_summed():
    domains = [terms([1.0, 2.0], [0.0, 3.0], 5.0), terms([4.0, 6.0], [0.0, 1.0], 7.0)]
    parts = combine(domains, None)
    assert parts.total.item() == pytest.approx((1 + 2 + 4 + 6) + (3 + 1) + (5 + 7))


def test_logits_only_needs_no_hidden_states():
    logits = Signals([], [], torch.zeros(2, 3))
    found = domain_terms(logits, logits, torch.ones(2, 4, dtype=torch.bool))
    assert found.hidden.shape == (0,)
    parts = combine([found, found], torch.full((0, 2), 0.5))
    assert parts.total.item() == pytest.approx(found.prediction.item())


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
