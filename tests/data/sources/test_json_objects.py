import json

import pytest

from hrkd_cli.data.sources.json_objects import find_rows, to_row
from hrkd_cli.errors import DataError
from source_rows import text_label_domain, write_file

ROWS = [("Grüße, größer", "x", "a"), ("zwei", "y", "a")]


LINES = "".join(json.dumps({"text": t, "label": n, "domain": d}, ensure_ascii=False) + "\n" for t, n, d in ROWS)


ARRAY = json.dumps([{"text": t, "label": n, "domain": d} for t, n, d in ROWS], indent=1)


@pytest.mark.parametrize("content", [ARRAY, LINES.replace("\n", ""), LINES])
@pytest.mark.parametrize("name", ["all.json", "all.jsonl"])
def test_arrays_lines_and_concatenated_objects_are_read(tmp_path, read, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert text_label_domain(read(tmp_path / name)[0]) == ROWS


@pytest.mark.parametrize("line", ['{"text": "a"', "[1, 2]", "[" * 100_000, '{"text": ' + "1" * 5000 + "}"])
def test_a_line_that_cannot_be_parsed_is_an_error(tmp_path, read, line):
    path = write_file(tmp_path / "all.jsonl", '{"text": "a", "label": "b", "domain": "c"}\n' + line + "\n")
    with pytest.raises(DataError, match=r"all.jsonl:2: not ") as error:
        read(path)
    assert len(str(error.value)) < 400


FOUND = [{"text": "one", "label": "x"}, {"text": "two", "label": "y"}]


@pytest.mark.parametrize(
    "document",
    [
        {"data": FOUND},
        {"version": "1.0", "labels": ["x", "y"], "rows": FOUND},
        {"columns": ["text", "label"], "index": [0, 1], "data": [["one", "x"], ["two", "y"]]},
        {"text": {"0": "one", "1": "two"}, "label": {"0": "x", "1": "y"}},
        {"text": ["one", "two"], "label": ["x", "y"]},
        {"0": FOUND[0], "1": FOUND[1]},
        {"nlu": {"examples": FOUND, "synonyms": [{"value": "v", "synonyms": ["w"]}]}},
        {"all": [["one", "x"], ["two", "y"]]},
    ],
)
def test_rows_are_found_in_the_layouts_of_pandas_and_below_other_keys(document):
    assert find_rows(document) == FOUND


def test_keys_that_name_splits_are_splits_and_other_keys_of_several_lists_are_domains():
    clinc = {"train": [["a", "x"]], "val": [["b", "x"]], "oos_test": [["c", "oos"]]}
    assert [(row["text"], row["label"], row["split"]) for row in find_rows(clinc)] == [
        ("a", "x", "train"),
        ("b", "x", "dev"),
        ("c", "oos", "test"),
    ]
    # Another key beside splits is a split that is not known: its rows are dropped, not trained on.
    assert [row["split"] for row in find_rows({"train": FOUND[:1], "eval": FOUND[1:]})] == ["train", "eval"]
    assert find_rows({"books": FOUND[:1], "dvd": FOUND[1:]}) == [
        {"domain": "books", **FOUND[0]},
        {"domain": "dvd", **FOUND[1]},
    ]


@pytest.mark.parametrize(
    "document", [FOUND[0], {"a": [{"x": 1}], "b": [{"y": 2}]}, {"text": ["one"], "label": ["x", "y"]}, {"a": [1]}, 3]
)
def test_a_row_and_documents_without_rows_have_none(document):
    assert find_rows(document) is None


def _label_studio(*annotations):
    result = [{"from_name": "sentiment", "value": {"choices": list(each)}} for each in annotations]
    return {"id": 1, "data": {"text": "t"}, "annotations": [{"result": [each]} for each in result]}


@pytest.mark.parametrize(
    ("item", "label"),
    [
        (_label_studio(["good"]), "good"),
        (_label_studio(["good"], ["good"]), "good"),
        (_label_studio(["good"], ["bad"]), ["good", "bad"]),
        ({"data": {"text": "t"}, "annotations": [{"was_cancelled": True, "result": [{}]}]}, None),
        ({"text": "t", "cats": {"good": 1.0, "bad": 0.0}}, "good"),
        ({"text": "t", "cats": {"good": 1.0, "bad": 1.0}}, ["good", "bad"]),
        ({"text": "t", "options": [{"id": "good"}], "accept": ["good"], "answer": "accept"}, "good"),
        ({"text": "t", "label": "good", "answer": "accept"}, "good"),
        ({"text": "t", "label": "good", "answer": "reject"}, "good"),  # its row is dropped
        (["t", "good"], "good"),
        (["t", {"cats": {"good": 1, "bad": 0}}], "good"),
    ],
)
def test_the_label_of_an_annotation_is_accepted_by_all_and_a_list_if_there_are_several(item, label):
    row = to_row(item)
    assert (row["text"], row.get("label")) == ("t", label)


def test_keys_of_nested_objects_are_columns(tmp_path, read, jsonl):
    path = jsonl(tmp_path / "a.jsonl", [{"text": t, "label": "x", "meta": {"source": "books"}} for t in "ab"])
    assert {row.domain for row in read(path, domain="meta.source")[0].examples} == {"books"}


def test_several_lists_without_texts_are_an_error_that_says_how_to_keep_one(tmp_path, read):
    path = tmp_path / "dump.json"
    path.write_text(
        json.dumps({"users": [{"id": 1}], "tickets": [{"body_text": "a"}, {"body_text": "b"}], "tags": ["x"]})
    )
    with pytest.raises(DataError, match=r"several lists \(users, tickets\).*jq .tickets FILE"):
        read(path, text="body_text")


def test_json_in_a_folder_is_read_if_it_has_texts_and_else_named(tmp_path, read):
    for name, content in (("books", FOUND), ("dvd", {"data": FOUND}), ("config", {"a": 1}), ("labels", [{"id": 0}])):
        (tmp_path / f"{name}.json").write_text(json.dumps(content, indent=1))
    raw, notes = read(tmp_path)
    assert {(row.text, row.domain) for row in raw.examples} == {
        (t, d) for t in ("one", "two") for d in ("books", "dvd")
    }
    assert notes == [f"{tmp_path}: not read: config.json, labels.json"]
