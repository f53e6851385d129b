import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from tokenizers import Tokenizer

from exporting import export, write_splits
from hrkd_cli import Predictor, evaluate
from hrkd_cli.errors import DataError, ModelError, OutputError, UsageError
from hrkd_cli.events import Note
from hrkd_cli.models.torch_backend import TorchBackend
from hrkd_cli.predict.selfcheck import self_check
from tiny_folder import CONFIGS, MAX_LENGTH, make_texts, write_model
from vocabularies import KINDS, SPECIAL, small_data, wrapped

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
    whole = Predictor(any_student).logits(texts)
    for model in (out, out / FP32):
        single = Predictor(model)
        np.testing.assert_allclose(single.logits(texts), whole[:, columns], atol=1e-4)
        own = Predictor(any_student).predict(texts, domain="dvd")
        assert [p.label for p in single.predict(texts)] == [p.label for p in own]
        assert [p.label for p in single.predict(texts, domain="dvd")] == [p.label for p in own]
        with pytest.raises(UsageError, match="not one of the model's: dvd, any"):
            single.predict(texts, domain="books")
    config = json.loads((out / "config.json").read_text())
    assert config["id2label"] == {"0": "negative", "1": "positive"}
    assert config["label2id"] == {"negative": 0, "positive": 1}
    assert "domains" not in config["hrkd"]


def test_a_transformers_pipeline_opens_a_single_domain_export(any_student):
    from transformers import pipeline

    export(any_student, domain="books")
    texts = make_texts(10)
    found = pipeline("text-classification", model=str(any_student.with_name("student-books")), truncation=True)(texts)
    assert [f["label"] for f in found] == [p.label for p in Predictor(any_student).predict(texts, domain="books")]


@pytest.mark.parametrize("truncate", ["tail", "head-tail"])
def test_long_texts_are_truncated_as_by_the_student(student, truncate):
    from transformers import AutoTokenizer

    config = json.loads((student / "config.json").read_text())
    config["hrkd"]["truncate"] = truncate
    (student / "config.json").write_text(json.dumps(config))
    if truncate == "tail":  # as hrkd saves it
        settings = json.loads((student / "tokenizer_config.json").read_text())
        (student / "tokenizer_config.json").write_text(json.dumps({**settings, "truncation_side": "left"}))
    result = export(student, domain="books", int8=True, max_drop=100)
    long = [" ".join(make_texts(12)), " ".join(make_texts(12, 5))]
    single = TorchBackend(result.out)
    own = [e.ids for e in single.tokenizer.encode(long)]
    assert [len(ids) for ids in own] == [MAX_LENGTH] * 2
    np.testing.assert_allclose(single.logits(long), Predictor(student).logits(long)[:, :2], atol=1e-4)
    # Pipelines know the two ends, and the card says so where that is not enough.
    theirs = AutoTokenizer.from_pretrained(result.out)(long, truncation=True)["input_ids"]
    assert (own == theirs) is (truncate == "tail")
    card = (student.with_name("student-books") / "README.md").read_text()
    assert ("Other tools keep the head only" in card) is (truncate == "head-tail")


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert", "modernbert"])
def test_all_tokenizers_and_architectures_can_be_trimmed_and_reduced_to_one_domain(tmp_path, kind, architecture):
    from transformers import AutoTokenizer, pipeline

    tokenizer = wrapped(KINDS[kind](), pair_of_roberta=kind == "BPE")
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
    own = Tokenizer.from_file(str(out / "tokenizer.json"))
    assert config["vocab_size"] == own.get_vocab_size() == result.vocabulary.after < result.vocabulary.before
    assert config["pad_token_id"] == own.token_to_id("<pad>")
    opened = AutoTokenizer.from_pretrained(out)
    assert opened(dev)["input_ids"] == [e.ids for e in own.encode_batch(dev)]
    assert opened.pad_token == "<pad>"
    assert {opened.convert_tokens_to_ids(t) for t in SPECIAL} == {own.token_to_id(t) for t in SPECIAL}
    found = pipeline("text-classification", model=str(out), truncation=True)(dev, batch_size=2)
    assert [f["label"] for f in found] == [p.label for p in Predictor(out).predict(dev)]


