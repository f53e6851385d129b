"""The linear probe: heads equal scikit-learn's, and the better pooling is chosen on dev."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from hrkd_cli.data.dataset import Dataset, TextRows
from hrkd_cli.events import Note
from hrkd_cli.models.loading import load_classifier, load_tokenizer, output_layer
from hrkd_cli.models.mean_pooling import has_pooling_layer
from hrkd_cli.models.model_tokenizer import ModelTokenizer
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.settings import DistillSettings, TrainingSettings
from hrkd_cli.teaching import linear_probe
from hrkd_cli.teaching.linear_probe import REGULARIZATION, fit_logistic_regression, start_from_probe
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.dev_scoring import predict_split
from hrkd_cli.training.tokenized_split import tokenize_split
from short_runs import read_metrics, run_teach
from tiny import make_dataset, write_encoder


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a classifier from a probe on a dataset; it returns all that went into it."""

    def start(dataset, architecture="bert"):
        folder = write_encoder(tmp_path / "encoder", architecture)
        torch.manual_seed(0)
        heads, events = DomainHeads.build(dataset.labels), []
        classifier = load_classifier(folder, heads)
        tokenizer = ModelTokenizer(classifier, load_tokenizer(folder), 16)
        train, dev = (tokenize_split(dataset, split, tokenizer) for split in ("train", "dev"))
        context = TrainContext.start(TrainingSettings(precision="fp32"), events.append)
        decisions = {}
        model = start_from_probe(classifier, train, dev, heads, context, decisions)
        resumed = start_from_probe(classifier, train, dev, heads, context, decisions)
        assert has_pooling_layer(resumed.config) == has_pooling_layer(model.config) == decisions["mean_pooling"]
        return model, train, dev, context, [event.text for event in events if isinstance(event, Note)]

    return start


def head_inputs(model, split, context):
    """Return the inputs of a classifier's output layer by domain."""
    seen = []
    _, layer = output_layer(model)
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numpy()))
    found = {}
    for domain, examples in split.examples.items():
        for example in examples:
            with torch.no_grad():
                model(**split.tokenizer.collate([example], context.device).inputs)
        found[domain], seen[:] = np.concatenate(seen).astype(np.float64), []
    hook.remove()
    return found


@pytest.mark.parametrize("labels", [("bad", "good"), ("bad", "good", "odd")])
def test_the_heads_are_logistic_regressions_of_the_frozen_encoder(start, labels):
    dataset = make_dataset()
    if len(labels) == 3:
        rows = {
            domain: {
                split: TextRows(part.texts, None, [labels[n % 3] for n in range(len(part))])
                for split, part in parts.items()
            }
            for domain, parts in dataset.rows.items()
        }
        dataset = Dataset.from_rows(rows, has_pairs=False)
    model, train, dev, context, _ = start(dataset)
    inputs, dev_inputs = (head_inputs(model, split, context) for split in (train, dev))
    scale = np.sqrt(np.mean([np.square(rows).mean() for rows in inputs.values()]))
    logits = predict_split(model, dev, context)
    for number, (domain, rows) in enumerate(inputs.items()):
        # Of two classes, scikit-learn regularizes one weight instead of two.
        factor = 2 if len(labels) == 2 else 1
        regression = LogisticRegression(C=factor * REGULARIZATION / rows.shape[1], tol=1e-8, max_iter=1000)
        regression.fit(rows / scale, train.labels[domain])
        own = logits[domain][:, number * len(labels) : (number + 1) * len(labels)]
        expected = regression.predict_log_proba(dev_inputs[domain] / scale)
        actual = own - np.log(np.exp(own).sum(axis=1, keepdims=True))
        np.testing.assert_allclose(actual, expected, atol=1e-4)


def test_a_class_weight_counts_like_more_rows():
    rows, labels = torch.randn(30, 4, generator=torch.Generator().manual_seed(0)).double(), torch.arange(30) % 3
    weighted = fit_logistic_regression(rows, labels, 3, 1.0, torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64))
    twice = labels == 1
    repeated = fit_logistic_regression(torch.cat([rows, rows[twice]]), torch.cat([labels, labels[twice]]), 3, 1.0)
    for own, other in zip(weighted, repeated, strict=True):
        torch.testing.assert_close(own, other, atol=1e-5, rtol=0)


