"""Distillation with unlabeled texts in addition to the labeled rows."""

import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from hrkd_cli.choices import Precision
from hrkd_cli.command_settings import EvalSettings
from hrkd_cli.data.unlabeled import read_unlabeled
from hrkd_cli.distillation.distill import distill
from hrkd_cli.distillation.setup import DistillSetup
from hrkd_cli.errors import DataError, OutputError, TrainingError
from hrkd_cli.evaluation.evaluate import evaluate_on
from hrkd_cli.events import Note, StageStarted, ignore
from hrkd_cli.models.precision import PrecisionPolicy
from hrkd_cli.settings import DistillSettings
from hrkd_cli.training.checkpoint import Checkpointer
from hrkd_cli.training.collator import Collator
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.process_group import SINGLE_PROCESS
from hrkd_cli.training.tokenized_split import tokenize_split
from hrkd_cli.training.trainer import Trainer
from interrupted import StopError, stop_at
from tiny import make_dataset, make_texts, write_raw

OPTIONS = {"epochs": 2, "batch_size": 4, "max_length": 16, "learning_rate": 1e-3, "student": "2x32"}


@pytest.fixture
def folder(tmp_path):
    """A folder with texts of one of the two domains, and of another domain."""
    (tmp_path / "texts").mkdir()
    texts = [f"{text} {n}" for n, text in enumerate(make_texts(40, 99)[0])]
    (tmp_path / "texts" / "books.txt").write_text("\n".join(texts), encoding="utf-8")
    (tmp_path / "texts" / "garden.txt").write_text("a garden\n", encoding="utf-8")
    return tmp_path / "texts"


def settings(**options):
    return DistillSettings(**{**OPTIONS, **options}).resolve()


def run(teacher, dataset, out, *, on_event=ignore, resume=False, **options):
    return distill(teacher, data=dataset, out=out, on_event=on_event, resume=resume, **{**OPTIONS, **options})


def set_up(teacher, dataset, tmp_path, on_event=ignore, **options):
    """Return the setup, the objective and the trainer of a distillation."""
    context = TrainContext(PrecisionPolicy(Precision.FP32, torch.device("cpu")), on_event=on_event)
    run_settings = settings(**options)
    setup = DistillSetup.open(
        teacher, dataset, run_settings, tokenizer=None,
        unlabeled=run_settings.unlabelled and read_unlabeled(run_settings.unlabelled, dataset, on_event=ignore),
        name="t", context=context,
    )  # fmt: skip
    run = Checkpointer(tmp_path / "out", SINGLE_PROCESS, {}, resume=False)
    objective = setup.objective(run, run.out)
    return (
        setup,
        objective,
        Trainer(
            "distill",
            objective,
            run_settings,
            setup.plan,
            run,
            setup.dev,
            unlabeled_fraction=run_settings.unlabelled_share,
        ),
    )


@pytest.mark.parametrize("options", [{}, {"cache_teacher": "on"}, {"method": "logits"}, {"means": "released"}])
def test_resumed_runs_give_the_same_weights_and_texts_are_recorded(tmp_path, teacher, dataset, folder, options):
    options = {**options, "unlabelled": folder, "unlabelled_share": 0.3, "checkpoint_every": 1}
    events = []
    whole = run(teacher, dataset, tmp_path / "whole", on_event=events.append, **options)
    started = next(e for e in events if isinstance(e, StageStarted))
    # 48 train rows per domain: the labeled rows decide the length of an epoch.
    assert started.steps == whole.steps == 24

    with pytest.raises(StopError):
        run(teacher, dataset, tmp_path / "cut", on_event=stop_at(7), **options)
    result = run(teacher, dataset, tmp_path / "cut", resume=True, **options)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert result.dev == whole.dev
    data = json.loads((tmp_path / "cut" / "hrkd.json").read_text())["data"]
    assert data["unlabelled"]["texts"] == {"books": 40}
    assert data["unlabelled"]["dropped"] == {}


def test_unlabeled_texts_change_the_weights_and_the_key(tmp_path, teacher, dataset, folder):
    run(teacher, dataset, tmp_path / "without")
    run(teacher, dataset, tmp_path / "with", unlabelled=folder)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("without", "with"))
    assert not all(torch.equal(one[name], other[name]) for name in one)
    again = run(teacher, dataset, tmp_path / "with", unlabelled=folder, resume=True)
    assert again.steps == 24
    (folder / "books.txt").write_text("other texts\nthan before\n", encoding="utf-8")
    with pytest.raises(OutputError, match="from a run with other options or data"):
        run(teacher, dataset, tmp_path / "with", unlabelled=folder, resume=True)


