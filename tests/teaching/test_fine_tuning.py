"""Fine-tuning: the loss equals the domains' cross-entropies, computed one by one."""

import pytest
import torch

from hrkd_cli.models.loading import load_classifier, load_tokenizer
from hrkd_cli.models.model_tokenizer import ModelTokenizer
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.settings import TrainingSettings
from hrkd_cli.teaching.fine_tuning import FineTuningObjective
from hrkd_cli.training import collator
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.tokenized_split import tokenize_split


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
