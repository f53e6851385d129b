"""The retention loss against numbers worked out by hand."""

from dataclasses import replace
from math import log

import pytest
import torch

from hrkd_cli.method import MASKED_LOGIT, Outputs
from hrkd_cli.method.losses.retention import retention_loss
from plain_losses import loss_inputs, mean_weights

WEIGHTS = mean_weights([[1, 1], [1]], 1, dtype=torch.float32)


def odds(*rows):
    """Logits of three rows for two old domains, given as odds; 0 is an absent label."""
    logits = torch.tensor(rows, dtype=torch.float32).log()
    return logits.masked_fill(logits.isinf(), MASKED_LOGIT)


def compute(before, now, temperature=1.0):
    outputs = Outputs(None, None, None, None)
    inputs = loss_inputs(None, outputs, WEIGHTS, temperature=temperature)
    return retention_loss(replace(inputs, old_domains=(before, now))).tolist()


# Rows of domains 0, 0 and 1. The first old domain has two labels, the second three.
BEFORE = odds([[1, 1, 0], [1, 2, 1]], [[3, 1, 0], [1, 1, 1]], [[1, 1, 0], [1, 1, 2]])


def test_it_is_zero_for_equal_answers():
    assert compute(BEFORE, BEFORE * 1.0) == [0, 0]
    assert compute(BEFORE, BEFORE + 5) == pytest.approx([0, 0], abs=1e-6)


def test_it_sums_the_divergences_of_all_old_domains_whatever_the_domain_of_the_row():
    now = odds([[1, 3, 0], [1, 2, 1]], [[1, 1, 0], [1, 1, 2]], [[1, 1, 0], [2, 1, 1]])
    first = (log(1 / 2 / (1 / 4)) + log(1 / 2 / (3 / 4))) / 2
    second = 3 / 4 * log(3 / 2) + 1 / 4 * log(1 / 2) + 2 / 3 * log(4 / 3) + 1 / 3 * log(2 / 3)
    third = 1 / 4 * log(1 / 2) + 1 / 2 * log(2)
    assert compute(BEFORE, now) == pytest.approx([(first + second) / 2, third], rel=1e-5)


def test_the_temperature_divides_the_logits_of_both():
    now = odds([[1, 1, 0], [1, 2, 1]], [[3, 1, 0], [1, 1, 1]], [[1, 9, 0], [1, 1, 2]])
    divergence = log(1 / 2 / (1 / 4)) / 2 + log(1 / 2 / (3 / 4)) / 2  # odds of 9 at temperature 2 are odds of 3
    assert compute(BEFORE, now, temperature=2.0) == pytest.approx([0, divergence], abs=1e-6)
