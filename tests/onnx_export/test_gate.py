import json
import shutil

import pytest

from exporting import FP32, export, list_files
from hrkd_cli import Predictor
from hrkd_cli.errors import DataError, GateError
from hrkd_cli.events import Note
from hrkd_cli.onnx_export.gate import AccuracyGate
from tiny_folder import write_model


def write_rows(path, *rows):
    path.write_text("\n".join(("text,label,domain,split", *rows)) + "\n", encoding="utf-8")
    return path


def test_a_drop_above_max_drop_fails_the_gate_and_a_drop_equal_to_it_passes(student, other_weights):
    before = list_files(student)
    with pytest.raises(GateError, match="more than --max-drop 5: nothing was written") as caught:
        export(student, int8=True, max_drop=5)
    assert list_files(student) == before
    assert caught.value.exit_code == 3
    result = caught.value.result
    data = (student.parent / "dev.csv").read_text().splitlines()[1:]
    correct = {"books": [], "dvd": []}
    shutil.copytree(student, student.parent / "worse")
    shutil.copytree(other_weights / "onnx", student.parent / "worse/onnx")
    predictor = Predictor(student.parent / "worse/onnx" / FP32)
    for text, label, domain in (line.split(",") for line in data):
        correct[domain].append(predictor.predict([text], domain=domain)[0].label == label)
    accuracy = sum(sum(r) / len(r) for r in correct.values()) / 2
    assert result["gate"] == {"max_drop": 5, "drop": pytest.approx(100 * (1 - accuracy), abs=1e-4), "passed": False}
    assert result["files"] == []
    # A drop equal to max_drop passes.
    assert export(student, int8=True, max_drop=result["gate"]["drop"]).gate.passed


def test_missing_data_for_the_gate_suggests_data(student, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dev.csv").rename(tmp_path / "moved.csv")
    with pytest.raises(DataError, match="--data"):
        export(student, int8=True)
    assert export(student, int8=True, data="moved.csv", max_drop=50).gate.passed


def test_data_without_dev_rows_is_refused_without_advice_that_export_cannot_follow(student):
    data = write_rows(student.parent / "t.csv", "good,positive,dvd,test")
    with pytest.raises(DataError, match=r"t\.csv: no rows in the dev split; it has test$"):
        export(student, int8=True, data=data)


@pytest.mark.parametrize("plain_labels", [None, ["negative", "positive"]])
def test_domains_without_dev_rows_give_one_warning(tmp_path, plain_labels):
    student = write_model(tmp_path / "student", plain_labels=plain_labels)
    rows = ("good,positive,books,dev", "bad,negative,books,dev", "ok,positive,dvd,test")
    data = write_rows(tmp_path / "raw.csv", *rows)
    events = []
    export(student, int8=True, max_drop=100, data=data, on_event=events.append)
    warnings = [event.text for event in events if isinstance(event, Note) and event.warning]
    assert [text.partition(":")[0] for text in warnings if "dev rows" in text] == [f"{data} has no dev rows of dvd"]


def test_data_that_the_student_was_not_made_from_gives_a_warning(student, tmp_path):
    from hrkd_cli import prepare
    from hrkd_cli.data.dataset_folder import open_dataset

    prepare(tmp_path / "dev.csv", out=tmp_path / "dataset", dev=0.3)
    for fingerprint, warned in (("another", True), (open_dataset(tmp_path / "dataset").fingerprint, False)):
        record = {"data": {"path": "../dataset", "fingerprint": fingerprint}}
        (student / "hrkd.json").write_text(json.dumps(record))
        events = []
        export(student, int8=True, max_drop=50, force=True, on_event=events.append)
        assert any("fingerprint differs" in e.text for e in events if isinstance(e, Note) and e.warning) is warned


def test_trimming_has_to_pass_the_gate(student, split_data):
    # 26 + 26 letters and 4 special tokens must stay. Without the words that decide the label, accuracy is lost.
    before = sorted(p.name for p in student.parent.iterdir())
    with pytest.raises(
        GateError, match=r"trimmed vocabulary loses .* more than --max-drop 0\.5: nothing was"
    ) as caught:
        export(student, vocabulary_size=56, data=split_data, out=student.parent / "small")
    assert sorted(p.name for p in student.parent.iterdir()) == before
    assert caught.value.result["gate"]["passed"] is False
    drop = caught.value.result["vocabulary"]["accuracy_drop"]
    assert caught.value.result["gate"]["drop"] == drop > 0.5
    # A drop equal to max_drop passes.
    result = export(student, vocabulary_size=56, data=split_data, out=student.parent / "small", max_drop=drop)
    assert result.to_json()["gate"] == {"max_drop": drop, "drop": drop, "passed": True}
    assert result.vocabulary.after == 56


def test_a_single_domain_export_is_gated_on_its_domain(student, split_data, monkeypatch):
    scored_domains = []

    def accuracy_drop(self, scores):
        scored_domains.append(tuple(scores))
        return 9.0

    monkeypatch.setattr(AccuracyGate, "accuracy_drop", accuracy_drop)
    before = sorted(p.name for p in student.parent.iterdir())
    with pytest.raises(GateError, match=r"int8 loses 9\.00 points") as caught:
        export(student, domain="dvd", int8=True, data=split_data)
    assert set(scored_domains) == {("dvd",)}
    assert caught.value.result["files"] == []
    assert sorted(p.name for p in student.parent.iterdir()) == before


def test_a_single_domain_export_is_calibrated_on_its_domain(student, split_data, monkeypatch):
    calibrated_domains = []

    def calibration(self):
        calibrated_domains.append(tuple(self.rows))
        return original(self)

    original = AccuracyGate.calibration
    monkeypatch.setattr(AccuracyGate, "calibration", calibration)
    export(student, domain="dvd", int8_static=True, data=split_data, max_drop=100)
    assert set(calibrated_domains) == {("dvd",)}