def test_an_interrupted_run_is_not_resumed_with_other_texts(tmp_path, teacher, dataset, folder):
    with pytest.raises(StopError):
        run(teacher, dataset, tmp_path / "s", on_event=stop_at(3), unlabelled=folder, checkpoint_every=1)
    with pytest.raises(TrainingError, match="was made with --unlabelled "):
        run(teacher, dataset, tmp_path / "s", resume=True, checkpoint_every=1)


def test_labeled_rows_come_first_and_decide_the_class_weights(tmp_path, teacher, dataset, folder):
    setup, _, trainer = set_up(teacher, dataset, tmp_path, unlabelled=folder, class_weights="balanced")
    assert {d: len(labels) for d, labels in setup.train.labels.items()} == {"books": 48, "music": 48}
    assert setup.train.unlabeled == {"books": 40}
    assert {d: len(e) for d, e in setup.train.examples.items()} == {"books": 88, "music": 48}
    for domain, examples in tokenize_split(dataset, "train", setup.train.tokenizer).examples.items():
        assert all((a.ids == b.ids).all() for a, b in zip(examples, setup.train.examples[domain], strict=False))
    weights = setup.train.class_weights(setup.heads, setup.settings.class_weights)
    assert torch.equal(weights, torch.ones(2, 2))
    assert {d: len(rows) for d, rows in next(trainer.make_sampler()).items()} == {"books": 8, "music": 4}


def test_the_loss_of_an_unlabeled_row_is_that_of_the_same_row_with_a_label(tmp_path, teacher, dataset, folder):
    texts = dataset.split("books", "train").texts
    (folder / "books.txt").write_text("\n".join(f"{t} thing" for t in texts), encoding="utf-8")
    options = {"unlabelled": folder, "cache_teacher": "off", "graph": "uniform"}
    setup, objective, _ = set_up(teacher, dataset, tmp_path, **options)
    setup.student.eval()
    unlabeled_row = len(texts) + 5
    unlabeled_loss = objective.loss(objective.collator({"books": [unlabeled_row], "music": [0]}))
    examples, lengths = objective.collator.split.examples["books"], objective.collator.split.lengths["books"]
    examples[5], lengths[5] = examples[unlabeled_row], lengths[unlabeled_row]
    labeled_loss = objective.loss(objective.collator({"books": [5], "music": [0]}))
    assert unlabeled_loss.total.item() == labeled_loss.total.item()
    assert unlabeled_loss.by_kind["domain"].item() > 0  # its domain is known


def test_unlabeled_rows_count_in_the_domain_loss(tmp_path, teacher, dataset, folder):
    setup, objective, _ = set_up(teacher, dataset, tmp_path, unlabelled=folder, cache_teacher="off")
    setup.student.eval()
    assert len(dataset.split("books", "train").texts) == 48  # rows 48 and 49 have no label
    parts = [objective.domain_losses(objective.collator({"books": rows})).losses["domain"] for rows in ([0, 48], [48])]
    (first,) = objective.collator({"books": [0]})
    alone = objective.domain_losses([first]).losses["domain"]
    torch.testing.assert_close(parts[0], (alone + parts[1]) / 2)


def test_the_label_loss_is_the_mean_over_labeled_rows(tmp_path, teacher, dataset, folder):
    _, objective, _ = set_up(teacher, dataset, tmp_path, unlabelled=folder, cache_teacher="off", label_weight=1.0)
    rows = {"books": [0, 1, 50, 51], "music": [0]}
    refs = [(domain, row) for domain, indices in rows.items() for row in indices]
    assert objective.collator.batch(rows, refs).labels.weights.tolist() == [0.5, 0.5, 0, 0, 1]


def test_outputs_of_all_rows_are_cached_unless_most_are_read_only_once(tmp_path, teacher, dataset, folder):
    set_up(teacher, dataset, tmp_path, unlabelled=folder, cache_teacher="on")
    files = sorted((tmp_path / "teacher-cache").glob("*/0*.safetensors"))
    assert [len(load_file(file)["logits"]) for file in files] == [88, 48]
    many = [f"text {n} of many" for n in range(2000)]
    (folder / "books.txt").write_text("\n".join(many), encoding="utf-8")
    notes = []
    set_up(teacher, dataset, tmp_path / "auto", notes.append, unlabelled=folder)
    assert any(isinstance(n, Note) and "most rows are read only once" in n.text for n in notes)


def test_auto_batch_size_counts_the_unlabeled_rows(tmp_path, teacher, dataset, folder, monkeypatch):
    collated = []
    monkeypatch.setattr("hrkd_cli.training.auto_batch_size.MAX_BATCH_SIZE", 4)
    collate = Collator.__call__
    monkeypatch.setattr(Collator, "__call__", lambda self, rows: collated.append(rows) or collate(self, rows))
    set_up(teacher, dataset, tmp_path, unlabelled=folder, batch_size="auto", unlabelled_share=0.75)
    assert {d: len(rows) for d, rows in collated[0].items()} == {"books": 16, "music": 4}


