import json
import shutil

import pytest

from hrkd_cli import Predictor, evaluate
from hrkd_cli.command_settings import EvalSettings
from hrkd_cli.data.dataset import Dataset
from hrkd_cli.errors import DataError, ModelError, UsageError
from hrkd_cli.evaluation import latency
from hrkd_cli.evaluation.evaluate import evaluate_on
from hrkd_cli.events import Note
from hrkd_cli.json_files import read_json
from tiny_folder import make_dataset, make_texts, write_csv


def run(models, dataset, *names, **options):
    return evaluate_on([models / name for name in names], dataset, EvalSettings(**options))


def test_scores_and_size_of_a_teacher_with_known_errors(models, dataset):
    [teacher] = run(models, dataset, "teacher").models
    assert teacher.average.accuracy == pytest.approx(0.8)
    assert {d: (s.n, s.accuracy) for d, s in teacher.domains.items()} == {"books": (40, 0.8), "dvd": (40, 0.8)}
    assert (teacher.agreement, teacher.padded, teacher.latency) == (1, None, None)
    assert (teacher.kind, teacher.precision, teacher.file) == ("torch", "fp32", "model.safetensors")
    assert teacher.bytes == (models / "teacher/model.safetensors").stat().st_size


@pytest.mark.parametrize("name", ["student", "student/onnx", "student/onnx/model.onnx"])
def test_accuracy_is_that_of_the_predictors_labels(models, dataset, name):
    predictor = Predictor(models / name)
    [result] = run(models, dataset, name).models
    for domain, scores in result.domains.items():
        rows = dataset.split(domain, "test")
        predicted = [p.label for p in predictor.predict(rows.texts, domain=domain)]
        assert len(set(predicted)) == 2  # otherwise the test proves little
        right = sum(a == b for a, b in zip(predicted, rows.labels, strict=True))
        assert scores.accuracy == pytest.approx(right / len(rows))


def test_agreement_precision_and_size_of_several_models(models, dataset):
    teacher, student, fp32, int8 = run(
        models, dataset, "teacher", "student", "student/onnx/model.onnx", "student/onnx"
    ).models
    assert (fp32.precision, int8.precision) == ("fp32", "int8")
    assert (int8.file, int8.kind) == ("model_quantized.onnx", "onnx")
    assert int8.bytes < fp32.bytes
    assert student.parameters == fp32.parameters == int8.parameters
    assert fp32.domains == student.domains
    assert fp32.padded.disagreement == 0
    assert fp32.padded.accuracy == pytest.approx(fp32.average.accuracy)
    assert teacher.agreement == 1
    labels = {}
    for name in ("teacher", "student"):
        predictor = Predictor(models / name)
        labels[name] = [
            p.label for d in dataset.domains for p in predictor.predict(dataset.split(d, "test").texts, domain=d)
        ]
    same = sum(a == b for a, b in zip(labels["teacher"], labels["student"], strict=True))
    assert student.agreement == pytest.approx(same / 80)
    assert 0 < student.agreement < 1
    assert teacher.difference is None
    assert student.difference.accuracy == pytest.approx(student.average.accuracy - teacher.average.accuracy)
    assert student.difference.interval[0] < student.difference.accuracy < student.difference.interval[1]
    assert fp32.difference == student.difference


