"""Loading teachers: labels and domains of the data, and the check of their accuracy."""

import dataclasses
import json

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from hrkd_cli.data.dataset import TextRows
from hrkd_cli.distillation.distill import distill
from hrkd_cli.errors import ModelError, TrainingError
from hrkd_cli.events import Note
from hrkd_cli.teaching.teach import teach
from short_runs import run_distill
from tiny import make_dataset


def test_a_plain_classifier_with_the_datas_labels_teaches_every_domain(tmp_path, dataset, encoder):
    """Its labels have another order and case. They are matched by name, also when the student's head is copied."""
    one_domain = make_dataset(domains=("all",))
    teach(encoder, data=one_domain, out=tmp_path / "one", epochs=6, learning_rate=3e-3, max_length=16)
    config = json.loads((tmp_path / "one" / "config.json").read_text())
    del config["hrkd"]
    config["id2label"], config["label2id"] = {"0": "GOOD", "1": "BAD"}, {"BAD": 1, "GOOD": 0}
    (tmp_path / "one" / "config.json").write_text(json.dumps(config))
    (tmp_path / "one" / "hrkd.json").unlink()
    weights = load_file(tmp_path / "one" / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = weights[name].flip(0)
    save_file(weights, tmp_path / "one" / "model.safetensors", metadata={"format": "pt"})
    # The student has all of the teacher's layers, and a learning rate near 0 leaves its weights as they were.
    result, _ = run_distill(tmp_path / "one", dataset, tmp_path / "s", student="4x32", learning_rate=1e-12)
    assert result.dev["average"]["accuracy"] > 0.85
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "s")
    assert student.config.id2label[0] == "books/bad"

    config["id2label"], config["label2id"] = {"0": "no", "1": "yes"}, {"no": 0, "yes": 1}
    (tmp_path / "one" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"no label 'bad' \(domain 'books'\), only no, yes"):
        run_distill(tmp_path / "one", dataset, tmp_path / "s2")


def test_a_teacher_of_other_domains_or_labels_is_refused(tmp_path, teacher):
    with pytest.raises(ModelError, match=r"not trained on domain 'games'; its domains are books, music"):
        run_distill(teacher, make_dataset(domains=("books", "games")), tmp_path / "s")
    data = make_dataset()
    data.labels["music"] = ("bad", "good", "odd")
    with pytest.raises(ModelError, match=r"in domain 'music' its labels are bad, good, but the data's are bad"):
        run_distill(teacher, data, tmp_path / "s")


def test_a_weak_teacher_stops_the_run_unless_it_is_allowed(tmp_path, encoder, dataset):
    teach(encoder, data=dataset, out=tmp_path / "t", epochs=1, learning_rate=1e-9, max_length=16, probe=False)
    with pytest.raises(
        TrainingError, match=r"in domain '\w+' its dev accuracy is .* require a margin of .* --allow-weak-teacher"
    ):
        run_distill(tmp_path / "t", dataset, tmp_path / "s")
    assert not (tmp_path / "s").exists()
    _, events = run_distill(tmp_path / "t", dataset, tmp_path / "s", allow_weak_teacher=True)
    assert sum("most common label" in e.text for e in events if isinstance(e, Note) and e.warning) == 1
    _, events = run_distill(tmp_path / "t", dataset, tmp_path / "s", resume=True)  # the option is no other run
    assert any(isinstance(e, Note) and "is already finished" in e.text for e in events)


def test_a_teacher_is_not_checked_on_a_dev_split_with_one_label(tmp_path, teacher):
    data = make_dataset()
    dev = data.rows["music"]["dev"]
    good = [n for n, label in enumerate(dev.labels) if label == "good"]
    data.rows["music"]["dev"] = TextRows([dev.texts[n] for n in good], None, ["good"] * len(good))
    _, events = run_distill(teacher, data, tmp_path / "s")
    assert any("all dev rows of domain 'music' have the same label" in e.text for e in events if isinstance(e, Note))


def test_a_teacher_of_other_data_is_a_warning(tmp_path, teacher, dataset):
    other = dataclasses.replace(dataset, fingerprint="another", path=tmp_path)
    _, events = run_distill(teacher, other, tmp_path / "s")
    assert any("made from other data" in e.text for e in events if isinstance(e, Note) and e.warning)


def test_a_teacher_with_another_truncation_is_a_warning(tmp_path, teacher, dataset):
    events = []
    options = {"epochs": 1, "max_length": 16, "student": "2x32", "truncate": "tail", "method": "logits"}
    distill(teacher, data=dataset, out=tmp_path / "s", on_event=events.append, **options)
    warned = [e.text for e in events if isinstance(e, Note) and e.warning]
    assert warned == [f"teacher {teacher} was trained with --truncate head; this run uses --truncate tail"]
    assert json.loads((tmp_path / "s/config.json").read_text())["hrkd"]["truncate"] == "tail"
