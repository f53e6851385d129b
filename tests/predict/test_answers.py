import numpy as np
import pytest

from hrkd_cli.errors import UsageError
from hrkd_cli.predict.answers import MOST_PAIRS, Answer, answer
from hrkd_cli.predict.model_spec import build_spec

SHARED = {"a": ["no", "yes"], "b": ["yes", "no"]}
DIFFERENT = {"a": ["no", "yes"], "b": ["sport"]}


def spec(domains, **entry):
    names = [f"{domain}/{label}" for domain, labels in domains.items() for label in labels]
    config = {"id2label": {str(n): name for n, name in enumerate(names)}, "hrkd": {"domains": domains, **entry}}
    return build_spec(config, {})


def logits_of(*probabilities):
    """Logits whose softmax over all outputs is the given row; a constant does not change it."""
    return np.log(np.array(probabilities, dtype=np.float32)) + np.float32(3)


def check(found, expected):
    assert [(one.domain, one.label, list(one.scores)) for one in found] == [
        (one.domain, one.label, list(one.scores)) for one in expected
    ]
    for one, other in zip(found, expected, strict=True):
        assert one.scores == pytest.approx(other.scores, rel=1e-6)
        assert one.domain_probability == (
            other.domain_probability and pytest.approx(other.domain_probability, rel=1e-6)
        )


def test_an_unknown_domain_is_summed_out_of_the_probabilities_of_shared_labels_by_name():
    # p(a, no), p(a, yes), p(b, yes), p(b, no)
    logits = logits_of([0.1, 0.25, 0.4, 0.25], [0.3, 0.35, 0.05, 0.3])
    check(
        answer(logits, spec(SHARED, domain_posterior=True), "auto"),
        [
            Answer("b", "yes", {"no": 0.35, "yes": 0.65}, 0.65),
            # The label need not be the best one of the domain that was found.
            Answer("a", "no", {"no": 0.6, "yes": 0.4}, 0.65),
        ],
    )


def test_the_answer_among_different_labels_is_the_most_probable_pair():
    logits = logits_of([0.25, 0.3, 0.45], [0.6, 0.1, 0.3])
    check(
        answer(logits, spec(DIFFERENT, domain_posterior=True), "auto"),
        [  # domain a is more probable, but none of its labels
            Answer("b", "sport", {"b/sport": 0.45, "a/yes": 0.3, "a/no": 0.25}, 0.45),
            Answer("a", "no", {"a/no": 0.6, "b/sport": 0.3, "a/yes": 0.1}, 0.7),
        ],
    )


def test_only_the_most_probable_pairs_have_a_score():
    labels = {"a": [f"l{n}" for n in range(20)], "b": ["x"]}
    [found] = answer(np.arange(21, dtype=np.float32)[None], spec(labels, domain_posterior=True), "auto")
    assert list(found.scores) == ["b/x", *(f"a/l{n}" for n in range(19, 20 - MOST_PAIRS, -1))]


@pytest.mark.parametrize("domain_posterior", [True, False])
def test_a_given_domain_is_answered_by_its_head_alone(domain_posterior):
    logits = logits_of([0.1, 0.3, 0.45, 0.15])
    known = spec(SHARED, domain_posterior=domain_posterior)
    check(answer(logits, known, "a"), [Answer("a", "yes", {"no": 0.25, "yes": 0.75})])
    check(answer(logits, known, "b"), [Answer("b", "yes", {"yes": 0.75, "no": 0.25})])


def test_a_domain_named_auto_is_answered_by_its_head():
    labels = {"auto": ["no", "yes"], "b": ["no", "yes"]}
    [found] = answer(logits_of([0.1, 0.3, 0.3, 0.3]), spec(labels, domain_posterior=True), "auto")
    check([found], [Answer("auto", "yes", {"no": 0.25, "yes": 0.75})])


def test_a_model_that_does_not_find_domains_averages_its_heads_if_they_have_the_same_labels():
    found = answer(logits_of([0.1, 0.3, 0.1, 0.5]), spec(SHARED), "auto")
    check(found, [Answer("auto", "no", {"no": (0.25 + 5 / 6) / 2, "yes": (0.75 + 1 / 6) / 2})])
    message = "not trained to find the domain .* different labels; name one domain .--domain.: a, b, or train it again"
    with pytest.raises(UsageError, match=message):
        answer(logits_of([0.1, 0.3, 0.6]), spec(DIFFERENT), "auto")
