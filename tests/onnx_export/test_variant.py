import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from tokenizers import Tokenizer

from exporting import export, write_splits
from file_modes import unusual_modes
from hrkd_cli import Predictor, evaluate
from hrkd_cli.errors import DataError, ModelError, OutputError, UsageError
from hrkd_cli.events import Note
from hrkd_cli.models.torch_backend import TorchBackend
from hrkd_cli.predict.selfcheck import self_check
from tiny_folder import CONFIGS, MAX_LENGTH, make_texts, with_wide_branch, write_model
from vocabularies import SPECIAL, TOKENIZERS, small_data, wrap_tokenizer

FP32, INT8 = "onnx/model.onnx", "onnx/model_quantized.onnx"


@pytest.fixture(params=list(CONFIGS))
def any_student(request, tmp_path):
    return write_model(tmp_path / "student", architecture=request.param)


def test_a_single_domain_export_gives_that_heads_logits(any_student):
    result = export(any_student, domain="dvd")
    out = any_student.with_name("student-dvd")
    assert result.out == str(out)
    assert [f.path for f in result.files] == [str(out / FP32)]
    texts = make_texts(20)
    columns = [2, 3]
    all_logits = Predictor(any_student).logits(texts)
    for model in (out, out / FP32):
        variant = Predictor(model)
        np.testing.assert_allclose(variant.logits(texts), all_logits[:, columns], atol=1e-4)
        expected = Predictor(any_student).predict(texts, domain="dvd")
        assert [p.label for p in variant.predict(texts)] == [p.label for p in expected]
        assert [p.label for p in variant.predict(texts, domain="dvd")] == [p.label for p in expected]
        with pytest.raises(UsageError, match="not one of the model's: dvd, auto"):
            variant.predict(texts, domain="books")
    config = json.loads((out / "config.json").read_text())
    assert config["id2label"] == {"0": "negative", "1": "positive"}
    assert config["label2id"] == {"negative": 0, "positive": 1}
    assert "domains" not in config["hrkd"]


def test_only_a_model_of_all_domains_keeps_the_posterior(student, split_data):
    config = json.loads((student / "config.json").read_text())
    config["hrkd"]["domain_posterior"] = True
    (student / "config.json").write_text(json.dumps(config))
    export(student, domain="dvd")
    export(student, trim_vocabulary=True, data=split_data, max_drop=100)
    single, trimmed = (
        json.loads((student.with_name(name) / "config.json").read_text()) for name in ("student-dvd", "student-trimmed")
    )
    assert "domain_posterior" not in single["hrkd"]
    assert trimmed["hrkd"]["domain_posterior"] is True
    assert 'model=".", truncation=True)' in (student.with_name("student-dvd") / "README.md").read_text()
    card = (student.with_name("student-trimmed") / "README.md").read_text()
    assert "A softmax over all outputs is the probability" in card


def test_a_wide_branch_is_reduced_with_its_student(tmp_path):
    plain = write_model(tmp_path / "plain", tokenizer=wrap_tokenizer(TOKENIZERS["WordPiece"]()))
    student = with_wide_branch(plain, tmp_path / "student")
    rows = small_data().rows["dvd"]
    train = [*rows["train"].texts, " ".join(rows["train"].texts * 2)]
    data = write_splits(tmp_path / "raw", {"train": train, "dev": rows["dev"].texts})
    result = export(student, domain="dvd", trim_vocabulary=True, data=data, max_drop=100)
    assert result.vocabulary.after < result.vocabulary.before
    card = (tmp_path / "student-dvd-trimmed" / "README.md").read_text()
    assert f'model=".", truncation=True, max_length={MAX_LENGTH})' in card
    assert f"Texts are truncated to 64 tokens, of which the encoder reads the first {MAX_LENGTH}." in card
    assert max(len(one) for one in TorchBackend(result.out).tokenizer.encode(train)) > MAX_LENGTH
    expected = Predictor(student).logits(train)[:, [2, 3]]
    for model in (result.out, f"{result.out}/{FP32}"):
        np.testing.assert_allclose(Predictor(model).logits(train), expected, atol=1e-4)


def test_a_transformers_pipeline_opens_a_single_domain_export(any_student):
    from transformers import pipeline

    export(any_student, domain="books")
    texts = make_texts(10)
    classify = pipeline("text-classification", model=str(any_student.with_name("student-books")), truncation=True)
    predictions = classify(texts)
    assert [f["label"] for f in predictions] == [p.label for p in Predictor(any_student).predict(texts, domain="books")]


