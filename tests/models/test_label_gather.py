"""Logits of a row's own domain, and of the domains, against numbers worked out by hand."""

import pytest
import torch

from hrkd_cli.models.label_gather import LabelGather
from hrkd_cli.predict.heads import DomainHeads

CPU = torch.device("cpu")


def test_the_softmax_of_domain_logits_sums_the_probabilities_of_a_domains_outputs():
    gather = LabelGather(DomainHeads.build({"books": "ab", "music": "abc"}), CPU)
    logits = torch.tensor([[1.0, 2.0, 3.0, 4.0, 6.0]]).log().requires_grad_()  # odds of the five outputs
    domain_logits = gather.domain_logits(logits)
    assert domain_logits.exp().tolist()[0] == pytest.approx([3.0, 13.0])
    assert domain_logits.softmax(dim=-1).tolist()[0] == pytest.approx([3 / 16, 13 / 16])
    # The gradient of -log p(books) is the softmax over all outputs, less the share of each in its own domain.
    torch.nn.functional.cross_entropy(domain_logits, torch.tensor([0])).backward()
    expected = [1 / 16 - 1 / 3, 2 / 16 - 2 / 3, 3 / 16, 4 / 16, 6 / 16]
    assert logits.grad.tolist()[0] == pytest.approx(expected)


def test_domain_logits_are_float32_and_do_not_need_all_outputs():
    heads = DomainHeads({"books": ("a", "b"), "music": ("a", "b")}, {"books": (5, 0), "music": (1, 4)}, 6)
    logits = torch.tensor([[1.0, 2.0, 50.0, 60.0, 4.0, 3.0]]).log().bfloat16()
    domain_logits = LabelGather(heads, CPU).domain_logits(logits)
    assert domain_logits.dtype == torch.float32
    assert domain_logits.exp().tolist()[0] == pytest.approx([4.0, 6.0], rel=1e-2)


def test_a_domain_without_a_head_gets_the_mean_of_the_other_heads():
    heads = DomainHeads({"books": ("a", "b"), "garden": (), "music": ("a", "b")},
                        {"books": (0, 1), "garden": (), "music": (2, 3)}, 4)  # fmt: skip
    gather = LabelGather(heads, CPU)
    # p(a | books) = 1/4, p(a | music) = 6/8, p(books) = 4/12, p(music) = 8/12.
    logits = torch.tensor([[1.0, 3.0, 6.0, 2.0]]).log()
    assert gather.mixture(logits, posterior=True).exp().tolist()[0] == pytest.approx([7 / 12, 5 / 12])
    assert gather.mixture(logits, posterior=False).exp().tolist()[0] == pytest.approx([1 / 2, 1 / 2])
    # Scaling one head changes the posterior alone.
    scaled = logits + torch.tensor([[9.0, 9.0, 1.0, 1.0]]).log()  # p(books) = 36/44
    assert gather.mixture(scaled, posterior=True).exp().tolist()[0] == pytest.approx([15 / 44, 29 / 44])
    assert gather.mixture(scaled, posterior=False).exp().tolist()[0] == pytest.approx([1 / 2, 1 / 2])
    assert gather.domain_logits(logits).softmax(dim=-1).tolist()[0] == pytest.approx([4 / 12, 0, 8 / 12])
    assert gather.no_head.tolist() == [False, True, False]
    assert LabelGather(DomainHeads.build({"books": "ab"}), CPU).no_head is None
