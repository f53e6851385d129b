import numpy as np
import pytest

from hrkd_cli.errors import ModelError
from hrkd_cli.predict.heads import (
    DomainHeads,
    domain_logits,
    domain_probabilities,
    joint_probabilities,
    predict_label_indices,
)

HEADS = DomainHeads.build({"a": ["no", "yes"], "b": ["no", "yes"]})


def logits(*rows):
    return np.array(rows, dtype=np.float32)


def test_softmax_is_over_the_domains_columns():
    row = logits([0.0, np.log(3.0), 50.0, 50.0])
    np.testing.assert_allclose(domain_probabilities(row, HEADS, "a"), [[0.25, 0.75]], rtol=1e-6)
    np.testing.assert_allclose(domain_probabilities(row, HEADS, "b"), [[0.5, 0.5]])


def test_huge_logits_do_not_overflow():
    np.testing.assert_allclose(domain_probabilities(logits([1e4, 0, 0, 0]), HEADS, "a"), [[1.0, 0.0]])


def test_predicted_indices_are_positions_in_the_domains_labels():
    rows = logits([0, 1, 9, 0], [1, 0, 0, 9])
    assert predict_label_indices(rows, HEADS, "a").tolist() == [1, 0]
    assert predict_label_indices(rows, HEADS, "b").tolist() == [0, 1]


def test_joint_probabilities_are_a_softmax_over_all_outputs():
    # Columns of b come first.
    heads = DomainHeads({"a": ("no", "yes"), "b": ("no", "yes")}, {"a": (2, 3), "b": (0, 1)}, 4)
    found = joint_probabilities(logits(np.log([4, 3, 1, 2])), heads)
    np.testing.assert_allclose(found["a"], [[0.1, 0.2]], rtol=1e-6)
    np.testing.assert_allclose(found["b"], [[0.4, 0.3]], rtol=1e-6)
    huge = joint_probabilities(logits([1e4, 0, 0, 0], [-1e4, -1e4, -1e4, -1e4]), heads)
    np.testing.assert_allclose(huge["b"], [[1, 0], [0.25, 0.25]])


def test_domain_logits_are_the_logarithms_of_each_domains_sum():
    np.testing.assert_allclose(domain_logits(logits(np.log([4, 3, 1, 2])), HEADS), np.log([[7, 3]]), rtol=1e-6)


def test_a_domain_name_in_a_configuration_cannot_lead_out_of_a_folder():
    entries = DomainHeads.build({"../../esc": ["no", "yes"], "b": ["no", "yes"]}).to_config()
    config = {"hrkd": {"domains": entries["domains"]}, "id2label": entries["id2label"]}
    with pytest.raises(ModelError, match=r"config.json: domain name .*esc. contains a slash; rename it"):
        DomainHeads.from_config(config)
