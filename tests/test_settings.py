"""Options that are refused: impossible values, and combinations that contradict each other."""

import pytest

from hrkd_cli.errors import UsageError
from hrkd_cli.settings import DistillSettings, TrainingSettings


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": 0}, "--epochs: 0 is not at least 1"),
        ({"learning_rate": 0}, "--learning-rate: 0 is not above 0"),
        ({"warmup": 2}, "--warmup: 2 is not at least 0 and at most 1"),
        ({"truncate": "often"}, "--truncate: 'often' is not one of head, tail, head-tail"),
    ],
)
def test_impossible_values_are_refused(options, words):
    with pytest.raises(UsageError, match=words):
        TrainingSettings(**options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "logits", "graph": "frozen"}, "--graph: --method logits has no domain graph"),
        ({"method": "tinybert", "hierarchy": True}, "--hierarchy: --method tinybert has no domain graph"),
        ({"graph": "uniform", "hierarchy": True}, "--hierarchy: --graph uniform does not use prototypes"),
        ({"hidden_weight": 0, "prediction_weight": 0}, "no loss is left"),
        ({"temperature": 0}, "--temperature: 0 is not above 0"),
        ({"held_back": 0.2}, "--held-back: it requires --graph learned"),
        ({"method": "labels", "unlabelled": "x"}, "--unlabelled: texts without labels need a loss"),
        ({"hierarchy": True}, "--hierarchy: --graph uniform does not use prototypes"),
        ({"graph": "learnt"}, "--graph: 'learnt' is not one of"),
        ({"hidden_weight": 0, "attention_weight": 2}, "--attention-weight: it requires a hidden-state loss; remove it"),
        ({"method": "logits", "hidden_weight": 5}, "--hidden-weight: it requires a hidden-state loss; remove it"),
        ({"method": "labels", "prediction_weight": 3}, "--prediction-weight: it requires a prediction loss; remove it"),
        ({"prediction_weight": 0, "temperature": 2}, "--temperature: it requires a prediction loss; remove it"),
        ({"extend": "student", "method": "labels", "prediction_weight": 3}, "--prediction-weight: it requires"),
        ({"method": "labels", "cache_teacher": "on"}, "--cache-teacher: it requires a loss that uses"),
        ({"method": "labels", "teacher_checkpoints": "average"}, "--teacher-checkpoints: it requires a loss that uses"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, words):
    with pytest.raises(UsageError, match=words):
        DistillSettings(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"hidden_weight": 0, "attention_weight": 0},
        {"method": "logits", "hidden_weight": 0, "temperature": 2},
        {"method": "labels", "cache_teacher": "off"},
        {"extend": "student", "method": "labels", "temperature": 2},
    ],
)
def test_what_is_off_and_the_temperature_of_a_retention_loss_are_accepted(options):
    assert DistillSettings(**options).extend == options.get("extend")


@pytest.mark.parametrize("share", [0, 1, -0.5, 2, float("nan")])
def test_an_impossible_share_of_unlabeled_rows_is_refused(share):
    with pytest.raises(UsageError, match=r"--unlabelled-share: .* is not above 0 and below 1"):
        DistillSettings(unlabelled_share=share)


@pytest.mark.parametrize("options", [{"method": "logits"}, {"method": "labels"}, {"hidden_weight": 0.0}])
def test_instance_weights_require_a_hidden_state_loss(options):
    with pytest.raises(UsageError, match="--instance-weights: it requires a hidden-state loss"):
        DistillSettings(instance_weights="meta-kd", **options)


def test_released_means_cannot_be_cached():
    for options in ({"means": "released"}, {"recipe": "paper"}):
        with pytest.raises(UsageError, match=r"--means released \(--recipe paper\) uses padding, which is not"):
            DistillSettings.from_options(cache_teacher="on", **options)


def test_a_recipe_sets_options_that_are_not_given():
    assert DistillSettings.from_options(recipe="paper").learning_rate == 5e-5
    assert DistillSettings.from_options(recipe="paper", graph="none").graph == "none"
    assert DistillSettings.from_options() == DistillSettings()


@pytest.mark.parametrize("options", [{"method": "logits"}, {"method": "tinybert"}, {"hidden_weight": 0.0}])
def test_a_recipe_leaves_out_what_the_given_options_rule_out(options):
    assert DistillSettings.from_options(recipe="paper", **options).learning_rate == 5e-5


def test_with_extend_a_recipe_leaves_the_student_as_it_is():
    settings = DistillSettings.from_options(recipe="paper", extend="student")
    assert (settings.student, settings.max_length, settings.method) == (None, None, "labels")
    with pytest.raises(UsageError, match="--new-domains: it excludes --extend; remove it"):
        DistillSettings.from_options(extend="student", new_domains="toys", unlabelled="texts")
