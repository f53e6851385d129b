"""Options that a run chooses itself (epochs, learning rate, text length, patience), and checks before training."""

from types import SimpleNamespace

import pytest

from hrkd_cli.data.dataset import Dataset, TextRows
from hrkd_cli.errors import DataError
from hrkd_cli.settings import DistillSettings, TrainingSettings
from hrkd_cli.training.plan import (
    DISTILL,
    TEACH,
    Budget,
    TrainingPlan,
    choose_epochs,
    choose_learning_rate,
    choose_max_length,
    token_limit,
)
from short_runs import run_teach
from tiny import make_dataset, tiny_config, tiny_tokenizer


def dataset_of(*lengths, pairs=None):
    """Return a dataset with one domain per list of lengths, in words."""
    rows = {}
    for number, own in enumerate(lengths):
        texts = [" ".join(["box"] * words) for words in own]
        second = [pairs] * len(texts) if pairs else None
        rows[f"d{number}"] = {"train": TextRows(texts, second, ["a", "b"] * (len(texts) // 2))}
    return Dataset.from_rows(rows, has_pairs=pairs is not None)


@pytest.mark.parametrize(
    ("layers", "width", "rate"),
    [
        (12, 768, 5e-5),
        (6, 768, 1e-4),
        (12, 384, 1e-4),
        (6, 384, 2e-4),
        (4, 312, 4e-4),
        (24, 1024, 2e-5),
        (2, 128, 5e-4),
    ],
)
def test_the_learning_rate_is_the_papers_for_bert_base_and_grows_as_models_shrink(layers, width, rate):
    assert choose_learning_rate(SimpleNamespace(num_hidden_layers=layers, hidden_size=width), TEACH) == rate


def test_a_stage_may_have_a_share_of_the_learning_rate():
    config = SimpleNamespace(num_hidden_layers=6, hidden_size=384)
    assert choose_learning_rate(config, Budget(epochs=1, steps=1, rate_share=0.25)) == 5e-5


@pytest.mark.parametrize(
    ("rows", "options", "budget", "epochs"),
    [
        (4000, {}, TEACH, 3),  # 250 steps per epoch of two domains' 16 rows: 3 epochs are 750 steps
        (960, {}, TEACH, 5),  # 60 steps per epoch
        (1600, {}, DISTILL, 10),
        (160, {}, DISTILL, 60),
        (960, {"batch_size": 32}, TEACH, 20),
        (960, {"batch_size": 4, "accumulate": 2}, TEACH, 5),
        (960, {"batch_size": "auto"}, TEACH, 5),
        (8, {}, TEACH, 300),  # an epoch is one step, however few rows it has
        (8, {"accumulate": 4}, TEACH, 1200),
    ],
)
def test_epochs_are_enough_for_the_budgets_steps(rows, options, budget, epochs):
    dataset = dataset_of([1] * (rows // 2), [1] * (rows // 2))
    assert choose_epochs(TrainingSettings(**options), budget, dataset) == epochs


def test_an_epoch_of_unequal_domains_covers_the_largest():
    dataset = dataset_of([1] * 480, [1] * 80)
    assert choose_epochs(TrainingSettings(), TEACH, dataset) == 5  # 60 steps per epoch


def test_the_length_covers_95_percent_of_each_domains_texts():
    # 100 texts of 140 words and 5 longer ones: [CLS] and [SEP] make 142, the next multiple of 8 is 144.
    long = [140] * 95 + [200] * 5
    assert choose_max_length(dataset_of([10] * 400, long), tiny_tokenizer(), 512) == 144


def test_the_length_covers_texts_of_a_source_that_alternates_short_and_long_ones():
    assert choose_max_length(dataset_of([10, 200] * 1000), tiny_tokenizer(), 512) == 208


@pytest.mark.parametrize(
    ("words", "limit", "length"), [(3, 512, 128), (400, 512, 256), (400, 200, 200), (3, 64, 64), (400, 10**30, 256)]
)
def test_the_length_stays_between_128_and_256_and_within_the_models_limit(words, limit, length):
    assert choose_max_length(dataset_of([words] * 10), tiny_tokenizer(), limit) == length


def test_a_model_without_position_table_and_limit_takes_512_tokens():
    model = SimpleNamespace(config=SimpleNamespace(to_dict=lambda: {"model_type": "xlnet"}))
    assert token_limit(model, SimpleNamespace(model_max_length=10**30)) == 512
    assert token_limit(model, SimpleNamespace(model_max_length=1024)) == 1024


def test_both_texts_of_a_pair_count():
    dataset = dataset_of([100] * 10, pairs=" ".join(["thing"] * 50))
    assert choose_max_length(dataset, tiny_tokenizer(), 512) == 160  # 100 + 50 words, 3 special tokens


def plan_of(**options):
    notes = []
    settings = DistillSettings(**options)
    dataset = dataset_of([3] * 800)
    plan = TrainingPlan.make(settings, DISTILL, dataset, tiny_config(), tiny_tokenizer(), 512, notes.append)
    return plan, [note.text for note in notes]


def test_a_plan_says_in_one_line_what_it_chose_and_why():
    plan, notes = plan_of()
    assert plan == TrainingPlan(epochs=10, learning_rate=5e-4, max_length=128, patience=10)
    assert notes == [
        "plan: at most 10 epochs, learning rate 0.0005 (2 layers of width 32), at most 128 tokens per text"
    ]


def test_texts_with_unknown_tokens_are_a_warning_with_their_share():
    texts = [" ".join(["box"] * 3)] * 90 + ["box \u2728"] * 10
    rows = {"d": {"train": TextRows(texts, None, ["a", "b"] * 50)}}
    dataset, tokenizer, notes = Dataset.from_rows(rows, has_pairs=False), tiny_tokenizer(), []
    options = {"epochs": 1, "learning_rate": 1.0, "max_length": 8}
    TrainingPlan.make(TrainingSettings(**options), TEACH, dataset, tiny_config(), tokenizer, 512, notes.append)
    assert [(note.text, note.warning) for note in notes] == [
        ("the tokenizer lacks characters: [UNK] in 10.0% of the texts of d", True)
    ]


def test_options_that_are_given_are_the_plan():
    given = {"epochs": 2, "learning_rate": 1e-3, "max_length": 40, "patience": 4}
    plan, notes = plan_of(**given)
    assert plan == TrainingPlan(**given)
    assert notes == []
    assert plan_of(epochs=2)[0].patience is None
    assert plan_of(patience=3)[0].patience == 3


def test_a_domain_without_dev_rows_or_with_one_label_is_refused(tmp_path, encoder):
    whole = make_dataset()
    no_dev = {"books": whole.rows["books"], "music": {"train": whole.rows["music"]["train"]}}
    data = Dataset(whole.labels, False, "x", None, no_dev)
    with pytest.raises(DataError, match="domain 'music' has no dev rows"):
        run_teach(encoder, data, tmp_path / "t")
    one_label = Dataset({**whole.labels, "music": ("good",)}, False, "x", None, whole.rows)
    with pytest.raises(DataError, match="domain 'music' has one label only"):
        run_teach(encoder, one_label, tmp_path / "t")
