"""Which losses a run computes, on which layers, and what they require."""

from types import SimpleNamespace

from hrkd_cli.distillation.loss_config import LossConfig
from hrkd_cli.method import Loss, Requirement
from hrkd_cli.settings import DistillSettings

TEACHER, STUDENT = SimpleNamespace(num_hidden_layers=6, hidden_size=32), SimpleNamespace(num_hidden_layers=2)
DOMAIN_WEIGHT = DistillSettings().domain_weight


def loss_config(max_length=128, **options):
    return LossConfig.from_settings(DistillSettings(**options).resolve(), TEACHER, STUDENT, max_length)


def weights(config):
    return {loss.name: weight for loss, weight in config.weights.items()}


def test_layers_of_the_teacher_are_matched_with_the_students():
    config = loss_config()
    assert config.matched_layers == (3, 6)
    assert config.teacher_width == 32
    assert weights(config) == {"hidden": 1.0, "attention": 1.0, "prediction": 1.0, "domain": DOMAIN_WEIGHT}
    assert config.requires(Requirement.QUERIES_KEYS)
    assert not config.requires(Requirement.LABELS)


def test_logits_need_no_layers_and_labels_no_teacher():
    config = loss_config(method="logits", label_weight=0.5)
    assert config.matched_layers == ()
    assert weights(config) == {"prediction": 1.0, "label": 0.5, "domain": DOMAIN_WEIGHT}
    assert not config.requires(Requirement.HIDDEN_STATES, Requirement.QUERIES_KEYS)
    config = loss_config(method="labels")
    assert weights(config) == {"label": 1.0, "domain": DOMAIN_WEIGHT}
    assert not config.requires(Requirement.HIDDEN_STATES, Requirement.QUERIES_KEYS, Requirement.LOGITS)


def test_what_a_loss_requires_decides_whether_a_method_computes_it(monkeypatch):
    for requirement, labels_only, half in [
        (Requirement.HIDDEN_STATES, None, 0.25),
        (Requirement.QUERIES_KEYS, None, 0.25),
        (Requirement.LOGITS, None, 0.5),
        (Requirement.LABELS, 0.5, 0.5),
        (Requirement.OLD_DOMAINS, None, None),
    ]:
        loss = Loss("label", frozenset({requirement}), lambda inputs: inputs.weights.per_row)
        monkeypatch.setattr("hrkd_cli.distillation.loss_config.LOSSES", (loss,))
        assert weights(loss_config(method="labels", label_weight=0.5)).get("label") == labels_only
        assert weights(loss_config(hidden_weight=0.5, label_weight=0.5)).get("label") == half


def test_rows_are_padded_to_max_length_for_released_means_only():
    assert loss_config(max_length=16).pad_to is None
    assert loss_config(max_length=16, means="released").pad_to == 16


def test_the_recipe_of_the_paper_has_no_domain_loss():
    config = LossConfig.from_settings(DistillSettings.from_options(recipe="paper").resolve(), TEACHER, STUDENT, 128)
    assert weights(config) == {"hidden": 1.0, "attention": 1.0, "prediction": 1.0}
    assert not config.requires(Requirement.DOMAINS)
