import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from exporting import FP32, INT8, export
from hrkd_cli import Predictor
from hrkd_cli.errors import ModelError
from hrkd_cli.layout import OnnxFiles
from hrkd_cli.onnx_export import self_check_cases as module
from hrkd_cli.onnx_export.self_check_cases import FP32_TOLERANCE
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.predict.selfcheck import self_check
from tiny_folder import write_model


def read_self_check(student):
    return json.loads((student / "onnx" / OnnxFiles.self_check).read_text(encoding="utf-8"))


def test_stored_predictions_are_those_of_each_file(student):
    export(student, int8=True, max_drop=100)
    stored = read_self_check(student)
    assert set(stored["files"]) == {FP32, INT8}
    assert {case["domain"] for case in stored["cases"]} == {"books", "dvd"}
    for name, entry in stored["files"].items():
        predictor = Predictor(student / "onnx" / name)
        for case, label, logits in zip(stored["cases"], entry["labels"], entry["logits"], strict=True):
            np.testing.assert_allclose(predictor.logits([case["text"]])[0], logits, atol=1e-5)
            prediction = predictor.predict([case["text"]], domain=case["domain"])[0]
            if label is None:  # too close to tell
                first, second = sorted(np.log(list(prediction.scores.values())), reverse=True)[:2]
                assert first - second <= 2 * entry["tolerance"] + 1e-4
            else:
                assert prediction.label == label
    assert {label for label in stored["files"][FP32]["labels"] if label} == {"negative", "positive"}


def test_labels_within_twice_the_tolerance_are_not_stored():
    heads = DomainHeads.build({"books": ("bad", "good")})
    cases = [{"text": text, "domain": "books"} for text in "abc"]
    logits = np.array([[0.0, 0.09], [0.0, 0.11], [3.0, 0.0]], dtype=np.float32)
    backend = SimpleNamespace(spec=SimpleNamespace(all_heads=heads, pair=False), logits=lambda *_, **__: logits)
    entry = module._predict_cases(backend, cases, logits + 0.01)  # the smallest tolerance of integer arithmetic, 0.05
    assert entry["tolerance"] == module.MIN_INT8_TOLERANCE == 0.05
    assert entry["labels"] == [None, "good", "bad"]


def test_a_badly_rounded_text_does_not_make_the_labels_of_others_unclear():
    heads = DomainHeads.build({"books": ("bad", "good")})
    cases = [{"text": text, "domain": "books"} for text in "abc"]
    logits = np.array([[0.0, 0.7], [0.0, 0.5], [3.0, 0.0]], dtype=np.float32)
    errors = np.array([[0.1], [0.1], [1.0]], dtype=np.float32)
    backend = SimpleNamespace(spec=SimpleNamespace(all_heads=heads, pair=False), logits=lambda *_, **__: logits)
    entry = module._predict_cases(backend, cases, logits + errors)
    assert entry["tolerance"] == pytest.approx(3.0)
    assert entry["labels"] == ["good", None, None]  # margins of 0.7, 0.5 and 3 against 0.6, 0.6 and 6


def test_every_domain_has_a_text_beyond_the_maximum_length(student):
    from hrkd_cli.predict.tokenization import read_tokenizer

    export(student)
    tokenizer = read_tokenizer(student)
    lengths: dict[str, list[int]] = {}
    for case in read_self_check(student)["cases"]:
        lengths.setdefault(case["domain"], []).append(len(tokenizer.encode(case["text"]).ids))
    assert set(lengths) == {"books", "dvd"}
    assert all(max(counts) > 24 > min(counts) for counts in lengths.values())