def test_the_heads_also_start_with_a_logistic_regression_of_the_domain(start):
    dataset = make_dataset(train=96, dev=64)
    for domain, word in {"books": "part", "music": "box"}.items():
        for split, rows in dataset.rows[domain].items():
            dataset.rows[domain][split] = TextRows([f"{text} {word}" for text in rows.texts], None, rows.labels)
    model, train, _, context, _ = start(dataset)
    inputs = head_inputs(model, train, context)
    scale = np.sqrt(np.mean([np.square(rows).mean() for rows in inputs.values()]))
    regression = LogisticRegression(C=2 * REGULARIZATION / inputs["books"].shape[1], tol=1e-8, max_iter=1000)
    rows = np.concatenate([*inputs.values()]) / scale
    regression.fit(rows, np.repeat([0, 1], [len(own) for own in inputs.values()]))
    _, layer = output_layer(model)
    # Weights of a regression with two labels cancel out in their mean, so that the domain's remain.
    books, music = layer.weight.detach().double().reshape(2, 2, -1).mean(dim=1).numpy() * scale
    np.testing.assert_allclose(music - books, regression.coef_[0], atol=1e-4)
    assert regression.score(rows, np.repeat([0, 1], [len(own) for own in inputs.values()])) > 0.8


def test_the_mean_is_chosen_where_the_first_token_says_nothing(start):
    # In an untrained encoder the first token hardly depends on the words, and their mean does.
    model, _, _, _, notes = start(make_dataset(train=96, dev=48))
    assert has_pooling_layer(model.config)
    assert notes[-1].endswith("with the mean: the mean is used")


def test_a_mean_that_is_not_clearly_better_is_not_chosen(start, monkeypatch):
    seen = []
    monkeypatch.setattr(linear_probe, "is_more_accurate", lambda *correct: seen.append(correct))
    model, _, dev, _, notes = start(make_dataset(train=96, dev=48))
    assert not has_pooling_layer(model.config)
    assert notes[-1].endswith("with the mean: the first token is used")
    assert [len(one) for one in seen[0]] == [dev.count, dev.count]


def test_a_label_without_rows_gets_the_smallest_bias(start):
    dataset = make_dataset()
    labels = dict.fromkeys(dataset.domains, ("bad", "good", "unseen"))
    dataset = Dataset(labels, False, "made-up", None, dataset.rows)
    model, _, dev, context, _ = start(dataset, "distilbert")
    _, layer = output_layer(model)
    assert torch.equal(layer.bias[2], layer.bias[:2].min())
    torch.testing.assert_close(layer.weight[2], layer.weight[:2].mean(dim=0))  # of the label: 0
    assert not (predict_split(model, dev, context)["books"][:, :3].argmax(axis=1) == 2).all()


def test_architectures_without_a_pooling_layer_start_from_the_probe_too(start):
    model, _, _, _, notes = start(make_dataset(), "distilbert")
    assert not has_pooling_layer(model.config)
    assert notes[-1].startswith("heads start from a linear probe, ")
    assert "mean" not in notes[-1]


def test_without_a_probe_the_heads_are_random(tmp_path, dataset):
    encoder, notes = write_encoder(tmp_path / "encoder"), []
    run_teach(encoder, dataset, tmp_path / "t", notes.append, epochs=1, probe=False)
    assert not any(isinstance(event, Note) and "linear probe" in event.text for event in notes)
    loss = read_metrics(tmp_path / "t")[0]["losses"]["label"]
    assert loss == pytest.approx(len(dataset.domains) * np.log(2), abs=0.01)  # of two labels, without a preference


def test_the_papers_recipe_has_no_probe():
    assert DistillSettings.from_options(recipe="paper").probe is False
    assert DistillSettings.from_options().probe is True