def test_models_that_must_find_the_domain_are_scored_on_what_predict_answers(models, dataset, tmp_path):
    for name in ("student", "plain"):
        shutil.copytree(models / name, tmp_path / name)
    config = json.loads((tmp_path / "student/config.json").read_text())
    config["hrkd"]["domain_posterior"] = True
    calibration = {"rows": 9, "temperatures": {"books": 0.1, "dvd": 4.0}, "domain_temperature": 0.5, "thresholds": {}}
    config["hrkd"]["calibration"] = {"model_quantized.onnx": calibration}
    (tmp_path / "student/config.json").write_text(json.dumps(config))
    names = ("student", "student/onnx", "plain")
    result = run(tmp_path, dataset, *names, domain="auto")
    for name, model in zip(names, result.models, strict=True):
        for domain, scores in model.domains.items():
            rows = dataset.split(domain, "test")
            answers = Predictor(tmp_path / name).predict(rows.texts)
            right = [one.label.lower() == label for one, label in zip(answers, rows.labels, strict=True)]
            assert scores.accuracy == sum(right) / 40
            if name != "plain":
                counts = {known: [one.domain for one in answers].count(known) for known in ("books", "dvd")}
                assert model.found_domains[domain] == counts
                assert 0 < counts["books"] < 40  # otherwise the test proves little
    student, _, plain = result.to_json()["models"]
    assert result.to_json()["domain"] == "auto"
    assert plain.keys() - {"difference"} == student.keys() - {"found_domains", "domain_accuracy"}
    assert run(tmp_path, dataset, "student").to_json()["domain"] == "given"
    assert "found_domains" not in run(tmp_path, dataset, "student").to_json()["models"][0]
    padded = run(tmp_path, dataset, "student/onnx/model.onnx", domain="auto").models[0].padded
    assert padded.disagreement == 0
    assert padded.accuracy == pytest.approx(result.models[0].average.accuracy)


def test_a_fallback_is_scored_with_the_first_model_as_predict_uses_it(models, dataset, tmp_path):
    student, teacher = str(models / "student/onnx"), str(models / "teacher")
    cascade = run(models, dataset, "student/onnx", "teacher", fallback=teacher).to_json()["cascade"]
    assert (cascade["model"], cascade["fallback"]) == (student, teacher)
    step = cascade["steps"][5]
    predictor = Predictor(student, min_confidence=step["threshold"], fallback=teacher)
    right, sent, count = 0, 0, 0
    for domain in dataset.domains:
        rows = dataset.split(domain, "test")
        for prediction, label in zip(predictor.predict(rows.texts, domain=domain), rows.labels, strict=True):
            right, sent, count = right + (prediction.label == label), sent + prediction.fallback, count + 1
    assert 0 < sent < count
    assert (step["accuracy"], step["sent"]) == pytest.approx((right / count, sent / count))
    file = str(write_csv(tmp_path / "new.csv", dataset, "test"))
    result = evaluate(student, data=file, split="all", fallback=teacher)
    assert [model.model for model in result.models] == [student, teacher]
    with pytest.raises(UsageError, match="is the first model; name another one"):
        evaluate([teacher], data=file, split="all", fallback=teacher)


def test_linear_baselines_need_the_domain_if_labels_differ(models):
    rows = make_texts(4), ["negative", "positive"] * 2
    different = make_dataset({"books": {"test": rows}, "dvd": {"test": (rows[0], ["bad", "good"] * 2)}})
    with pytest.raises(UsageError, match="--floor: domains with different labels have a linear model each"):
        run(models, different, "teacher", domain="auto", floor=True)


def test_a_classifier_with_plain_labels_is_matched_by_name(models, dataset):
    [result] = run(models, dataset, "plain").models
    predicted = [p.label.lower() for p in Predictor(models / "plain").predict(dataset.split("dvd", "test").texts)]
    right = sum(a == b for a, b in zip(predicted, dataset.split("dvd", "test").labels, strict=True))
    assert result.domains["dvd"].accuracy == pytest.approx(right / 40)


