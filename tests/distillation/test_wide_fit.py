"""Training of the wide branch: features by hand, weights against scikit-learn, and when dev accepts it."""

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from hrkd_cli import Predictor
from hrkd_cli.data.dataset import TextRows
from hrkd_cli.distillation import wide_fit
from hrkd_cli.distillation.setup import DistillSetup
from hrkd_cli.distillation.wide_fit import (
    choose_share,
    drops_inner_tokens,
    fit_domain_weights,
    fit_weights,
    token_features,
)
from hrkd_cli.events import Note
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.predict.tokenization import TokenizedExample
from hrkd_cli.training.tokenized_split import TokenizedSplit
from short_runs import run_distill
from tiny import make_dataset, make_texts

RANDOM = np.random.default_rng(0)


def example(*ids):
    return TokenizedExample(np.array(ids, dtype=np.int32), np.zeros(len(ids), dtype=np.int8))


def test_features_count_tokens_and_hashed_pairs():
    features = token_features([example(1, 4, 4, 2), example(3)], 6, 8).toarray()
    # A pair's column is 6 + (3 a + b) % 8: (1, 4) -> 13, (4, 4) -> 6, (4, 2) -> 12.
    assert features.tolist() == [
        [0, 0.5, 0.5, 0, 1, 0, 0.5, 0, 0, 0, 0, 0, 0.5, 0.5],
        [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ]


def random_rows(count, labels, seed):
    random = np.random.default_rng(seed)
    rows = [example(*random.integers(0, 6, size=random.integers(2, 9))) for _ in range(count)]
    return token_features(rows, 6, 8), random.integers(0, labels, size=count)


@pytest.mark.parametrize("labels", [2, 3])
def test_domains_with_other_labels_have_weights_of_their_own(labels):
    names = "abc"[:labels]
    heads = DomainHeads.build({"one": names, "two": "xy"})
    data = {"one": random_rows(30, labels, 1), "two": random_rows(20, 2, 2)}
    features, targets = ({domain: part[n] for domain, part in data.items()} for n in (0, 1))
    weights = fit_weights(features, targets, heads)
    documents = (np.vstack([rows.toarray() for rows in features.values()]) > 0).sum(axis=0)
    idf = 1 + np.log(51 / (1 + documents))
    expected = LogisticRegression(C=4.0, fit_intercept=False, tol=1e-6, max_iter=1000)
    expected.fit(features["one"].toarray() * idf, targets["one"])
    logits = features["one"] @ weights[:, list(heads.columns["one"])]
    exponentials = np.exp(logits)
    probabilities = expected.predict_proba(features["one"].toarray() * idf)
    np.testing.assert_allclose(exponentials / exponentials.sum(axis=1, keepdims=True), probabilities, atol=2e-3)


def test_domains_with_the_same_labels_share_a_part_of_their_weights():
    heads = DomainHeads.build({"one": "ab", "two": "ab"})
    rows, targets = random_rows(30, 2, 3)
    empty = (token_features([example(0)], 6, 8), np.array([0]))
    weights = fit_weights({"one": rows, "two": empty[0]}, {"one": targets, "two": empty[1]}, heads)
    # The second domain has learned from the first.
    own, other = weights[:, list(heads.columns["one"])], weights[:, list(heads.columns["two"])]
    assert np.corrcoef(own[:, 1], other[:, 1])[0, 1] > 0.9


def test_a_domain_without_rows_gets_the_weights_that_all_domains_share():
    heads = DomainHeads.build({"one": "ab", "three": "ab", "two": "ab"})
    parts = {"one": random_rows(30, 2, 3), "two": random_rows(30, 2, 5)}
    features, targets = ({domain: part[n] for domain, part in parts.items()} for n in (0, 1))
    weights = fit_weights(features, targets, heads)
    one, new, two = (weights[:, list(columns)] for columns in heads.columns.values())
    # With equal regularization, the common weights are the sum of the domains' own ones: one + two = 2 new + new.
    np.testing.assert_allclose(3 * new, one + two, atol=2e-3)
    assert np.abs(new).max() > 0.1


def test_a_label_without_train_rows_gets_no_weights():
    heads = DomainHeads.build({"one": "abc", "two": "xy"})
    rows, targets = random_rows(30, 2, 4)
    single = (token_features([example(0)], 6, 8), np.array([0]))
    weights = fit_weights({"one": rows, "two": single[0]}, {"one": targets, "two": single[1]}, heads)
    assert not weights[:, heads.columns["one"][2]].any()
    assert not weights[:, list(heads.columns["two"])].any()


def test_the_share_is_the_ratio_of_the_scales_of_highest_likelihood():
    labels = RANDOM.integers(0, 2, size=4000)
    evidence = RANDOM.normal(size=(2, 4000)) + (2 * labels - 1) * np.array([[1.0], [0.5]])
    # Log odds of a normal with mean +-m and variance 1 are 2 m x. The first model is twice too sure.
    logits, wide = (np.stack([-half, half], axis=1) for half in (2 * evidence[0], evidence[1]))
    share = choose_share({"d": logits}, {"d": wide}, {"d": labels})
    assert share == pytest.approx(1.0, abs=0.1)  # log odds: 2 x 1.0 x e0 + 2 x 0.5 x e1, here 4 e0 and 2 e1


def test_a_branch_that_knows_nothing_gets_no_share():
    labels = RANDOM.integers(0, 2, size=500)
    logits = np.stack([1.0 - labels, labels], axis=1) + RANDOM.normal(size=(500, 2))
    assert choose_share({"d": logits}, {"d": RANDOM.normal(size=(500, 2))}, {"d": labels}) == 0


@pytest.mark.parametrize(
    ("lost", "won", "expected"),
    [
        (4, 0, False),
        (5, 0, True),
        (5, 1, False),
        (8, 1, True),
        (1, 8, False),
        (0, 0, False),
    ],  # 1/16, 1/32, 7/64, 10/512
)
def test_accuracy_is_lowered_if_significantly_more_rows_become_wrong(lost, won, expected):
    heads = DomainHeads.build({"a": ("bad", "good"), "b": ("bad", "good")})

    def logits(*right):  # of label 1, in the domain's own columns
        rows = np.array(right, dtype=np.float32)[:, None]
        return np.hstack([1 - rows, rows, 1 - rows, rows])

    before = {"a": logits(*[1] * lost, *[0] * won, 1), "b": logits(0, 1)}
    after = {"a": logits(*[0] * lost, *[1] * won, 1), "b": logits(0, 1)}
    labels = {"a": np.ones(lost + won + 1, dtype=int), "b": np.ones(2, dtype=int)}
    assert wide_fit.lowers_accuracy(before, after, labels, heads) == expected


def test_domain_weights_are_evidence_of_the_domain_and_of_no_label():
    heads = DomainHeads.build({"one": "abc", "two": "xy"})
    rows = {"one": [example(4, n % 4, 5) for n in range(30)], "two": [example(4, n % 4, 3) for n in range(30)]}
    features = {domain: token_features(own, 6, 8) for domain, own in rows.items()}
    nothing = {domain: np.zeros((30, 5)) for domain in rows}
    weights = fit_domain_weights(features, features, nothing, heads)
    for columns in heads.columns.values():
        assert (weights[:, list(columns)] == weights[:, [columns[0]]]).all()
    for sign, domain in ((1, "one"), (-1, "two")):
        logits = features[domain] @ weights
        assert (sign * (logits[:, 0] - logits[:, 4]) > 0).all()
    # A student that knows the domains already needs no evidence.
    sure = {
        domain: np.tile(np.repeat([30.0 * (domain == "one"), 30.0 * (domain == "two")], [3, 2]), (30, 1))
        for domain in rows
    }
    assert not fit_domain_weights(features, features, sure, heads).any()


def test_domain_weights_do_not_depend_on_how_frequent_a_domain_is():
    """Texts that are equally likely in both domains are evidence of neither, even if one has more rows."""
    heads = DomainHeads.build({"one": "ab", "two": "xy"})
    kinds = [example(4, 5), example(4, 3), example(4, 1)]  # the first is typical of one, the second of two
    rows = {"one": [*[kinds[0]] * 40, *[kinds[2]] * 40], "two": [*[kinds[1]] * 10, *[kinds[2]] * 10]}
    features = {domain: token_features(own, 6, 8) for domain, own in rows.items()}
    nothing = {domain: np.zeros((len(own), 4)) for domain, own in rows.items()}
    logits = token_features(kinds, 6, 8) @ fit_domain_weights(features, features, nothing, heads)
    odds = logits[:, 0] - logits[:, 2]
    assert odds[0] > 1 > -1 > odds[1]
    assert abs(odds[2]) < 0.2


def test_truncation_must_keep_the_first_tokens_and_the_last():
    def split(*examples):
        return TokenizedSplit(None, {"d": list(examples)}, {"d": np.zeros(len(examples), dtype=np.int64)})

    whole = split(example(1, 7, 8, 9, 2), example(1, 7, 2))
    assert drops_inner_tokens(split(example(1, 7, 2), example(1, 7, 2)), whole)
    assert not drops_inner_tokens(split(example(1, 7, 8), example(1, 7, 2)), whole)
    assert not drops_inner_tokens(split(example(1, 9, 2), example(1, 7, 2)), whole)


@pytest.fixture
def late_words():
    """Texts whose label words come after the 8 tokens that the encoder reads."""
    dataset = make_dataset(train=96, dev=64, test=64)
    for splits in dataset.rows.values():
        for name, rows in splits.items():
            texts = ["the box it was my thing for " + text for text in rows.texts]
            splits[name] = TextRows(texts, None, rows.labels)
    return dataset


@pytest.fixture
def notes():
    return []


def distill_with_branch(teacher, dataset, out, notes, **options):
    result, events = run_distill(teacher, dataset, out, max_length=8, allow_weak_teacher=True, **options)
    notes += [event.text for event in events if isinstance(event, Note)]
    return result


def test_a_branch_that_helps_is_saved_and_scored(tmp_path, teacher, late_words, notes):
    result = distill_with_branch(teacher, late_words, tmp_path / "s", notes)
    assert result.dev["average"]["accuracy"] > 0.9
    assert [text for text in notes if text.startswith("wide branch added: weights for 64 tokens")]
    stored = json.loads((tmp_path / "s" / "hrkd.json").read_text())
    assert stored["results"]["best"]["dev"] == result.dev
    hrkd = json.loads((tmp_path / "s" / "config.json").read_text())["hrkd"]
    assert (hrkd["max_length"], hrkd["encoder_length"]) == (64, 8)
    card = (tmp_path / "s" / "README.md").read_text()
    assert "Pass it `truncation=True, max_length=8`." in card
    assert "Texts are truncated to 64 tokens, of which the encoder reads the first 8." in card
    rows = late_words.split("books", "dev")
    predicted = Predictor(tmp_path / "s").predict(rows.texts, domain="books")
    accuracy = np.mean([one.label == label for one, label in zip(predicted, rows.labels, strict=True)])
    assert accuracy == result.dev["domains"]["books"]["accuracy"]


def test_a_branch_keeps_the_domain_posterior(tmp_path, teacher, late_words, notes):
    """Words of the domain come after the tokens that the encoder reads, as those of the label do."""
    words = {"books": " part one part one", "music": " very quite very quite"}
    for domain, splits in late_words.rows.items():
        for name, rows in splits.items():
            splits[name] = TextRows([text + words[domain] for text in rows.texts], None, rows.labels)
    likelihood = {}
    for name, options in {"with": {}, "without": {"wide": False}, "untrained": {"domain_weight": 0}}.items():
        distill_with_branch(teacher, late_words, tmp_path / name, notes, **options)
        predictor, total = Predictor(tmp_path / name), 0.0
        for domain, own in {"books": slice(0, 2), "music": slice(2, 4)}.items():
            logits = predictor.logits(late_words.split(domain, "dev").texts).astype(np.float64)
            odds = np.exp(logits)
            total += np.log(odds[:, own].sum(axis=1) / odds.sum(axis=1)).mean() / 2
        likelihood[name] = total
    assert likelihood["without"] == pytest.approx(np.log(1 / 2), abs=0.1)
    assert likelihood["with"] > -0.3
    assert likelihood["untrained"] < likelihood["with"]


def test_a_branch_tells_a_domain_without_labels_from_the_others(tmp_path, teacher, late_words, notes, monkeypatch):
    """Words of the domain come after the tokens that the encoder reads, as those of the label do."""
    words = {"books": " part one part one", "music": " very quite very quite", "garden": " had we had we"}
    dev = {}
    for domain, splits in late_words.rows.items():
        for name, rows in splits.items():
            splits[name] = TextRows([text + words[domain] for text in rows.texts], None, rows.labels)
        dev[domain] = splits["dev"].texts
    texts = [f"the box it was my thing for {text} {words['garden']}" for text in make_texts(160, 9)[0]]
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "garden.txt").write_text("\n".join(texts[:120]), encoding="utf-8")
    rows, fit = {}, wide_fit.fit_domain_weights

    def count_rows(features, *rest):
        rows.update({domain: matrix.shape[0] for domain, matrix in features.items()})
        return fit(features, *rest)

    monkeypatch.setattr(wide_fit, "fit_domain_weights", count_rows)
    options = {"unlabelled": tmp_path / "texts", "new_domains": "garden"}
    distill_with_branch(teacher, late_words, tmp_path / "s", notes, **options)
    assert [text for text in notes if text.startswith("wide branch added")]
    assert rows == {"books": 96, "music": 96, "garden": 96}  # of its 120 texts, as many as the others have
    for domain, own in {**dev, "garden": texts[120:]}.items():
        found = [one.domain for one in Predictor(tmp_path / "s").predict(own, domain="auto")]
        assert found.count(domain) / len(found) > 0.9, domain


