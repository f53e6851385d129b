"""Distillation: every method and graph, its checks, the stages before it."""

import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from hrkd_cli.choices import Graph, Means, Method, TeacherCheckpoints
from hrkd_cli.data.dataset import TextRows
from hrkd_cli.distillation.distill import distill
from hrkd_cli.distillation.online_teacher import OnlineTeacher
from hrkd_cli.errors import HrkdError, ModelError, OutputError, TrainingError, UsageError
from hrkd_cli.events import Note, StepDone
from hrkd_cli.method import MeanWeights
from hrkd_cli.models.model_tokenizer import ModelTokenizer
from hrkd_cli.settings import DistillSettings
from hrkd_cli.teaching.teach import teach
from tasks import make_task
from tiny import ARCHITECTURES, make_dataset, tiny_tokenizer, write_encoder, write_raw


def run(teacher, dataset, out, **options):
    events = []
    options = {"epochs": 1, "batch_size": 8, "max_length": 16, "student": "2x32", **options}
    result = distill(teacher, data=dataset, out=out, on_event=events.append, **options)
    return result, events


def first_step(events):
    return next(e for e in events if isinstance(e, StepDone))


def test_a_student_learns_from_its_teacher(tmp_path, teacher, dataset):
    result, events = run(teacher, dataset, tmp_path / "s", epochs=6, learning_rate=3e-3, init="random")
    assert result.dev["average"]["accuracy"] > 0.9
    steps = [e for e in events if isinstance(e, StepDone)]
    for kind in ("hidden", "attention", "prediction"):
        assert steps[-1].losses[kind] < steps[0].losses[kind]
    total = sum(steps[0].losses[kind] for kind in ("hidden", "attention", "prediction"))
    assert steps[0].losses["total"] == pytest.approx(total, rel=1e-5)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "s")
    assert model.config.num_hidden_layers == 2
    assert not any("projection" in name or "graph" in name for name in load_file(tmp_path / "s" / "model.safetensors"))
    assert json.loads((tmp_path / "s" / "hrkd.json").read_text())["data"]["fingerprint"] == "made-up"
    assert "accuracy" in (tmp_path / "s" / "README.md").read_text()


@pytest.mark.parametrize(
    ("options", "ratios", "layers"),
    [
        ({}, 0, []),
        ({"graph": Graph.FROZEN}, 3, [2, 3]),
        ({"graph": Graph.FROZEN, "hierarchy": False}, 3, []),
        ({"graph": Graph.UNIFORM}, 0, []),
        ({"graph": Graph.NONE}, 0, []),
        ({"method": Method.TINYBERT}, 0, []),
        ({"method": Method.LOGITS}, 0, []),
        ({"method": Method.LABELS}, 0, []),
        ({"graph": Graph.LEARNED, "graph_every": 2}, 3, [2, 3]),
        ({"graph": Graph.LEARNED, "graph_every": 2, "hierarchy": False}, 3, []),
        ({"graph": Graph.FROZEN, "means": Means.RELEASED}, 3, [2, 3]),
    ],
)
def test_methods_and_graphs(tmp_path, teacher, dataset, options, ratios, layers):
    result, events = run(teacher, dataset, tmp_path / "s", **options)
    step = first_step(events)
    assert len(step.ratios) == ratios
    assert [len(r) for r in step.layer_ratios] == layers
    for row in (*step.ratios, *step.layer_ratios):
        assert sum(row) == pytest.approx(1, abs=1e-5)
    assert ("hidden" in step.losses) == (options.get("method") not in (Method.LOGITS, Method.LABELS))
    assert result.steps == 6


def test_uniform_and_none_differ_as_the_objective_says(tmp_path, teacher, dataset):
    """The first step sees the same weights and rows, so its losses can be compared: D = 2 here."""
    found = {}
    for graph in (Graph.UNIFORM, Graph.NONE):
        _, events = run(teacher, dataset, tmp_path / graph, graph=graph)
        found[graph] = first_step(events).losses
    for kind in ("hidden", "attention", "prediction"):
        assert found[Graph.NONE][kind] == pytest.approx(2 * found[Graph.UNIFORM][kind], rel=1e-5)


