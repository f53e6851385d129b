import pytest

from hrkd_cli.data.dataset import Dataset, TextRows
from hrkd_cli.data.dataset_loading import load_for_evaluation
from hrkd_cli.errors import DataError


def make_rows(*texts, label="a"):
    return TextRows(list(texts), None, [label] * len(texts))


def test_domains_and_labels_are_sorted_and_splits_are_in_fixed_order():
    splits = {"test": make_rows("x", label="b"), "train": make_rows("y")}
    dataset = Dataset.from_rows({"dvd": splits, "books": {"dev": make_rows("z")}}, has_pairs=False)
    assert dataset.domains == ("books", "dvd")
    assert dataset.labels == {"books": ("a",), "dvd": ("a", "b")}
    assert list(dataset.rows["dvd"]) == ["train", "test"]
    assert dataset.split("dvd", "all").texts == ["y", "x"]
    assert len(dataset.split("dvd", "dev")) == 0


def test_selected_domains_keep_the_fingerprint_of_the_whole():
    dataset = Dataset.from_rows({d: {"train": make_rows(d)} for d in ("a", "b", "c")}, has_pairs=False)
    selected = dataset.select_domains("c", "a")
    assert selected.domains == tuple(selected.rows) == ("a", "c")
    assert selected.fingerprint == dataset.fingerprint


def test_only_equal_rows_have_an_equal_fingerprint():
    def fingerprint(*texts):
        return Dataset.from_rows({"d": {"test": make_rows(*texts)}}, has_pairs=False).fingerprint

    assert fingerprint("x", "y") == fingerprint("x", "y")
    assert len({fingerprint("x", "y"), fingerprint("y", "x"), fingerprint("x", "y", "z")}) == 3


def test_raw_data_with_equal_rows_has_an_equal_fingerprint(tmp_path, jsonl):
    rows = [{"text": "x", "label": "a"}, {"text": "y", "label": "b"}]
    fingerprints = []
    for name, content in (("one", rows), ("two", rows), ("three", [*rows, {"text": "z", "label": "b"}])):
        jsonl(tmp_path / name / "d.jsonl", content)
        fingerprints.append(load_for_evaluation(tmp_path / name, "test").fingerprint)
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_names_of_a_dataset_in_memory_are_checked():
    for domain, label, message in (("../x", "a", "name '../x' contains a slash"), ("x", "a\n", "label 'a.n' contains")):
        with pytest.raises(DataError, match=message):
            Dataset.from_rows({domain: {"train": make_rows("t", label=label)}}, has_pairs=False)


def test_domains_that_are_added_with_their_labels_have_no_rows():
    rows = {domain: {"train": make_rows(domain), "dev": make_rows("x", label="b")} for domain in ("books", "music")}
    data = Dataset.from_rows(rows, has_pairs=False)
    more = data.with_labels({"garden": ("a", "b"), "music": ("a", "b", "c")})
    assert list(more.labels.items()) == [("books", ("a", "b")), ("garden", ("a", "b")), ("music", ("a", "b", "c"))]
    assert more.rows["music"] == data.rows["music"]
    assert len(more.split("garden", "all")) == 0
    assert (data.new_domains, more.new_domains) == ((), ("garden",))
    assert more.without_new_domains.domains == data.domains