def test_the_output_must_not_replace_the_texts(tmp_path, teacher, folder):
    raw = write_raw(tmp_path / "raw")
    (folder / "hrkd.json").write_text('{"stage": "distill"}', encoding="utf-8")
    with pytest.raises(OutputError, match="was not written by hrkd, and --force would delete it"):
        distill(teacher, data=raw, out=folder, unlabelled=folder, force=True)


@pytest.fixture
def garden(folder):
    """Texts of a domain without labels, besides those of books."""
    texts = [f"{text} {n}" for n, text in enumerate(make_texts(60, 77)[0])]
    (folder / "garden.txt").write_text("\n".join(texts), encoding="utf-8")
    return {"unlabelled": folder, "new_domains": "garden"}


@pytest.mark.parametrize("cache", ["off", "on"])
@pytest.mark.parametrize("posterior", [True, False])
def test_the_teacher_answers_for_a_domain_without_labels_with_the_mean_of_its_heads(
    tmp_path, teacher, dataset, garden, cache, posterior
):
    if not posterior:
        shutil.copytree(teacher, tmp_path / "t")
        config = json.loads((teacher / "config.json").read_text())
        del config["hrkd"]["domain_posterior"]
        (tmp_path / "t" / "config.json").write_text(json.dumps(config))
        teacher = tmp_path / "t"
    more = dataset.with_labels({"garden": dataset.labels["books"]})
    setup, objective, _ = set_up(teacher, more, tmp_path, **garden, cache_teacher=cache)
    (batch,) = objective.collator({"books": [0], "garden": [7, 9], "music": [3]})
    outputs = batch.teacher()
    model = setup.teachers.primary
    with torch.no_grad():
        logits = model(**batch.tokens.inputs).logits.double()[1:3]
    books, music = logits[:, :2].exp(), logits[:, 2:].exp()
    if posterior:
        expected = (books + music) / (books.sum(1, keepdim=True) + music.sum(1, keepdim=True))
    else:
        expected = (books / books.sum(1, keepdim=True) + music / music.sum(1, keepdim=True)) / 2
    torch.testing.assert_close(outputs.logits[1:3].exp().double(), expected, rtol=1e-4, atol=1e-5)
    assert (outputs.domain_logits is None) is not posterior
    if posterior:  # books, garden, music
        probabilities = outputs.domain_logits.softmax(dim=-1)
        assert probabilities[1:3].tolist() == [[0, 1, 0]] * 2
        assert probabilities[[0, 3], 1].tolist() == [0, 0]


def test_a_domain_without_labels_gets_a_head_and_no_dev_score(tmp_path, teacher, dataset, garden):
    notes = []
    options = {**garden, "epochs": 4, "checkpoint_every": 1, "label_weight": 1.0, "class_weights": "balanced"}
    whole = run(teacher, dataset, tmp_path / "whole", on_event=notes.append, **options)
    assert whole.steps == 48  # of labeled rows, as without the new domain
    assert list(whole.dev["domains"]) == ["books", "music"]
    text = "garden: no labels; learned from the mean of the teacher's other heads, weighted by its domain posterior"
    assert text in [note.text for note in notes if isinstance(note, Note)]
    with pytest.raises(StopError):
        run(teacher, dataset, tmp_path / "cut", on_event=stop_at(7), **options)
    run(teacher, dataset, tmp_path / "cut", resume=True, **options)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert config["hrkd"]["domains"] == {name: ["bad", "good"] for name in ("books", "garden", "music")}
    assert config["id2label"]["3"] == "garden/good"
    # Its labels come later: the texts are as easy as those of the other domains.
    later = make_dataset(domains=("books", "garden", "music"), seed=5)
    scores = evaluate_on([tmp_path / "whole"], later, EvalSettings()).models[0].domains
    assert scores["garden"].n == 16
    assert scores["garden"].accuracy > 0.8


@pytest.mark.parametrize(
    "options", [{"method": "logits"}, {"graph": "learned"}, {"instance_weights": "meta-kd"}, {"recipe": "paper"}]
)
def test_a_domain_without_labels_is_learned_with_every_method(tmp_path, teacher, dataset, garden, options):
    options = {**options, "max_length": 8, "epochs": 1}
    run(teacher, dataset, tmp_path / "s", **garden, **options)
    weights, before = (load_file(tmp_path / "s" / "model.safetensors")["classifier.bias"][2:4], torch.zeros(2))
    assert not torch.equal(weights, before)


def test_domains_without_labels_need_domains_that_share_theirs(tmp_path, teacher, dataset, garden):
    other = dataclasses.replace(dataset, labels={"books": ("bad", "good"), "music": ("bad", "good", "odd")})
    message = "--new-domains garden: .* all have the same labels, but 'music' and 'books' differ; leave out"
    with pytest.raises(DataError, match=message):
        run(teacher, other, tmp_path / "s", **garden)