def test_weights_of_the_losses(tmp_path, teacher, dataset):
    base = first_step(run(teacher, dataset, tmp_path / "a", graph="uniform")[1]).losses
    weights = {"hidden_weight": 2.0, "attention_weight": 3.0, "prediction_weight": 5.0}
    found = first_step(run(teacher, dataset, tmp_path / "b", graph="uniform", **weights)[1]).losses
    assert found["hidden"] == pytest.approx(2 * base["hidden"], rel=1e-5)
    assert found["attention"] == pytest.approx(6 * base["attention"], rel=1e-5)
    assert found["prediction"] == pytest.approx(5 * base["prediction"], rel=1e-5)


@pytest.mark.parametrize(
    "options", [{"method": "labels"}, {"hidden_weight": 0, "prediction_weight": 0, "label_weight": 1}]
)
def test_labels_alone_need_no_teacher_outputs(tmp_path, teacher, dataset, monkeypatch, options):
    monkeypatch.setattr(OnlineTeacher, "load", None)
    _, events = run(teacher, dataset, tmp_path / "s", **options)
    assert set(first_step(events).losses) == {"total", "label"}
    assert not (tmp_path / "teacher-cache").exists()


def test_same_seed_same_weights(tmp_path, teacher, dataset):
    weights = []
    for n, seed in enumerate((1, 1, 2)):
        run(teacher, dataset, tmp_path / str(n), seed=seed)
        weights.append(load_file(tmp_path / str(n) / "model.safetensors"))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert any(not torch.equal(weights[0][name], weights[2][name]) for name in weights[0])


def test_the_graph_and_the_teacher_are_not_trained(teacher, dataset):
    task, root, student = make_task(teacher, dataset, graph="frozen")
    student.train()
    task.loss(task.collator({"books": [0, 1], "music": [2, 3]})).total.backward()
    assert not any(m.training for m in root.modules())
    assert all(p.grad is None for p in root.parameters())
    assert all(p.grad is None for p in task.graph.parameters())
    assert task.graph.training
    assert all(p.grad is not None for p in task.projections.parameters())


def test_projections_start_near_the_identity_unless_as_released(teacher, dataset):
    for means, near in ((Means.MASKED, True), (Means.RELEASED, False)):
        task, _, _ = make_task(teacher, dataset, means=means)
        diagonals = task.projections.weight.diagonal(dim1=1, dim2=2)
        assert (diagonals.mean().item() > 0.9) == near


def widened(weights, length, *, padded):
    """The mean weights of the same rows padded further, in float64."""
    domains, rows, keys = weights.domain_one_hot.double(), weights.per_row.double(), weights.key_mask
    if padded:
        count = domains.T @ domains.sum(dim=1)
        tokens = (1 / (count * length))[:, None].expand(-1, length)
        pairs = 1 / (count * length**2)
    else:
        tokens = torch.nn.functional.pad(weights.per_token.double(), (0, length - weights.per_token.shape[1]))
        keys, pairs = tokens > 0, weights.per_pair.double()
    if keys.shape[1] < length:
        keys = torch.nn.functional.pad(keys, (0, length - keys.shape[1]))
    return MeanWeights(domains, rows, tokens, pairs, None if padded else keys, keys)


@pytest.mark.parametrize(("means", "changes"), [(Means.MASKED, False), (Means.RELEASED, True)])
def test_padding_a_real_batch_further(teacher, dataset, monkeypatch, means, changes):
    objective, root, student = make_task(teacher, dataset, means=means, graph="frozen")
    for module in (root, student, objective.projections, objective.graph):
        module.double().eval()
    rows = {"books": [0, 1, 2], "music": [3, 4, 5]}
    collate = ModelTokenizer.collate
    found = []
    for length in (16, 40):
        monkeypatch.setattr(ModelTokenizer, "collate", lambda *args, length=length, **_: collate(*args, pad_to=length))
        with torch.no_grad():
            (batch,) = objective.collator(rows)
            weights = widened(batch.weights, length, padded=means is Means.RELEASED)
            loss = objective.loss([dataclasses.replace(batch, weights=weights)])
        found.append(torch.stack([loss.total, *loss.by_kind.values(), *loss.ratios.flatten()]))
    difference = (found[0] - found[1]).abs().max().item()
    assert (difference > 1e-3) if changes else (difference <= 1e-6)