def test_json_has_the_documented_keys(models, dataset, monkeypatch):
    for name in ("MAX_RUNS", "MIN_RUNS"):
        monkeypatch.setattr(latency, name, latency.BURST)
    options = {"by_label": True, "latency": True, "threads": 1}
    result = json.loads(json.dumps(run(models, dataset, "teacher", "student/onnx", **options).to_json()))
    teacher, int8 = result["models"]
    common = {"model", "file", "kind", "precision", "parameters", "bytes", "domains", "average", "agreement"}
    common.add("confidence")
    confidence = {"bins", "ece", "brier", "reliability", "risk_coverage", "suspects"}
    assert set(teacher["confidence"]) == confidence
    assert set(int8["confidence"]) == confidence | {"uncalibrated", "coverage"}
    assert result["split"] == "test"
    assert set(teacher) == common | {"latency_ms", "latency"}
    assert set(int8) == common | {"latency_ms", "latency", "padded", "difference"}
    assert set(int8["difference"]) == {"accuracy", "interval"}
    # Longer texts would be truncated.
    assert [(f["tokens"], f["threads"], f["batch"]) for f in int8["latency"]] == [(16, 1, 1)]
    assert all(0 < f["p50"] <= f["p95"] for f in int8["latency"] + teacher["latency"])
    assert result["machine"]
    assert set(int8["padded"]) == {"accuracy", "disagreement"}
    assert set(int8["domains"]["dvd"]) == {"n", "accuracy", "macro_f1", "interval", "labels"}
    assert set(int8["domains"]["dvd"]["labels"]) == {"negative", "positive"}
    assert set(int8["average"]) == {"accuracy", "macro_f1", "interval"}
    assert set(int8["latency_ms"]) == {"p50", "p95", "batch", "tokens", "threads"}
    assert teacher["latency_ms"]["tokens"] == int8["latency_ms"]["tokens"]
    assert teacher["latency_ms"]["threads"] == 1
    assert teacher["model"] == str(models / "teacher")
    assert "labels" not in run(models, dataset, "teacher").to_json()["models"][0]["domains"]["dvd"]


def test_the_result_is_stored_in_the_folders_that_hrkd_made(models, dataset, tmp_path):
    for name in ("teacher", "student", "plain"):
        shutil.copytree(models / name, tmp_path / name)
    (tmp_path / "plain" / "hrkd.json").unlink()
    source = write_csv(tmp_path / "reviews.csv", dataset, "test")
    result = evaluate([tmp_path / name for name in ("teacher", "plain", "student/onnx")], data=source).to_json()
    assert not (tmp_path / "plain" / "eval.json").exists()
    relative = {"teacher": [".", "../plain", "../student/onnx"], "student": ["../teacher", "../plain", "onnx"]}
    for folder, names in relative.items():
        stored = read_json(tmp_path / folder / "eval.json")
        assert (stored["split"], stored["data"]) == ("test", str(source))
        assert [entry["model"] for entry in stored["models"]] == names
        assert [entry["average"] for entry in stored["models"]] == [entry["average"] for entry in result["models"]]
        assert set(stored["models"][0]["domains"]["dvd"]["labels"]) == {"negative", "positive"}


def test_a_folder_that_cannot_be_written_does_not_stop_the_evaluation(models, dataset, tmp_path):
    shutil.copytree(models / "student", tmp_path / "student")
    (tmp_path / "student" / "eval.json").unlink(missing_ok=True)
    (tmp_path / "student" / "eval.json").mkdir()
    source, told = write_csv(tmp_path / "reviews.csv", dataset, "test"), []
    assert len(evaluate(tmp_path / "student", data=source, on_event=told.append).models) == 1
    assert [event.text for event in told if isinstance(event, Note) and "eval.json: cannot be written" in event.text]


def test_raw_data_is_read_from_a_file(models, dataset, tmp_path):
    source = write_csv(tmp_path / "reviews.csv", dataset, "test")
    result = evaluate([models / "teacher"], data=source, split="dev")
    assert result.split == "dev"
    assert result.models[0].average.accuracy == pytest.approx(0.8)


def test_domains_without_rows_in_the_split_are_named(models, dataset):
    rows = {**dataset.rows, "dvd": {"dev": dataset.split("dvd", "test")}}
    events = []
    result = evaluate_on(
        [models / "teacher"],
        Dataset.from_rows(rows, has_pairs=False),
        EvalSettings(),
        data_name="x",
        on_event=events.append,
    )
    assert list(result.models[0].domains) == ["books"]
    assert [event.text for event in events if getattr(event, "warning", False)] == ["x: no test rows of dvd"]