def test_tolerances_cover_8_bit_arithmetic_and_not_rounded_weights(student, tmp_path):
    import onnx

    export(student, int8=True, fp16=True, int8_static=True, int4=True, max_drop=100)
    entries = read_self_check(student)["files"]
    fp32 = np.array(entries[FP32]["logits"])
    # fp16 weights are multiplied in fp32.
    assert entries[FP32]["tolerance"] == entries["model_fp16.onnx"]["tolerance"] == FP32_TOLERANCE
    for name in (INT8, "model_int8_static.onnx"):
        assert entries[name]["tolerance"] == pytest.approx(tolerance(fp32, entries[name]["logits"]), abs=1e-5)
    # Rounded 4-bit weights change the logits equally on all CPUs; only the 8-bit rounding of activations differs.
    model = onnx.load(student / "onnx/model_q4.onnx")
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = 1
    shutil.copytree(student, tmp_path / "exact")
    onnx.save(model, tmp_path / "exact/onnx/model.onnx")
    exact = Predictor(tmp_path / "exact/onnx/model.onnx")
    texts = [case["text"] for case in read_self_check(student)["cases"]]
    rounded = np.array(entries["model_q4.onnx"]["logits"])
    exact_logits = np.concatenate([exact.logits([text]) for text in texts])
    assert 0 < np.abs(exact_logits - rounded).max() < np.abs(fp32 - rounded).max()
    assert entries["model_q4.onnx"]["tolerance"] == pytest.approx(tolerance(exact_logits, rounded), abs=1e-5)
    assert [entry.passed for entry in self_check(student)] == [True] * 5
    assert sorted(p.name for p in (student / "onnx").glob("*.onnx")) == sorted(entries)


def tolerance(exact, logits):
    """Three times the largest error, but at least 0.05 or eight times the error, and never less than fp32's."""
    error = np.abs(np.array(exact) - np.array(logits)).max()
    return max(FP32_TOLERANCE, min(0.05, 8 * error), 3 * error)


def shrink_head(student, factor):
    """Make a model's logits smaller, as those of a student that was hardly trained."""
    from safetensors.torch import load_file, save_file

    weights = load_file(student / "model.safetensors")
    head = {name: weight * factor for name, weight in weights.items() if name.startswith("classifier.")}
    assert head
    save_file(weights | head, student / "model.safetensors", metadata={"format": "pt"})


def test_of_a_weakly_trained_student_labels_are_compared_in_every_format(student):
    shrink_head(student, 0.01)
    export(student, int8=True, fp16=True, int8_static=True, int4=True, max_drop=100)
    entries = read_self_check(student)["files"]
    assert np.abs(entries[FP32]["logits"]).max() < 0.1
    results = {result.file: result for result in self_check(student)}
    assert set(results) == set(entries)
    assert all(result.compared_labels >= 4 for result in results.values()), results


def test_a_student_with_equal_logits_is_exported_with_a_warning_and_does_not_pass(student):
    shrink_head(student, 0)
    events = []
    export(student, on_event=events.append)
    text = "model.onnx: the logits of all labels are almost equal, so the self-check cannot pass"
    assert [event.warning for event in events if getattr(event, "text", "") == text] == [True]
    with pytest.raises(ModelError, match=r"self-check cannot pass: model\.onnx: 16 cases, 0 of 0 labels differ"):
        self_check(student)


@pytest.mark.parametrize("options", [{"domain": "books"}, {"trim_vocabulary": True}], ids=str)
def test_every_file_of_a_variant_has_a_checksum(student, split_data, tmp_path, options):
    out = tmp_path / "variant"
    export(student, int8=True, max_drop=100, out=out, data=split_data, **options)
    export(out, fp16=True, max_drop=100, data=split_data)
    stored = read_self_check(out)
    assert set(stored["files"]) == {FP32, INT8, "model_fp16.onnx"}
    assert set(stored["sha256"]) == {"config.json", "tokenizer.json", "tokenizer_config.json"}
    assert all(result.passed for result in self_check(out))
    for file in (
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        *(f"onnx/{name}" for name in stored["files"]),
    ):
        content = (out / file).read_bytes()
        (out / file).write_bytes(content + b"\n")
        with pytest.raises(ModelError, match=rf"not the file that was exported \(sha256\): \S*{file};"):
            self_check(out)
        (out / file).write_bytes(content)


def test_a_kept_fp32_file_has_the_checksum_of_its_own_bytes(student):
    import onnx

    export(student)
    path = student / "onnx" / FP32
    model = onnx.load(path)
    model.doc_string = "as another version of torch writes it"
    onnx.save(model, path)
    export(student, int8=True, max_drop=100)
    assert onnx.load(path).doc_string
    assert all(result.passed for result in self_check(student))