def test_each_domain_learns_from_its_own_teacher(tmp_path, teacher, dataset):
    """best/music holds weights that say the opposite of the root's: only music's target changes."""
    folder = tmp_path / "t"
    shutil.copytree(teacher, folder, ignore=shutil.ignore_patterns("best"))
    other = folder / "best" / "music"
    shutil.copytree(teacher, other, ignore=shutil.ignore_patterns("best"))
    weights = load_file(other / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = -weights[name]
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})

    found = {}
    for checkpoints in TeacherCheckpoints:
        _, events = run(
            folder,
            dataset,
            tmp_path / checkpoints,
            method="logits",
            teacher_checkpoints=checkpoints,
            allow_weak_teacher=True,
        )
        warned = [e.text for e in events if isinstance(e, Note) and e.warning]
        assert [("'music'" in t) for t in warned] == ([True] if checkpoints is TeacherCheckpoints.DOMAIN else [])
        found[checkpoints] = first_step(events).losses["prediction"]
    assert found[TeacherCheckpoints.DOMAIN] > found[TeacherCheckpoints.AVERAGE] + 0.01


def test_a_foreign_classifier_with_the_same_labels_teaches_every_domain(tmp_path, dataset, encoder):
    """Its outputs stand in another order and case: they are matched by name, also when its head starts the student."""
    both = make_dataset(domains=("all",))
    teach(encoder, data=both, out=tmp_path / "one", epochs=6, learning_rate=3e-3, max_length=16)
    config = json.loads((tmp_path / "one" / "config.json").read_text())
    del config["hrkd"]
    config["id2label"], config["label2id"] = {"0": "GOOD", "1": "BAD"}, {"BAD": 1, "GOOD": 0}
    (tmp_path / "one" / "config.json").write_text(json.dumps(config))
    (tmp_path / "one" / "hrkd.json").unlink()
    weights = load_file(tmp_path / "one" / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = weights[name].flip(0)
    save_file(weights, tmp_path / "one" / "model.safetensors", metadata={"format": "pt"})
    # All of the teacher's layers and a rate too small to learn: what it answers is what it took over.
    result, _ = run(tmp_path / "one", dataset, tmp_path / "s", student="4x32", learning_rate=1e-12)
    assert result.dev["average"]["accuracy"] > 0.85
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "s")
    assert student.config.id2label[0] == "books/bad"

    config["id2label"], config["label2id"] = {"0": "no", "1": "yes"}, {"no": 0, "yes": 1}
    (tmp_path / "one" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"has no label 'bad' \(domain 'books'\); its labels are no, yes"):
        run(tmp_path / "one", dataset, tmp_path / "s2")


def test_a_teacher_of_other_domains_or_labels_is_refused(tmp_path, teacher):
    with pytest.raises(ModelError, match=r"not taught domain 'games'; its domains are books, music"):
        run(teacher, make_dataset(domains=("books", "games")), tmp_path / "s")
    data = make_dataset()
    data.labels["music"] = ("bad", "good", "odd")
    with pytest.raises(ModelError, match=r"in domain 'music' its labels are bad, good, but the data's are bad"):
        run(teacher, data, tmp_path / "s")


def test_a_weak_teacher_stops_the_run(tmp_path, encoder, dataset):
    teach(encoder, data=dataset, out=tmp_path / "t", epochs=1, learning_rate=1e-9, max_length=16)
    with pytest.raises(TrainingError, match=r"in domain '\w+' its dev accuracy is .* --allow-weak-teacher"):
        run(tmp_path / "t", dataset, tmp_path / "s")
    assert not (tmp_path / "s").exists()
    _, events = run(tmp_path / "t", dataset, tmp_path / "s", allow_weak_teacher=True)
    assert any(isinstance(e, Note) and e.warning and "most common label" in e.text for e in events)


