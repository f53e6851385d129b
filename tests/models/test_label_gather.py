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
