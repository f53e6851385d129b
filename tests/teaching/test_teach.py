"""The teach stage: its loss, its folder, and runs with the same seed."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from file_modes import unusual_modes
from hrkd_cli.errors import ModelError
from hrkd_cli.events import DevScored, Note, Progress, StageDone, StageStarted, StepDone
from hrkd_cli.models.loading import load_classifier, load_tokenizer
from hrkd_cli.models.model_tokenizer import ModelTokenizer
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.settings import TrainingSettings
from hrkd_cli.teaching.teach import FineTuningObjective, teach
from hrkd_cli.training import collator
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.tokenized_split import tokenize_split
from short_runs import first_step, run_teach
from tiny import ARCHITECTURES, make_dataset, write_encoder, write_raw


def test_a_teacher_learns_and_transformers_opens_its_folder(teacher, dataset):
    record = json.loads((teacher / "hrkd.json").read_text())
    assert record["results"]["best"]["dev"]["average"]["accuracy"] > 0.9
    assert record["options"]["epochs"] == {"value": 6, "from": "argument"}
    model = AutoModelForSequenceClassification.from_pretrained(teacher)
    assert model.config.id2label == {0: "books/bad", 1: "books/good", 2: "music/bad", 3: "music/good"}
    assert model.config.hrkd["domains"] == {"books": ["bad", "good"], "music": ["bad", "good"]}
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    inputs = tokenizer(["this thing was great lovely"], return_tensors="pt")
    assert model(**inputs).logits[0, :2].argmax() == 1
    assert not list(teacher.glob("*.partial")) + list(teacher.glob("weights-*"))


def test_a_damaged_tokenizer_is_an_error_before_the_data_is_prepared(tmp_path, encoder):
    damaged = shutil.copytree(encoder, tmp_path / "damaged")
    (damaged / "tokenizer.json").write_text('{"a":')
    raw = write_raw(tmp_path / "raw")
    with pytest.raises(ModelError, match="damaged: no tokenizer that transformers can open"):
        teach(damaged, data=raw)
    assert not Path("hrkd-out").exists()


def test_other_users_can_read_a_teacher(teacher):
    assert unusual_modes(teacher) == {}


def test_the_seed_decides_the_weights_of_a_teacher(tmp_path, encoder, dataset):
    weights = []
    for n, seed in enumerate((1, 1, 2)):
        run_teach(encoder, dataset, tmp_path / str(n), epochs=1, seed=seed)
        weights.append(load_file(tmp_path / str(n) / "model.safetensors"))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert any(not torch.equal(weights[0][name], weights[2][name]) for name in weights[0])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_can_be_fine_tuned_from_half_precision(tmp_path, architecture, dataset):
    encoder = write_encoder(tmp_path / "e", architecture, dtype=torch.float16)
    events = []
    result = run_teach(encoder, dataset, tmp_path / "t", events.append, epochs=1, learning_rate=1e-3)
    state = load_file(tmp_path / "t" / "model.safetensors")
    assert {t.dtype for t in state.values() if t.is_floating_point()} == {torch.float32}
    assert result.steps == 6
    kinds = [type(e) for e in events if not isinstance(e, Note | Progress)]
    assert (kinds[0], kinds[-1]) == (StageStarted, StageDone)
    assert (kinds.count(StepDone), kinds.count(DevScored)) == (6, 2)


@pytest.mark.parametrize(("split_by_length", "domain_weight"), [(False, 0.0), (True, 0.0), (True, 0.5)])
def test_the_loss_is_the_sum_of_the_domains_cross_entropies(
    encoder, dataset, monkeypatch, split_by_length, domain_weight
):
    heads = DomainHeads.build(dataset.labels)
    torch.manual_seed(0)
    model = load_classifier(encoder, heads)
    tokenizer = ModelTokenizer(model, load_tokenizer(encoder), 16)
    settings = TrainingSettings(domain_weight=domain_weight)
    rows, context = tokenize_split(dataset, "train", tokenizer), TrainContext.start(settings)
    objective = FineTuningObjective(model, rows, heads, settings, context)
    if split_by_length:
        monkeypatch.setattr(collator, "MIN_SAVED_TOKENS", 0)
        monkeypatch.setattr(collator, "MIN_SAVED_FRACTION", 0)
    with torch.no_grad():
        batch = objective.collator({"books": [0, 1, 2], "music": [3]})
        assert (len(batch) > 1) == split_by_length
        actual = objective.loss(batch)
        label_loss = domain_loss = 0.0
        for domain, indices, first in (("books", [0, 1, 2], 0), ("music", [3], 2)):
            rows = dataset.split(domain, "train")
            inputs = tokenizer.pretrained([rows.texts[i] for i in indices], padding=True, return_tensors="pt")
            labels = torch.tensor([("bad", "good").index(rows.labels[i]) for i in indices])
            logits = model(**inputs).logits
            own = slice(first, first + 2)
            label_loss += torch.nn.functional.cross_entropy(logits[:, own], labels).item()
            domain_loss += -logits.softmax(dim=1)[:, own].sum(dim=1).log().mean().item()
    assert actual.total.item() == pytest.approx(label_loss + domain_weight * domain_loss, rel=1e-5)
    by_kind = {name: term.item() for name, term in actual.by_kind.items()}
    expected = {"label": label_loss, "domain": domain_weight * domain_loss} if domain_weight else {}
    assert by_kind == pytest.approx(expected, rel=1e-5)


def test_class_weights_multiply_the_label_loss_of_each_row(encoder, dataset):
    heads, weights = DomainHeads.build(dataset.labels), torch.tensor([[0.25, 4.0], [1.0, 3.0]])
    torch.manual_seed(0)
    model = load_classifier(encoder, heads).eval()
    rows = tokenize_split(dataset, "train", ModelTokenizer(model, load_tokenizer(encoder), 16))
    settings = TrainingSettings(class_weights="balanced", domain_weight=0)
    context = TrainContext.start(settings)
    balanced = FineTuningObjective(model, rows, heads, settings, context)
    torch.testing.assert_close(balanced.class_weights, rows.class_weights(heads, settings.class_weights))
    balanced.class_weights = weights
    plain = FineTuningObjective(model, rows, heads, TrainingSettings(domain_weight=0), context)
    with torch.no_grad():
        for row in range(4):
            step = {"books": [row]}
            expected = weights[0, rows.labels["books"][row]] * plain.loss(plain.collator(step)).total
            torch.testing.assert_close(balanced.loss(balanced.collator(step)).total, expected)


@pytest.mark.parametrize(
    ("domains", "domain_weight"), [(("books", "music"), 0.5), (("books", "music"), 0), (("books",), 0.5)]
)
def test_a_teacher_of_several_domains_learns_their_posterior(tmp_path, encoder, domains, domain_weight):
    events = []
    dataset, expected = make_dataset(domains=domains), domain_weight > 0 and len(domains) > 1
    run_teach(encoder, dataset, tmp_path / "t", events.append, epochs=1, domain_weight=domain_weight)
    losses = {"total", "label", "domain"} if expected else {"total"}
    assert set(first_step(events).losses) == losses
    for config in (tmp_path / "t").rglob("config.json"):  # also those of the best step of a domain
        assert json.loads(config.read_text())["hrkd"].get("domain_posterior", False) == expected