def test_a_dev_split_of_one_label_cannot_judge_a_teacher(tmp_path, teacher):
    data = make_dataset()
    dev = data.rows["music"]["dev"]
    good = [n for n, label in enumerate(dev.labels) if label == "good"]
    data.rows["music"]["dev"] = TextRows([dev.texts[n] for n in good], None, ["good"] * len(good))
    _, events = run(teacher, data, tmp_path / "s")
    assert any("all dev rows of domain 'music' have the same label" in e.text for e in events if isinstance(e, Note))


def test_a_teacher_of_another_split_is_pointed_out(tmp_path, teacher, dataset):
    other = dataclasses.replace(dataset, fingerprint="another", path=tmp_path)
    _, events = run(teacher, other, tmp_path / "s")
    assert any("made from other data" in e.text for e in events if isinstance(e, Note) and e.warning)


def test_an_unusable_student_is_noticed_before_the_teacher_is_taught(tmp_path, encoder):
    raw = write_raw(tmp_path / "raw")
    deep = str(write_encoder(tmp_path / "deep", layers=9))
    for student, words in (("9x32", "the teacher has 4 layers"), (deep, "it has 9 layers, the teacher 4")):
        with pytest.raises(HrkdError, match=words):
            distill(encoder, data=raw, student=student, max_length=16)
    assert not (tmp_path / "hrkd-out" / "teacher").exists()


def test_an_output_never_replaces_what_the_run_needs(tmp_path, encoder):
    raw = write_raw(tmp_path / "raw")
    for out in ("hrkd-out", "hrkd-out/teacher", "hrkd-out/dataset", "raw", "."):
        with pytest.raises(HrkdError, match=r"it would replace the|so it is left alone"):
            distill(encoder, data=raw, out=out, force=True)
    assert (raw / "books.csv").exists()


def test_force_replaces_no_other_stage(tmp_path, teacher, dataset):
    shutil.copytree(teacher, tmp_path / "t")
    with pytest.raises(OutputError, match="not a student folder written by hrkd"):
        distill(teacher, data="x", out=tmp_path / "t", force=True)


def test_students_that_cannot_be_compared(tmp_path, teacher, dataset):
    other = write_encoder(tmp_path / "heads", heads=2)
    losses = first_step(run(teacher, dataset, tmp_path / "s1", student=str(other))[1]).losses
    assert losses["attention"] > 0  # compared by relations: see tests/method

    words = write_encoder(tmp_path / "words")
    tiny_tokenizer(extra=("zebra",)).save_pretrained(words)
    with pytest.raises(ModelError, match=r"its tokenizer is not the teacher's.*--method logits.*--student 2x32"):
        run(teacher, dataset, tmp_path / "s", student=str(words))
    assert not (tmp_path / "s").exists()
    run(teacher, dataset, tmp_path / "s2", student=str(words), method="logits")
    run(teacher, dataset, tmp_path / "s3", student=str(write_encoder(tmp_path / "same")))


def test_pretrained_students_keep_their_weights(tmp_path, teacher, dataset):
    student = write_encoder(tmp_path / "mine", layers=2, seed=9)
    run(teacher, dataset, tmp_path / "s", student=str(student), learning_rate=1e-12)
    start, end = load_file(student / "model.safetensors"), load_file(tmp_path / "s" / "model.safetensors")
    name = "encoder.layer.1.output.dense.weight"
    torch.testing.assert_close(end[f"bert.{name}"], start[name])