def test_json_and_card_report_the_trimming(student, split_data):
    out = student.parent / "small"
    result = export(student, trim_vocabulary=True, int8=True, data=split_data, out=out, max_drop=100).to_json()
    found = result["vocabulary"]
    assert sum(found["kept"].values()) == found["after"] < found["before"] == 80
    assert found["dev"]["changed"] > 0
    assert found["train"]["changed"] == found["characters_lost"] == 0
    scores = evaluate([student, out, out / INT8], data=split_data, split="dev").models
    assert found["accuracy_drop"] == pytest.approx(
        100 * (scores[0].average.accuracy - scores[1].average.accuracy), abs=1e-5
    )
    # The gate is over all that was lost, by trimming and by quantising.
    lost = 100 * (scores[0].average.accuracy - scores[2].average.accuracy)
    assert result["gate"] == {"max_drop": 100, "drop": pytest.approx(lost, abs=1e-5), "passed": True}
    card = (out / "README.md").read_text()
    assert f"Vocabulary trimmed from 80 to {found['after']} tokens" in card
    assert "`onnx/model_quantized.onnx` | int8" in card
    record = json.loads((out / "hrkd.json").read_text())
    assert (record["stage"], record["vocabulary"]["after"]) == ("export", found["after"])
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
    "cut", [{"domain": "dvd"}, {"trim_vocabulary": True}, {"domain": "dvd", "trim_vocabulary": True}]
)
def test_every_format_of_a_variant(student, split_data, cut):
    out = student.parent / "small"
    result = export(student, **cut, **PRECISIONS, target="avx2", runtime=True, data=split_data, out=out, max_drop=100)
    found = result.to_json()
    assert {f["precision"]: f["path"] for f in found["files"]} == {p: str(out / "onnx" / f) for p, f in FILES.items()}
    assert sorted(p.name for p in (out / "onnx").iterdir()) == sorted(
        [*FILES.values(), "export.json", "self_check.json"]
    )
    assert (out / "hrkd_runtime.pyz").is_file()
    assert [entry.passed for entry in self_check(out)] == [True] * len(FILES)
    assert {entry.file for entry in self_check(out)} == set(FILES.values())
    # Scored with the folder's own weights on its own domains; counted from the student on in what is returned.
    record = json.loads((out / "onnx/export.json").read_text())["files"]
    assert set(record) == set(FILES.values())
    domains = [cut["domain"]] if "domain" in cut else ["books", "dvd"]
    models = evaluate([out, *(out / "onnx" / name for name in FILES.values())], data=split_data, split="dev").models
    for model, (precision, name) in zip(models[1:], FILES.items(), strict=True):
        assert record[name]["dev"]["accuracy"] == {d: pytest.approx(s.accuracy) for d, s in model.domains.items()}
        assert list(record[name]["dev"]["accuracy"]) == domains
        lost = 100 * (models[0].average.accuracy - model.average.accuracy)
        assert record[name]["dev"]["drop"] == pytest.approx(lost, abs=1e-5)
        for one in found["tries"]:
            if one["precision"] == precision and one["kept"]:
                assert one["drop"] == pytest.approx(lost + result.trim_drop, abs=1e-5)
        assert record[name].get("target") == ("avx2" if "int8" in precision else None)
    assert found["gate"]["drop"] == max(one["drop"] for one in found["tries"] if one["kept"])
    card = (out / "README.md").read_text()
    headings = [line for line in card.splitlines() if line.startswith("## ")]
    vocabulary = ["## Vocabulary"] if "trim_vocabulary" in cut else []
    assert headings == [*vocabulary, "## Use", "## ONNX files"]
    total = f"lose at most {found['gate']['drop']:.2f} points of the student's average"
    assert (total in card) is ("trim_vocabulary" in cut)
    assert all(card.count(f"| `onnx/{name}` | {precision} |") == 1 for precision, name in FILES.items())
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
    single = student.with_name("student-dvd")
    seen = []
    found = evaluate([student, single / "onnx"], data=split_data, split="dev", on_event=seen.append)
    assert [list(model.domains) for model in found.models] == [["dvd"], ["dvd"]]
    assert found.models[1].agreement == 1.0
    assert any("is the head of dvd alone" in e.text for e in seen if isinstance(e, Note))
    # Data of one domain, whatever it is called: labels are matched by name.
    (student.parent / "new.csv").write_text("text,label,domain\na good book,positive,new\n")
    assert list(evaluate([single], data=student.parent / "new.csv").models[0].domains) == ["new"]
    others = write_splits(student.parent / "others", {"test": ["a film"]}, domains=("cars", "pans"))
    with pytest.raises(DataError, match="no domain 'dvd', whose head"):
        evaluate([single], data=others)
    export(student, domain="books")
    with pytest.raises(UsageError, match="no row is for both"):
        evaluate([single, student.with_name("student-books")], data=split_data, split="dev")


def test_a_variant_records_where_its_data_is(student, tmp_path):
    from hrkd_cli import prepare
    from hrkd_cli.data.dataset_folder import open_dataset

    prepare(tmp_path / "dev.csv", out=tmp_path / "dataset", dev=0.3)
    fingerprint = open_dataset(tmp_path / "dataset").fingerprint
    (student / "hrkd.json").write_text(json.dumps({"data": {"path": "../dataset", "fingerprint": fingerprint}}))
    out = tmp_path / "deep/er"
    seen = []
    export(student, domain="books", trim_vocabulary=True, int8=True, max_drop=100, out=out, on_event=seen.append)
    assert json.loads((out / "hrkd.json").read_text())["data"] == {"path": "../../dataset", "fingerprint": fingerprint}
    assert not [e.text for e in seen if isinstance(e, Note) and e.warning and "fingerprint" in e.text]
    assert list(evaluate([out / "onnx"]).models[0].domains) == ["books"]


def test_invalid_domains_models_and_data_are_refused(student, split_data, tmp_path):
    with pytest.raises(ModelError, match=r"no domain 'cars' \(--domain\); it has books, dvd"):
        export(student, domain="cars")
    export(student, domain="books")
    single = student.with_name("student-books")
    with pytest.raises(ModelError, match="it is the head of 'books' alone already"):
        export(single, domain="books")
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

    def wrong(model, spec, domain, where):
        swapped = replace(spec.heads, columns={"books": (2, 3), "dvd": (0, 1)})
        bake(model, replace(spec, heads=swapped), domain, where)
        return list(spec.heads.columns[domain])

    bake = variant.extract_head
    monkeypatch.setattr(variant, "extract_head", wrong)
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