def test_models_and_data_default_to_hrkd_out(models, dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = write_csv(tmp_path / "reviews.csv", dataset, "test")
    with pytest.raises(ModelError, match="run hrkd distill first"):
        evaluate(data=source)
    shutil.copytree(models / "student", "hrkd-out/student")
    with pytest.raises(DataError, match="--data"):
        evaluate()
    # Falls back to the dataset that the first model was made from.
    (tmp_path / "hrkd-out/student/hrkd.json").write_text(json.dumps({"data": {"path": "../../reviews.csv"}}))
    names = [model.model.replace("\\", "/") for model in evaluate().models]
    assert names == ["hrkd-out/student", "hrkd-out/student/onnx"]


def test_invalid_arguments_are_errors(models, dataset, tmp_path):
    source = write_csv(tmp_path / "reviews.csv", dataset, "test")
    with pytest.raises(UsageError, match="--split: 'tset' is not one of train, dev, test, all"):
        evaluate([models / "teacher"], data=source, split="tset")
    with pytest.raises(UsageError, match="--threads: 0"):
        evaluate([models / "teacher"], data=source, threads=0)
    with pytest.raises(UsageError, match="--device: 'gpu'"):
        evaluate([models / "teacher"], data=source, device="gpu")
    with pytest.raises(ModelError, match="no model in this folder"):
        evaluate([models / "teacher", models], data=source)


@pytest.mark.parametrize("damage", ["encoder", "pickle", "weights", "head"])
def test_a_folder_that_is_not_a_classifier_is_an_error(models, dataset, tmp_path, damage):
    from safetensors.torch import load_file, save_file

    shutil.copytree(models / "teacher", tmp_path / "copy")
    weights = tmp_path / "copy/model.safetensors"
    if damage == "encoder":
        config = json.loads((tmp_path / "copy/config.json").read_text())
        (tmp_path / "copy/config.json").write_text(json.dumps(config | {"architectures": ["BertModel"]}))
        message = r"not a text classifier \(BertModel\); .*hrkd teach"
    elif damage == "pickle":
        weights.rename(tmp_path / "copy/pytorch_model.bin")
        message = r"pytorch_model\.bin, a pickle, which hrkd never opens; convert it"
    elif damage == "weights":
        weights.unlink()
        message = "no weights"
    else:
        remaining = {name: t for name, t in load_file(weights).items() if "classifier" not in name}
        save_file(remaining, weights, metadata={"format": "pt"})
        message = r"2 weights that its config.json requires are missing.*\(such as classifier\.bias\)"
    with pytest.raises(ModelError, match=message) as caught:
        run(tmp_path, dataset, "copy")
    assert "\n" not in str(caught.value)


def test_nothing_is_printed(models, dataset, capfd):
    run(models, dataset, "teacher", "student/onnx")
    assert capfd.readouterr() == ("", "")


def test_progress_events_name_the_model(models, dataset):
    seen = []
    evaluate_on([models / "student/onnx"], dataset, EvalSettings(), on_event=seen.append)
    tasks = [event.task for event in seen if not isinstance(event, Note)]
    scoring = f"scoring {models / 'student/onnx'}"
    assert tasks == [f"loading {models / 'student/onnx'}", scoring, scoring, *[f"{scoring} in padded batches"] * 2]


def test_a_tokenizer_without_tokenizer_json_gives_the_same_predictions(models, tmp_path):
    # Old models have only a vocabulary and the name of a tokenizer class.
    shutil.copytree(models / "teacher", tmp_path / "copy")
    tokens = json.loads((tmp_path / "copy/tokenizer.json").read_text())["model"]["vocab"]
    (tmp_path / "copy/tokenizer.json").unlink()
    (tmp_path / "copy/vocab.txt").write_text("\n".join(sorted(tokens, key=tokens.get)) + "\n")
    settings = {"tokenizer_class": "BertTokenizer", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    (tmp_path / "copy/tokenizer_config.json").write_text(json.dumps(settings))
    texts = make_texts(10)
    assert Predictor(tmp_path / "copy").predict(texts) == Predictor(models / "teacher").predict(texts)