@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a != "bert"])
def test_every_architecture_is_distilled(tmp_path, architecture, dataset):
    encoder = write_encoder(tmp_path / "e", architecture)
    teach(encoder, data=dataset, out=tmp_path / "t", epochs=1, max_length=16)
    result, events = run(tmp_path / "t", dataset, tmp_path / "s", student="1x32", allow_weak_teacher=True)
    assert result.steps == 6
    assert first_step(events).losses["attention"] > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "logits", "graph": "frozen"}, "--graph: --method logits has no domain graph"),
        ({"method": "tinybert", "hierarchy": True}, "--hierarchy: --method tinybert has no domain graph"),
        ({"graph": "uniform", "hierarchy": True}, "--hierarchy: --graph uniform does not use prototypes"),
        ({"hidden_weight": 0, "prediction_weight": 0}, "no loss is left"),
        ({"temperature": 0}, "--temperature: 0 is not above 0"),
        ({"held_back": 0.2}, "--held-back: it requires --graph learned"),
        ({"method": "labels", "unlabelled": "x"}, "--unlabelled: only labels are learned from"),
        ({"hierarchy": True}, "--hierarchy: --graph uniform does not use prototypes"),
        ({"graph": "learnt"}, "--graph: 'learnt' is not one of"),
    ],
)
def test_options_that_contradict_each_other(options, words):
    with pytest.raises(UsageError, match=words):
        DistillSettings(**options)


def test_init_does_not_go_with_a_pretrained_student(tmp_path, encoder):
    with pytest.raises(UsageError, match=r"--init: --student .* has weights of its own"):
        distill(encoder, data="x", student=str(encoder), init="random")


QUICK = {
    "student": "2x32",
    "epochs": 1,
    "teacher_epochs": 6,
    "learning_rate": 3e-3,
    "max_length": 16,
    "allow_weak_teacher": True,
}


def test_raw_data_and_a_plain_encoder_run_the_stages_before(tmp_path, encoder):
    raw = write_raw(tmp_path / "raw")
    events = []
    distill(encoder, data=raw, on_event=events.append, **QUICK)
    out = tmp_path / "hrkd-out"
    assert sorted(p.name for p in out.iterdir()) == ["dataset", "student", "teacher"]
    texts = [e.text for e in events if isinstance(e, Note)]
    assert any("plain encoder; teaching it first, into hrkd-out" in t for t in texts)
    assert json.loads((out / "student" / "hrkd.json").read_text())["data"]["path"] == "../dataset"
    assert json.loads((out / "teacher" / "hrkd.json").read_text())["options"]["epochs"]["value"] == 6

    # Again, with another student: dataset and teacher are used as they are.
    before = {f: f.stat().st_mtime_ns for f in [*(out / "teacher").iterdir(), *(out / "dataset").iterdir()]}
    events.clear()
    distill(encoder, data=raw, out=tmp_path / "other", on_event=events.append, **{**QUICK, "student": "1x32"})
    assert any("teacher is up to date" in e.text for e in events if isinstance(e, Note))
    assert {f: f.stat().st_mtime_ns for f in before} == before

    # A teacher that would be another one is not replaced unasked.
    changed = {**QUICK, "teacher_epochs": 1}
    with pytest.raises(OutputError, match=r"taught with --epochs 6; use it .* --teacher .*--force"):
        distill(encoder, data=raw, out=tmp_path / "third", **changed)
    distill(encoder, data=raw, out=tmp_path / "third", force=True, **changed)
    assert json.loads((out / "teacher" / "hrkd.json").read_text())["options"]["epochs"]["value"] == 1


def test_distil_without_a_teacher_says_what_to_do(tmp_path):
    with pytest.raises(ModelError, match=r"there is no hrkd-out.teacher yet; run hrkd teach first"):
        distill(data="x")


def test_a_teacher_that_was_taught_on_other_ends_of_texts(tmp_path, teacher, dataset):
    events = []
    options = {"epochs": 1, "max_length": 16, "student": "2x32", "truncate": "tail", "method": "logits"}
    distill(teacher, data=dataset, out=tmp_path / "s", on_event=events.append, **options)
    warned = [e.text for e in events if isinstance(e, Note) and e.warning]
    assert warned == [f"teacher {teacher} was taught with --truncate head, but this run uses --truncate tail"]
    assert json.loads((tmp_path / "s/config.json").read_text())["hrkd"]["truncate"] == "tail"