@pytest.mark.parametrize("truncate", ["tail", "head-tail"])
def test_long_texts_are_truncated_as_by_the_student(student, truncate):
    from transformers import AutoTokenizer

    config = json.loads((student / "config.json").read_text())
    config["hrkd"]["truncate"] = truncate
    (student / "config.json").write_text(json.dumps(config))
    if truncate == "tail":  # as hrkd-cli saves it
        settings = json.loads((student / "tokenizer_config.json").read_text())
        (student / "tokenizer_config.json").write_text(json.dumps({**settings, "truncation_side": "left"}))
    result = export(student, domain="books", int8=True, max_drop=100)
    long = [" ".join(make_texts(12)), " ".join(make_texts(12, 5))]
    variant = TorchBackend(result.out)
    ids = [e.ids for e in variant.tokenizer.encode(long)]
    assert [len(row) for row in ids] == [MAX_LENGTH] * 2
    np.testing.assert_allclose(variant.logits(long), Predictor(student).logits(long)[:, :2], atol=1e-4)
    # Pipelines support head and tail; the card warns about head-tail.
    transformers_ids = AutoTokenizer.from_pretrained(result.out)(long, truncation=True)["input_ids"]
    assert (ids == transformers_ids) is (truncate == "tail")
    card = (student.with_name("student-books") / "README.md").read_text()
    assert ("Other tools keep the head only" in card) is (truncate == "head-tail")


@pytest.mark.parametrize("kind", list(TOKENIZERS))
@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert", "modernbert"])
def test_all_tokenizers_and_architectures_can_be_trimmed_and_reduced_to_one_domain(tmp_path, kind, architecture):
    from transformers import AutoTokenizer, pipeline

    tokenizer = wrap_tokenizer(TOKENIZERS[kind](), roberta_processor=kind == "BPE")
    student = write_model(tmp_path / "student", architecture=architecture, tokenizer=tokenizer)
    data = small_data()
    train = data.rows["books"]["train"].texts
    dev = data.rows["books"]["dev"].texts
    write_splits(tmp_path / "raw", {"train": train, "dev": dev})
    result = export(student, trim_vocabulary=True, domain="books", data=tmp_path / "raw", max_drop=100)
    out = tmp_path / "student-books-trimmed"
    columns = [0, 1]
    np.testing.assert_allclose(Predictor(out).logits(train), Predictor(student).logits(train)[:, columns], atol=1e-4)
    np.testing.assert_allclose(Predictor(out / FP32).logits(dev), Predictor(out).logits(dev), atol=1e-4)
    config = json.loads((out / "config.json").read_text())
    trimmed = Tokenizer.from_file(str(out / "tokenizer.json"))
    assert config["vocab_size"] == trimmed.get_vocab_size() == result.vocabulary.after < result.vocabulary.before
    assert config["pad_token_id"] == trimmed.token_to_id("<pad>")
    from_transformers = AutoTokenizer.from_pretrained(out)
    assert from_transformers(dev)["input_ids"] == [e.ids for e in trimmed.encode_batch(dev)]
    assert from_transformers.pad_token == "<pad>"
    assert {from_transformers.convert_tokens_to_ids(t) for t in SPECIAL} == {trimmed.token_to_id(t) for t in SPECIAL}
    predictions = pipeline("text-classification", model=str(out), truncation=True)(dev, batch_size=2)
    assert [f["label"] for f in predictions] == [p.label for p in Predictor(out).predict(dev)]


def test_json_and_card_report_the_trimming(student, split_data):
    out = student.parent / "small"
    result = export(student, trim_vocabulary=True, int8=True, data=split_data, out=out, max_drop=100).to_json()
    vocabulary = result["vocabulary"]
    assert sum(vocabulary["kept"].values()) == vocabulary["after"] < vocabulary["before"] == 80
    assert vocabulary["dev"]["changed"] > 0
    assert vocabulary["train"]["changed"] == 0
    scores = evaluate([student, out, out / INT8], data=split_data, split="dev").models
    assert vocabulary["accuracy_drop"] == pytest.approx(
        100 * (scores[0].average.accuracy - scores[1].average.accuracy), abs=1e-5
    )
    # The gate covers trimming and quantization together.
    drop = 100 * (scores[0].average.accuracy - scores[2].average.accuracy)
    assert result["gate"] == {"max_drop": 100, "drop": pytest.approx(drop, abs=1e-5), "passed": True}
    card = (out / "README.md").read_text()
    assert f"Vocabulary trimmed from 80 to {vocabulary['after']} tokens" in card
    assert "`onnx/model_quantized.onnx` | int8" in card
    record = json.loads((out / "hrkd.json").read_text())
    assert (record["stage"], record["vocabulary"]["after"]) == ("export", vocabulary["after"])
    assert not (student / "onnx").exists()