@pytest.mark.parametrize("options", [{"wide": False}, {"truncate": "tail"}, {"recipe": "paper"}])
def test_there_is_no_branch_where_it_is_not_wanted_or_possible(tmp_path, teacher, late_words, notes, options):
    distill_with_branch(teacher, late_words, tmp_path / "s", notes, **options)
    assert not [text for text in notes if "wide branch" in text]
    assert not (tmp_path / "s" / "model_wide.safetensors").exists()
    assert "encoder_length" not in json.loads((tmp_path / "s" / "config.json").read_text())["hrkd"]
    card = (tmp_path / "s" / "README.md").read_text()
    assert "max_length=" not in card
    assert "of which the encoder reads" not in card


def test_a_branch_that_does_not_help_is_left_out(tmp_path, teacher, dataset, notes, monkeypatch):
    monkeypatch.setattr(wide_fit, "choose_share", lambda *_: 0.0)
    distill_with_branch(teacher, dataset, tmp_path / "s", notes)
    assert "no wide branch: it does not improve the dev predictions" in notes
    assert not (tmp_path / "s" / "model_wide.safetensors").exists()
    assert Predictor(tmp_path / "s").spec.max_length == 8


def test_a_branch_that_lowers_dev_accuracy_is_left_out(tmp_path, teacher, late_words, notes, monkeypatch):
    monkeypatch.setattr(wide_fit, "choose_share", lambda *_: -5.0)
    distill_with_branch(teacher, late_words, tmp_path / "s", notes)
    assert [text for text in notes if text.startswith("no wide branch: it lowers dev accuracy (")]
    assert not (tmp_path / "s" / "model_wide.safetensors").exists()


def test_an_extended_student_gets_no_branch_that_lowers_dev_accuracy(tmp_path, teacher, late_words, notes, monkeypatch):
    monkeypatch.setattr(wide_fit, "choose_share", lambda *_: -5.0)
    monkeypatch.setattr(DistillSetup, "_kept_columns", lambda _: wide_fit.KeptColumns({0: 0}, None))
    distill_with_branch(teacher, late_words, tmp_path / "s", notes)
    assert [text for text in notes if text.startswith("no wide branch: it lowers dev accuracy (")]
