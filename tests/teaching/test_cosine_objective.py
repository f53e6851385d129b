"""Training on cosine similarities: the loss by hand, fitted heads, and when it is chosen."""

import copy

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from hrkd_cli.data.dataset import Dataset, TextRows
from hrkd_cli.events import Note
from hrkd_cli.models.loading import load_classifier, load_tokenizer, output_layer
from hrkd_cli.models.model_tokenizer import ModelTokenizer
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.settings import DistillSettings, TrainingSettings
from hrkd_cli.teaching import teach as teach_module
from hrkd_cli.teaching.cosine_objective import TEMPERATURE, CosineObjective
from hrkd_cli.teaching.linear_probe import fit_heads
from hrkd_cli.training import collator
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.tokenized_split import tokenize_split
from short_runs import read_metrics, run_teach
from tiny import make_dataset

LABELS = {"books": ("bad", "good"), "music": ("good", "great")}  # "good" means the same in both
NAMES = ("bad", "good", "great")


@pytest.fixture
def two_label_sets():
    """Return data whose domains share one of their labels."""
    dataset = make_dataset()
    rows = {
        split: TextRows(part.texts, None, [{"bad": "good", "good": "great"}[label] for label in part.labels])
        for split, part in dataset.rows["music"].items()
    }
    return Dataset(LABELS, False, "made-up", None, {**dataset.rows, "music": rows})


@pytest.fixture
def make_objective(encoder, two_label_sets):
    """Return a function that makes an objective for an untrained classifier."""

    def make(**options):
        heads, settings = DomainHeads.build(LABELS), TrainingSettings(precision="fp32", **options)
        torch.manual_seed(0)
        model = load_classifier(encoder, heads)
        rows = tokenize_split(two_label_sets, "train", ModelTokenizer(model, load_tokenizer(encoder), 16))
        return CosineObjective(model, rows, heads, settings, TrainContext.start(settings))

    return make


def features_of(objective, domain, indices):
    """Return the inputs of the output layer, each row alone."""
    seen, (model, _) = [], objective.modules
    hook = output_layer(model)[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    split = objective.collator.split
    for index in indices:
        model(**split.tokenizer.collate([split.examples[domain][index]], torch.device("cpu")).inputs)
    hook.remove()
    return torch.cat(seen)


@pytest.mark.parametrize("split_by_length", [False, True])
@pytest.mark.parametrize("class_weights", ["none", "balanced"])
def test_the_loss_is_the_cross_entropy_of_similarities_to_the_vectors_of_all_labels(
    make_objective, two_label_sets, monkeypatch, split_by_length, class_weights
):
    if split_by_length:
        monkeypatch.setattr(collator, "MIN_SAVED_TOKENS", 0)
        monkeypatch.setattr(collator, "MIN_SAVED_FRACTION", 0)
    objective = make_objective(class_weights=class_weights)
    torch.nn.init.normal_(objective.label_vectors.weight)  # at first, those of a tiny encoder are nearly equal
    if class_weights == "balanced":
        objective.class_weights = torch.tensor([[0.25, 4.0], [1.0, 3.0]])
    expected = 0.0
    with torch.no_grad():
        batch = objective.collator({"books": [0, 1, 2], "music": [3]})
        assert (len(batch) > 1) == split_by_length
        loss = objective.loss(batch)
        for number, (domain, indices) in enumerate((("books", [0, 1, 2]), ("music", [3]))):
            for index, features in zip(indices, features_of(objective, domain, indices), strict=True):
                label = two_label_sets.split(domain, "train").labels[index]
                cosines = F.cosine_similarity(features, objective.label_vectors.weight)
                row_loss = -(cosines / TEMPERATURE).log_softmax(dim=0)[NAMES.index(label)].item()
                weight = 1.0 if objective.class_weights is None else objective.class_weights[number]
                own = weight if class_weights == "none" else weight[LABELS[domain].index(label)].item()
                expected += own * row_loss / len(indices)
    assert loss.total.item() == pytest.approx(expected, rel=1e-4)
    assert loss.by_kind == {}


def test_label_vectors_start_from_the_mean_direction_of_their_rows(make_objective, two_label_sets):
    objective = make_objective()
    directions = {name: [] for name in NAMES}
    with torch.no_grad():
        for domain in LABELS:
            labels = two_label_sets.split(domain, "train").labels
            for label, row in zip(labels, features_of(objective, domain, range(len(labels))), strict=True):
                directions[label].append(F.normalize(row, dim=0))
        expected = F.normalize(torch.stack([torch.stack(rows).mean(dim=0) for rows in directions.values()]))
        torch.testing.assert_close(objective.label_vectors.weight, expected, atol=1e-5, rtol=0)


def test_the_encoder_and_the_label_vectors_are_trained_and_the_output_layer_is_not(make_objective):
    objective = make_objective()
    objective.backward(objective.collator({"books": [0, 1], "music": [0, 1]}))
    model, vectors = objective.modules
    assert vectors.weight.grad.abs().max() > 0
    assert model.base_model.encoder.layer[0].output.dense.weight.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in output_layer(model)[1].parameters())


@pytest.mark.parametrize("class_weights", [None, torch.tensor([[0.25, 4.0], [1.0, 3.0]])])
def test_the_heads_are_fitted_before_a_dev_score(make_objective, class_weights):
    objective = make_objective()
    objective.class_weights = class_weights
    model, _ = objective.modules
    expected = copy.deepcopy(model)
    fit_heads(expected, objective.collator.split, objective.heads, objective.collator.context, class_weights)
    objective.before_scoring()
    for own, other in zip(output_layer(model)[1].parameters(), output_layer(expected)[1].parameters(), strict=True):
        assert torch.equal(own, other)


def test_a_teacher_has_the_heads_fitted_to_its_own_encoder(tmp_path, encoder, dataset):
    run_teach(encoder, dataset, tmp_path / "t", epochs=1, precision="fp32")
    heads, context = DomainHeads.build(dataset.labels), TrainContext.start(TrainingSettings(precision="fp32"))
    model = load_classifier(tmp_path / "t", None)
    saved = {name: own.clone() for name, own in model.state_dict().items()}
    split = tokenize_split(dataset, "train", ModelTokenizer(model, load_tokenizer(tmp_path / "t"), 16))
    fit_heads(model, split, heads, context)
    for name, own in model.state_dict().items():
        torch.testing.assert_close(own, saved[name], msg=name)
    assert "label_vectors" not in "".join(load_file(tmp_path / "t" / "model.safetensors"))


@pytest.mark.parametrize(
    ("rows", "options", "expected"),
    [
        (96, {}, True),
        (95, {}, False),
        (96, {"probe": False}, False),
        (96, {"cosine_loss": False}, False),
        (95, {"cosine_loss": True}, True),
        (95, {"cosine_loss": True, "probe": False}, True),
    ],
)
def test_few_rows_are_learned_from_similarities(tmp_path, monkeypatch, encoder, dataset, rows, options, expected):
    monkeypatch.setattr(teach_module, "FEW_ROWS", rows)  # the data has 96
    events = []
    run_teach(encoder, dataset, tmp_path / "t", events.append, epochs=1, **options)
    chosen = "few rows (96): trained on similarities, heads fitted (--cosine-loss)"
    assert any(isinstance(event, Note) and event.text == chosen for event in events) == (options == {} and expected)
    assert ("domain" in read_metrics(tmp_path / "t")[0]["losses"]) != expected


def test_the_papers_recipe_is_trained_on_logits():
    assert DistillSettings.from_options(recipe="paper").cosine_loss is False
    assert DistillSettings.from_options().cosine_loss is None