FILES = {
    "fp32": "model.onnx",
    "fp16": "model_fp16.onnx",
    "int8": "model_quantized.onnx",
    "int8-static": "model_int8_static.onnx",
    "int4": "model_q4.onnx",
}
PRECISIONS = {"int8": True, "int8_static": True, "fp16": True, "int4": True}


@pytest.mark.parametrize(
    "options", [{"domain": "dvd"}, {"trim_vocabulary": True}, {"domain": "dvd", "trim_vocabulary": True}]
)
def test_every_format_of_a_variant(student, split_data, options):
    out = student.parent / "small"
    result = export(
        student, **options, **PRECISIONS, target="avx2", runtime=True, data=split_data, out=out, max_drop=100
    )
    content = result.to_json()
    assert {f["precision"]: f["path"] for f in content["files"]} == {p: str(out / "onnx" / f) for p, f in FILES.items()}
    assert sorted(p.name for p in (out / "onnx").iterdir()) == sorted(
        [*FILES.values(), "export.json", "self_check.json"]
    )
    assert (out / "hrkd_runtime.pyz").is_file()
    assert unusual_modes(out) == {}
    stored = json.loads((out / "onnx/self_check.json").read_text())
    assert set(stored["files"]) == set(FILES.values())
    # Static int8 of random weights is so far from fp32 that no label may be clear, and then the check cannot pass.
    stored["files"] = {name: entry for name, entry in stored["files"].items() if any(entry["labels"])}
    assert set(FILES.values()) - set(stored["files"]) <= {"model_int8_static.onnx"}
    (out / "onnx/self_check.json").write_text(json.dumps(stored))
    assert [entry.passed for entry in self_check(out)] == [True] * len(stored["files"])
    # export.json counts drops from the folder's own weights, the result counts them from the student.
    record = json.loads((out / "onnx/export.json").read_text())["files"]
    assert set(record) == set(FILES.values())
    domains = [options["domain"]] if "domain" in options else ["books", "dvd"]
    models = evaluate([out, *(out / "onnx" / name for name in FILES.values())], data=split_data, split="dev").models
    for model, (file_format, name) in zip(models[1:], FILES.items(), strict=True):
        assert record[name]["dev"]["accuracy"] == {d: pytest.approx(s.accuracy) for d, s in model.domains.items()}
        assert list(record[name]["dev"]["accuracy"]) == domains
        drop = 100 * (models[0].average.accuracy - model.average.accuracy)
        assert record[name]["dev"]["drop"] == pytest.approx(drop, abs=1e-5)
        for trial in content["tries"]:
            if trial["precision"] == file_format and trial["kept"]:
                assert trial["drop"] == pytest.approx(drop + result.trim_drop, abs=1e-5)
        assert record[name].get("target") == ("avx2" if "int8" in file_format else None)
    assert content["gate"]["drop"] == max(trial["drop"] for trial in content["tries"] if trial["kept"])
    card = (out / "README.md").read_text()
    headings = [line for line in card.splitlines() if line.startswith("## ")]
    vocabulary = ["## Vocabulary"] if "trim_vocabulary" in options else []
    assert headings == [*vocabulary, "## Use", "## ONNX files"]
    total = f"lose at most {content['gate']['drop']:.2f} points of the student's average"
    assert (total in card) is ("trim_vocabulary" in options)
    assert all(card.count(f"| `onnx/{name}` | {file_format} |") == 1 for file_format, name in FILES.items())
    for path in (out / "README.md", out / "onnx/export.json", out / "onnx/self_check.json", out / "hrkd.json"):
        assert "partial" not in path.read_text()


def test_a_format_is_added_to_a_variant(student, split_data):
    out = student.parent / "small"
    export(student, domain="dvd", int8=True, data=split_data, out=out, max_drop=100)
    before = json.loads((out / "onnx/self_check.json").read_text())
    export(out, fp16=True, data=split_data, max_drop=100)
    after = json.loads((out / "onnx/self_check.json").read_text())
    assert after["cases"] == before["cases"]
    assert set(after["files"]) == {FILES["fp32"], FILES["int8"], FILES["fp16"]}
    assert after["files"][FILES["int8"]] == before["files"][FILES["int8"]]
    assert [entry.passed for entry in self_check(out)] == [True] * 3
    card = (out / "README.md").read_text()
    assert card.count("## ONNX files") == 1
    assert "model_fp16.onnx" in card
    assert "model_quantized.onnx` | int8" in card


