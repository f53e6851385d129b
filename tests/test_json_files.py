import json

import pytest

from hrkd_cli.errors import ModelError
from hrkd_cli.json_files import read_json, read_json_or_empty


@pytest.fixture
def file(tmp_path):
    return tmp_path / "config.json"


def test_an_object_is_read(file):
    file.write_text('{"name": "é \\ud83d\\ude00"}', encoding="utf-8")
    assert read_json(file) == read_json_or_empty(file) == {"name": "é 😀"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2", "cannot be read as JSON"),
        ("[1]", "not a JSON object"),
        ("\xff", "cannot be read"),
        ('{"name": "\\uD800"}', "cannot be read as JSON .*surrogates not allowed"),
    ],
)
def test_a_damaged_file_is_an_error_or_empty(file, text, message):
    file.write_text(text, encoding="latin-1")
    with pytest.raises(ModelError, match=message):
        read_json(file, missing_ok=True)
    assert read_json_or_empty(file) == {}


def test_a_missing_file_is_an_error_or_empty(file):
    with pytest.raises(ModelError, match="no such file"):
        read_json(file)
    assert read_json(file, missing_ok=True) == read_json_or_empty(file) == {}


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("config.json", {"hrkd": []}, "hrkd is not an object"),
        ("config.json", {"hrkd": {"max_length": True}}, "hrkd.max_length is not a whole number above 0"),
        ("config.json", {"hrkd": {"domains": {"books": ["good", 1]}}}, "hrkd.domains.books[1] is not text"),
        ("config.json", {"hrkd": {"pair": 1}}, "hrkd.pair is not true or false"),
        ("config.json", {"id2label": {"x": "a"}}, "id2label has a name that is not a whole number, 'x'"),
        ("config.json", {"architectures": "Bert"}, "architectures is not a list"),
        ("tokenizer_config.json", {"model_max_length": float("inf")}, "model_max_length is not a number"),
        ("hrkd.json", {"results": {"best": {"step": "3"}}}, "results.best.step is not a whole number"),
        (
            "hrkd.json",
            {"results": {"best": {"dev": {"domains": {}, "average": {"accuracy": "high", "macro_f1": 1}}}}},
            "results.best.dev.average.accuracy is not a number",
        ),
        ("export.json", {}, "files is missing"),
        ("self_check.json", {"format": 1, "cases": None, "files": {}, "sha256": {}}, "cases is not a list"),
    ],
)
def test_a_value_of_another_type_is_an_error_or_the_file_counts_as_empty(tmp_path, name, content, problem):
    file = tmp_path / name
    file.write_text(json.dumps(content))
    with pytest.raises(ModelError) as caught:
        read_json(file)
    assert str(caught.value) == f"{file}: {problem}; it was edited or damaged, or another version of hrkd wrote it"
    assert read_json_or_empty(file) == {}


def test_null_and_unknown_values_are_read(tmp_path):
    file = tmp_path / "config.json"
    content = {"hrkd": {"domains": None, "max_length": 1, "new": [1]}, "id2label": {"0": 5}, "other": {"a": 1}}
    file.write_text(json.dumps(content))
    assert read_json(file) == content


def test_deep_nesting_is_an_error(file):
    file.write_text("[" * 100_000)
    with pytest.raises(ModelError, match="cannot be read as JSON"):
        read_json(file)