def test_texts_are_reproducible_and_not_from_the_data(student):
    export(student)
    first = read_self_check(student)
    export(student, force=True)
    assert read_self_check(student) == first
    (student / "onnx" / OnnxFiles.self_check).unlink()
    export(student, force=True)
    assert read_self_check(student) == first
    dev = (student.parent / "dev.csv").read_text()
    assert not [case for case in first["cases"] if len(case["text"].split()) > 3 and case["text"] in dev]


def test_a_later_format_joins_the_stored_predictions(student):
    export(student)
    before = read_self_check(student)
    export(student, int8=True, max_drop=100)
    after = read_self_check(student)
    assert after["cases"] == before["cases"]
    assert after["files"][FP32] == before["files"][FP32]
    assert INT8 in after["files"]
    # A deleted file is no longer checked.
    (student / "onnx" / INT8).unlink()
    export(student, force=True)
    assert set(read_self_check(student)["files"]) == {FP32}


def test_text_pairs_and_plain_classifiers_have_cases(tmp_path):
    student = write_model(tmp_path / "pair", pair=True)
    export(student)
    assert all(case["text"] and case["text_pair"] for case in read_self_check(student)["cases"])
    foreign = write_model(tmp_path / "foreign", plain_labels=["a", "b"])
    export(foreign)
    assert {case["domain"] for case in read_self_check(foreign)["cases"]} == {"auto"}
    for folder in (student, foreign):
        assert [entry.passed for entry in self_check(folder)] == [True]


def test_damaged_stored_predictions_are_replaced(student):
    export(student)
    (student / "onnx" / OnnxFiles.self_check).write_text("{}")
    export(student, force=True)
    assert set(read_self_check(student)["files"]) == {FP32}


def test_a_file_whose_stored_predictions_are_damaged_is_warned_of(student):
    export(student, int8=True, max_drop=100)
    (student / "onnx" / OnnxFiles.self_check).write_text("{}")
    events = []
    export(student, force=True, on_event=events.append)
    assert [event.text for event in events if getattr(event, "warning", False)] == [
        f"{INT8} in {student / 'onnx'}: left from an earlier export, unchanged; until deleted, the self-check fails"
    ]
    with pytest.raises(ModelError, match=rf"not exported with the other files: \S*{INT8};"):
        self_check(student)


def test_predictions_of_another_student_with_the_same_domains_are_not_kept(student, tmp_path):
    export(
        write_model(tmp_path / "other", seed=9),
        int8=True,
        max_drop=100,
        data=tmp_path / "dev.csv",
        out=tmp_path / "out",
    )
    export(student, out=tmp_path / "out", force=True)
    assert set(read_self_check(tmp_path / "out")["files"]) == {FP32}
    with pytest.raises(ModelError, match=rf"not exported with the other files: \S*{INT8};"):
        self_check(tmp_path / "out")


def test_texts_of_a_model_with_other_domains_are_not_reused(student, tmp_path):
    export(student, int8=True, max_drop=100, out=tmp_path / "out")
    other = write_model(tmp_path / "other", labels={"news": ("sport", "weather")})
    export(other, out=tmp_path / "out", force=True)
    stored = read_self_check(tmp_path / "out")
    assert {case["domain"] for case in stored["cases"]} == {"news"}
    assert set(stored["files"]) == {FP32}
    (tmp_path / "out/onnx" / INT8).unlink()  # of the other model
    assert [entry.passed for entry in self_check(tmp_path / "out")] == [True]


def test_other_predictions_in_the_fresh_process_stop_the_export(student, monkeypatch):
    original = module._predict_cases

    def wrong(*args):
        entry = original(*args)
        entry["logits"] = [[value + 1 for value in row] for row in entry["logits"]]
        return entry

    monkeypatch.setattr(module, "_predict_cases", wrong)
    with pytest.raises(ModelError, match=r"a fresh process does not repeat .* self-check FAILED: model\.onnx"):
        export(student)
    assert not (student / "onnx").exists()


def test_an_output_elsewhere_does_not_need_the_student(student, tmp_path):
    export(student, out=tmp_path / "deploy")
    shutil.rmtree(student)
    assert [entry.passed for entry in self_check(tmp_path / "deploy")] == [True]
