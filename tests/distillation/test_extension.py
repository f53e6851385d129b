"""``distill --extend``: the new domains, what becomes of the old ones, and what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hrkd_cli import Predictor, export
from hrkd_cli.data.dataset import Dataset, TextRows
from hrkd_cli.distillation import extension
from hrkd_cli.distillation.distill import distill
from hrkd_cli.distillation.extension import _score, describe_drop
from hrkd_cli.errors import DataError, GateError, ModelError, TrainingError, UsageError
from hrkd_cli.events import Note, StageStarted, ignore
from hrkd_cli.models.fingerprint import model_fingerprint
from hrkd_cli.predict.heads import DomainHeads
from interrupted import StopError, same, stop_at, weights
from short_runs import first_step, run_distill, warnings
from tiny import make_dataset, make_texts, write_raw
from valid_inputs import run_program, working_folder

OPTIONS = {"epochs": 4, "batch_size": 8, "learning_rate": 1e-3}
NEW = make_dataset(domains=("garden",), seed=3)
ALL = make_dataset(domains=("books", "garden", "music"), seed=5)


@pytest.fixture(scope="module")
def student(tmp_path_factory, teacher, dataset):
    """A student of books and music."""
    out = tmp_path_factory.mktemp("students") / "student"
    run_distill(teacher, dataset, out, epochs=6, learning_rate=3e-3)
    return out


def extend(student, dataset, out, *, on_event=ignore, resume=False, **options):
    return distill(
        data=dataset, out=out, extend=str(student), on_event=on_event, resume=resume, **{**OPTIONS, **options}
    )


def run_json(folder):
    return json.loads((folder / "hrkd.json").read_text())


def flipped(dataset, domain, **kept):
    """Return the dataset with the wrong labels in one domain, except in splits that are ``kept``."""
    rows = {
        split: TextRows(part.texts, None, ["bad" if label == "good" else "good" for label in part.labels])
        for split, part in dataset.rows[domain].items()
    }
    return replace(dataset, rows=dataset.rows | {domain: rows | kept})


def test_a_new_domain_is_learned_and_the_old_ones_stay_without_their_rows(tmp_path, student):
    events = []
    result = extend(student, NEW, tmp_path / "s", on_event=events.append)
    assert list(result.dev["domains"]) == ["garden"]
    assert result.dev["average"]["accuracy"] > 0.9
    assert first_step(events).losses.keys() == {"label", "retention", "total"}
    config = json.loads((tmp_path / "s" / "config.json").read_text())
    assert config["hrkd"]["domains"] == {d: ["bad", "good"] for d in ("books", "garden", "music")}
    assert "domain_posterior" not in config["hrkd"]  # no texts of the old domains
    assert (
        "no texts of books, music: their accuracy is not checked, and the student does not learn to find"
        in warnings(events)[0]
    )
    assert {d: (s["n"], s["by"]) for d, s in result.old_domains.items()} == dict.fromkeys(
        ("books", "music"), (16, "other domains")
    )
    record = run_json(tmp_path / "s")
    assert record["results"]["old_domains"] == result.old_domains
    assert record["models"] == {"extended": {"name": str(student), "fingerprint": model_fingerprint(student)}}
    # The old domains' own test rows are still answered correctly.
    test = make_dataset().split("books", "test")
    labels = [answer.label for answer in Predictor(tmp_path / "s").predict(test.texts, domain="books")]
    assert np.mean([label == true for label, true in zip(labels, test.labels, strict=True)]) > 0.9


def test_an_extended_student_is_exported_and_predicts_like_any_other(tmp_path, student):
    extend(student, ALL, tmp_path / "s")
    data = write_raw(tmp_path / "raw", domains=("books", "garden", "music"))
    export(tmp_path / "s", int8=True, data=data, latency=False, max_drop=100)
    texts = make_texts(12, 99)[0]
    for domain in ("books", "garden", "auto"):
        one, other = (
            [answer.label for answer in Predictor(folder).predict(texts, domain=domain)]
            for folder in (tmp_path / "s", tmp_path / "s" / "onnx")
        )
        assert one == other
    assert "calibration" in (tmp_path / "s" / "config.json").read_text()
    extend(tmp_path / "s", make_dataset(domains=("toys",), seed=8), tmp_path / "again")
    assert "calibration" not in (tmp_path / "again" / "config.json").read_text()


def test_it_starts_from_the_old_students_weights_and_answers(tmp_path, student):
    extend(student, NEW, tmp_path / "s", epochs=1, learning_rate=1e-12)
    before, after = load_file(student / "model.safetensors"), load_file(tmp_path / "s" / "model.safetensors")
    assert torch.allclose(after["bert.encoder.layer.1.output.dense.weight"],
                          before["bert.encoder.layer.1.output.dense.weight"], atol=1e-6)  # fmt: skip
    # books, garden, music: two outputs each
    assert torch.allclose(after["classifier.weight"][[0, 1, 4, 5]], before["classifier.weight"], atol=1e-6)


def test_the_old_students_answers_change_less_with_a_larger_weight(tmp_path, student):
    texts, changes = make_texts(40, 99)[0], []
    before = Predictor(student).predict(texts, domain="books")
    for weight in (0, 10):
        data = flipped(NEW, "garden")
        extend(student, data, tmp_path / str(weight), retention_weight=weight, max_drop=100, learning_rate=5e-3)
        after = Predictor(tmp_path / str(weight)).predict(texts, domain="books")
        changes.append(sum(abs(a.scores["bad"] - b.scores["bad"]) for a, b in zip(before, after, strict=True)))
    assert changes[1] < changes[0] / 2


def test_old_rows_are_scored_by_their_labels_and_the_domain_of_a_text_is_found(tmp_path, student):
    result = extend(student, ALL, tmp_path / "s")
    assert {d: (s["n"], s["by"]) for d, s in result.old_domains.items()} == dict.fromkeys(
        ("books", "music"), (16, "labels")
    )
    assert result.old_domains["books"]["after"] == result.dev["domains"]["books"]["accuracy"]
    assert json.loads((tmp_path / "s" / "config.json").read_text())["hrkd"]["domain_posterior"] is True


@pytest.mark.parametrize("domains", [("books", "music"), ("books",)])
def test_unlabeled_texts_of_an_old_domain_stand_in_for_its_rows(tmp_path, student, domains):
    (tmp_path / "texts").mkdir()
    for n, domain in enumerate(domains):
        texts = [f"{text} {i}" for i, text in enumerate(make_texts(30, 50 + n)[0])]
        (tmp_path / "texts" / f"{domain}.txt").write_text("\n".join(texts), encoding="utf-8")
    events = []
    result = extend(student, NEW, tmp_path / "s", unlabelled=tmp_path / "texts", on_event=events.append)
    scored = {domain: (30, "student") if domain in domains else (16, "other domains") for domain in ("books", "music")}
    assert {domain: (scores["n"], scores["by"]) for domain, scores in result.old_domains.items()} == scored
    hrkd = json.loads((tmp_path / "s" / "config.json").read_text())["hrkd"]
    assert hrkd.get("domain_posterior", False) == (len(domains) == 2)
    assert next(e for e in events if isinstance(e, StageStarted)).steps == 24  # counted in rows of garden


def test_the_wide_branch_keeps_its_columns_of_domains_without_rows(tmp_path, student):
    extend(student, replace(ALL, rows={d: ALL.rows[d] for d in ("books", "garden")},
                            labels={d: ALL.labels[d] for d in ("books", "garden")}), tmp_path / "s")  # fmt: skip
    before, after = (load_file(folder / "model_wide.safetensors")["weight"] for folder in (student, tmp_path / "s"))
    assert before.shape[0] == after.shape[0]
    assert torch.equal(after[:, 4:], before[:, 2:])  # music
    assert not torch.equal(after[:, :2], before[:, :2])
    assert after[:, 2:4].abs().max() > 0


@pytest.mark.parametrize("data", [NEW, ALL])
def test_a_killed_run_ends_with_the_same_weights(tmp_path, student, data):
    whole = extend(student, data, tmp_path / "whole", checkpoint_every=1)
    with pytest.raises(StopError):
        extend(student, data, tmp_path / "cut", checkpoint_every=1, on_event=stop_at(7))
    result = extend(student, data, tmp_path / "cut", checkpoint_every=1, resume=True)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    assert result.old_domains == whole.old_domains
    again = extend(student, data, tmp_path / "cut", checkpoint_every=1, resume=True)
    assert again.old_domains == whole.old_domains


def test_a_run_is_not_resumed_with_another_student_of_the_same_name(tmp_path, student):
    shutil.copytree(student, tmp_path / "old")
    with pytest.raises(StopError):
        extend(tmp_path / "old", NEW, tmp_path / "s", checkpoint_every=1, on_event=stop_at(3))
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    (tmp_path / "old" / "config.json").write_text(json.dumps(config | {"hidden_dropout_prob": 0.2}))
    with pytest.raises(TrainingError, match="with other data or another model"):
        extend(tmp_path / "old", NEW, tmp_path / "s", checkpoint_every=1, resume=True)


def test_a_student_that_loses_too_much_is_refused_and_can_be_accepted_later(tmp_path, student):
    data = flipped(ALL, "books", dev=ALL.rows["books"]["dev"])
    options = {"retention_weight": 0, "learning_rate": 5e-3, "wide": False, "eval_every": 24}
    with pytest.raises(GateError, match=r"domain .books. falls from 100\.0% to .* more than --max-drop 2:") as caught:
        extend(student, data, tmp_path / "s", **options)
    lost = caught.value.result["old_domains"]["books"]
    assert lost["after"] < 0.6
    assert not (tmp_path / "s").exists()
    events = []
    result = extend(student, data, tmp_path / "s", resume=True, max_drop=100, on_event=events.append, **options)
    assert result.old_domains["books"] == lost
    assert "resuming after step 24 of 24" in [event.text for event in events if isinstance(event, Note)]
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_without_labels_an_answer_counts_by_the_old_students_probability_of_it():
    old = DomainHeads.build({"books": "ab"})
    setup = SimpleNamespace(
        teachers=SimpleNamespace(heads=old),
        dev=SimpleNamespace(labels={"garden": None}, examples={"garden": None, "toys": None}),
        heads=DomainHeads.build({"books": "ab", "garden": "xy"}),
    )
    odds = {"garden": [[3, 1], [1, 4]], "toys": [[1, 1.5]]}  # p(a) is 3/4, 1/5 and 2/5
    before = {domain: np.log(np.array(rows)) for domain, rows in odds.items()}
    after = {"garden": np.array([[2.0, 1, 9, 9], [2, 1, 0, 0]]), "toys": np.array([[1.0, 2, 5, 0]])}  # a, a, b
    scores = _score("books", setup, before, after)
    assert scores == {"n": 3, "before": pytest.approx((0.75 + 0.8 + 0.6) / 3),
                      "after": pytest.approx((0.75 + 0.2 + 0.6) / 3), "by": "other domains"}  # fmt: skip


def test_a_drop_of_exactly_the_limit_is_allowed():
    scores = {
        "books": {"before": 0.9, "after": 0.895, "by": "labels"},
        "dvd": {"before": 0.1, "after": 0.9, "by": "student"},
        "toys": {"before": 0.9, "after": 0.1, "by": "other domains"},
    }
    assert describe_drop(scores, 0.5) == ""
    assert describe_drop(scores, 0.49).startswith("domain 'books' falls from 90.0% to 89.5%, by 0.50 points, more than")
    assert describe_drop({"toys": scores["toys"]}, 0) == ""


def relabel(domain, label):
    rows = {"train": TextRows(["a", "b"], None, ["bad", label]), "dev": TextRows(["c"], None, ["bad"])}
    return Dataset.from_rows({**NEW.rows, domain: rows}, has_pairs=False)


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        (make_dataset(), {}, DataError, "it knows all domains of the data .books, music.; add a new one"),
        (relabel("books", "odd"), {}, DataError, "in domain 'books' the data has labels .* not know: odd; correct"),
        (NEW, {"max_length": 20}, UsageError, "--max-length 20: --extend .* reads 16 tokens; leave it out"),
        (NEW, {"truncate": "tail"}, UsageError, "--truncate tail: --extend .* needs --truncate head, as before"),
    ],
)
def test_data_that_does_not_fit_the_student_is_refused(tmp_path, student, data, options, error, message):
    with pytest.raises(error, match=message):
        extend(student, data, tmp_path / "s", **options)
    assert list(tmp_path.iterdir()) == []


def test_an_old_domain_may_lack_rows_of_some_labels(tmp_path, student):
    rows = {split: TextRows(["a good box", "a fine box"], None, ["good", "good"]) for split in ("train", "dev")}
    with pytest.raises(DataError, match="domain 'books' has one label only"):
        extend(student, Dataset.from_rows({**NEW.rows, "books": rows}, has_pairs=False), tmp_path / "s")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda f: (f / "model.safetensors").rename(f / "model.onnx"),
            "no weights .model.safetensors.: only ONNX files, which",
        ),
        (lambda f: (f / "hrkd.json").unlink(), "not a student that hrkd distilled; give the folder of one"),
    ],
)
def test_a_folder_that_is_no_student_is_refused(tmp_path, student, change, message):
    shutil.copytree(student, tmp_path / "old")
    (tmp_path / "old" / "model_wide.safetensors").unlink()
    change(tmp_path / "old")
    with pytest.raises(ModelError, match=message):
        extend(tmp_path / "old", NEW, tmp_path / "s")


def test_an_export_says_which_domains_it_cannot_check(tmp_path, student):
    extend(student, NEW, tmp_path / "s", epochs=1)
    raw, events = write_raw(tmp_path / "raw", domains=("garden",)), []
    export(tmp_path / "s", int8=True, data=raw, latency=False, max_drop=100, on_event=events.append)
    assert f"{raw} has no dev rows of books, music: no file is checked on them" in warnings(events)[0]
    answers = Predictor(tmp_path / "s" / "onnx").predict(["a good box"], domain="books")
    assert answers[0].label == Predictor(tmp_path / "s").predict(["a good box"], domain="books")[0].label


def test_the_command_leaves_data_and_student_alone_and_shows_the_old_domains(tmp_path, student):
    write_raw(tmp_path / "raw", domains=("garden",))
    words = ["distill", "-q", "--extend", "hrkd-out/student", "--epochs", "2", "--data"]
    with working_folder(tmp_path):
        shutil.copytree(student, "hrkd-out/student")
        write_raw(Path("before"))
        assert run_program("prepare", "-q", "before")[0] == 0
        before = {path: path.stat().st_mtime_ns for path in Path("hrkd-out").rglob("*")}
        code, out, err = run_program(*words, "raw", "--max-drop", "100")
        assert (code, "Accuracy of the old domains" in out) == (0, True), err
        assert {path: path.stat().st_mtime_ns for path in before} == before
        assert run_json(Path("hrkd-out/student-extended"))["models"]["extended"]["name"] == "hrkd-out/student"
        code, out, err = run_program(*words, "hrkd-out/dataset-extension", "--dry-run", "--out", "more", "--json")
        assert (code, json.loads(out)["domains"]) == (0, ["books", "garden", "music"]), err
        code, out, err = run_program(*words, "raw", "--force", "--out", "hrkd-out/student")
        assert (code, out) == (2, "")
        assert err == (
            "hrkd distill: --out hrkd-out/student: it would replace the student to extend (hrkd-out/student); choose "
            "another folder (see hrkd distill --help)\n"
        )


def test_a_run_that_stopped_early_and_was_refused_is_accepted_without_another_step(tmp_path, student, monkeypatch):
    options = {"wide": False, "eval_every": 4, "patience": 1, "epochs": 8}
    monkeypatch.setattr(extension, "describe_drop", lambda _, max_drop: "too much" if max_drop == 0 else "")
    with pytest.raises(GateError, match="too much"):
        extend(student, ALL, tmp_path / "s", max_drop=0, **options)
    (checkpoint,) = (tmp_path / "s.partial").glob("checkpoint-*")
    result = extend(student, ALL, tmp_path / "s", resume=True, max_drop=100, **options)
    assert f"checkpoint-{result.steps}" == checkpoint.name != "checkpoint-48"