def test_eval_scores_a_single_domain_export_on_its_domain(student, split_data):
    export(student, domain="dvd")
    variant = student.with_name("student-dvd")
    events = []
    result = evaluate([student, variant / "onnx"], data=split_data, split="dev", on_event=events.append)
    assert [list(model.domains) for model in result.models] == [["dvd"], ["dvd"]]
    assert result.models[1].agreement == 1.0
    assert any("predicts only dvd" in e.text for e in events if isinstance(e, Note))
    # Data with one domain fits under any name; labels are matched by name.
    (student.parent / "new.csv").write_text("text,label,domain\na good book,positive,new\n")
    assert list(evaluate([variant], data=student.parent / "new.csv").models[0].domains) == ["new"]
    others = write_splits(student.parent / "others", {"test": ["a film"]}, domains=("cars", "pans"))
    with pytest.raises(DataError, match=r"no rows to score: .* predicts only dvd"):
        evaluate([variant], data=others)
    export(student, domain="books")
    with pytest.raises(DataError, match=r"no rows to score: .* predicts only books"):
        evaluate([variant, student.with_name("student-books")], data=split_data, split="dev")


def test_a_variant_records_where_its_data_is(student, tmp_path):
    from hrkd_cli import prepare
    from hrkd_cli.data.dataset_folder import open_dataset

    prepare(tmp_path / "dev.csv", out=tmp_path / "dataset", dev=0.3)
    fingerprint = open_dataset(tmp_path / "dataset").fingerprint
    (student / "hrkd.json").write_text(json.dumps({"data": {"path": "../dataset", "fingerprint": fingerprint}}))
    out = tmp_path / "deep/er"
    events = []
    export(student, domain="books", trim_vocabulary=True, int8=True, max_drop=100, out=out, on_event=events.append)
    assert json.loads((out / "hrkd.json").read_text())["data"] == {"path": "../../dataset", "fingerprint": fingerprint}
    assert not [e.text for e in events if isinstance(e, Note) and e.warning and "fingerprint" in e.text]
    assert list(evaluate([out / "onnx"]).models[0].domains) == ["books"]


def test_invalid_domains_models_and_data_are_refused(student, split_data, tmp_path):
    with pytest.raises(ModelError, match=r"no domain 'cars' \(--domain\); it has books, dvd"):
        export(student, domain="cars")
    with pytest.raises(UsageError, match=r"--domain: domain name .* contains a slash"):
        export(student, domain="/../x")
    export(student, domain="books")
    variant = student.with_name("student-books")
    with pytest.raises(ModelError, match="it has only the head of 'books' already"):
        export(variant, domain="books")
    with pytest.raises(ModelError, match="not a multi-domain classifier"):
        export(write_model(tmp_path / "foreign", plain_labels=["a", "b"]), domain="books")
    with pytest.raises(DataError, match="no train rows; trimming keeps"):
        export(student, trim_vocabulary=True)
    with pytest.raises(UsageError, match="--vocabulary-size: 0 is not"):
        export(student, vocabulary_size=0, data=split_data)
    with pytest.raises(UsageError, match="would replace the student"):
        export(student, domain="books", out=student, force=True)
    with pytest.raises(ModelError, match="no such folder"):
        export(tmp_path / "absent", domain="books")
    assert not list(tmp_path.glob("*.partial"))


def test_force_replaces_only_an_earlier_export(student, tmp_path):
    export(student, domain="books")
    with pytest.raises(OutputError, match="exists already"):
        export(student, domain="books")
    assert export(student, domain="books", force=True).domain == "books"
    shutil.copytree(student, tmp_path / "other")
    with pytest.raises(OutputError, match="not a model folder written by hrkd"):
        export(student, domain="books", out=tmp_path / "other", force=True)


def test_a_variant_with_other_logits_is_not_kept(student, monkeypatch):
    from hrkd_cli.onnx_export import variant

    def extract_other_head(model, spec, domain, where):
        swapped = replace(spec.heads, columns={"books": (2, 3), "dvd": (0, 1)})
        original(model, replace(spec, heads=swapped), domain, where)
        return list(spec.heads.columns[domain])

    original = variant.extract_head
    monkeypatch.setattr(variant, "extract_head", extract_other_head)
    with pytest.raises(ModelError, match="logits differ from the student's"):
        export(student, domain="books")
    assert not student.with_name("student-books").exists()


def test_a_domain_keeps_its_own_number_of_labels(tmp_path):
    labels = {"books": ("negative", "positive"), "news": ("politics", "sport", "weather")}
    student = write_model(tmp_path / "student", labels=labels)
    result = export(student, domain="news")
    assert json.loads((tmp_path / "student-news/config.json").read_text())["id2label"] == {
        "0": "politics", "1": "sport", "2": "weather",
    }  # fmt: skip
    assert result.to_json()["domain"] == "news"
