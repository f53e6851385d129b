import pytest

from hrkd_cli.data.sources.discover import looks_like_hub_id
from hrkd_cli.errors import DataError


def csv(path, *rows, header="text,label"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n")


def where(raw):
    return sorted((e.text, e.domain, e.split) for e in raw.examples)


def test_a_file_a_domain_in_mixed_formats_with_splits_in_names(tmp_path, read, jsonl):
    csv(tmp_path / "books.train.csv", "a,x")
    csv(tmp_path / "books.test.csv", "b,x")
    csv(tmp_path / "mr.bean.val.csv", "c,x")
    jsonl(tmp_path / "dvd.jsonl", [{"text": "d", "label": "x"}])
    (tmp_path / "toys.tsv").write_text("text\tlabel\ne\tx\n")
    raw, _ = read(tmp_path)
    assert where(raw) == [
        ("a", "books", "train"),
        ("b", "books", "test"),
        ("c", "mr.bean", "dev"),
        ("d", "dvd", None),
        ("e", "toys", None),
    ]
    assert [s["path"] for s in raw.checksums] == [
        "books.test.csv",
        "books.train.csv",
        "dvd.jsonl",
        "mr.bean.val.csv",
        "toys.tsv",
    ]


@pytest.mark.parametrize("name", ["dev", "val", "valid", "validation", "Validation"])
def test_names_of_dev(tmp_path, read, name):
    csv(tmp_path / "books" / f"{name}.csv", "a,x")
    raw, _ = read(tmp_path)
    assert where(raw) == [("a", "books", "dev")]


def test_a_folder_a_domain(tmp_path, read):
    csv(tmp_path / "books" / "train.csv", "a,x")
    csv(tmp_path / "books" / "test.csv", "b,x")
    csv(tmp_path / "dvd" / "part1.csv", "c,x")
    csv(tmp_path / "dvd" / "part2.csv", "d,x")
    raw, _ = read(tmp_path)
    assert where(raw) == [("a", "books", "train"), ("b", "books", "test"), ("c", "dvd", None), ("d", "dvd", None)]


def test_split_files_with_a_domain_column(tmp_path, read):
    csv(tmp_path / "train.csv", "a,x,books", header="text,label,genre")
    csv(tmp_path / "test-00000-of-00001.csv", "b,x,dvd", header="text,label,genre")
    raw, _ = read(tmp_path)
    assert where(raw) == [("a", "books", "train"), ("b", "dvd", "test")]


def test_split_files_without_a_domain_column_are_an_error(tmp_path, read):
    csv(tmp_path / "train.csv", "a,x")
    with pytest.raises(DataError, match=r"train.csv: no domain column found"):
        read(tmp_path)


def test_folders_named_as_splits(tmp_path, read):
    csv(tmp_path / "train" / "books.csv", "a,x")
    csv(tmp_path / "test" / "books.csv", "b,x")
    raw, _ = read(tmp_path)
    assert where(raw) == [("a", "books", "train"), ("b", "books", "test")]


def test_only_a_column_called_domain_or_a_named_one_overrules_the_file_name(tmp_path, read):
    csv(tmp_path / "one.csv", "a,x,g,k", header="text,label,genre,Domain")
    csv(tmp_path / "two.csv", "b,x,g", header="text,label,genre")
    raw, _ = read(tmp_path)
    assert where(raw) == [("a", "k", None), ("b", "two", None)]
    raw, _ = read(tmp_path, domain="genre")
    assert where(raw) == [("a", "g", None), ("b", "g", None)]


def test_companions_are_skipped_and_other_files_noted(tmp_path, read):
    csv(tmp_path / "books.csv", "a,x")
    for name in ("README.md", "LICENSE", "LICENSE.txt", ".hidden.csv", "load.py", "extra.xlsx", "notes.txt"):
        (tmp_path / name).write_text("x")
    (tmp_path / "__pycache__").mkdir()
    raw, notes = read(tmp_path)
    assert where(raw) == [("a", "books", None)]
    assert notes == [f"{tmp_path}: not read: extra.xlsx, notes.txt"]


def test_a_named_format_restricts(tmp_path, read, jsonl):
    csv(tmp_path / "books.csv", "a,x")
    jsonl(tmp_path / "dvd.jsonl", [{"text": "d", "label": "x"}])
    raw, notes = read(tmp_path, format="jsonl")
    assert where(raw) == [("d", "dvd", None)]
    assert notes == [f"{tmp_path}: not read: books.csv"]
    with pytest.raises(DataError, match=r"no parquet data in this folder.*not read: books.csv, dvd.jsonl"):
        read(tmp_path, format="parquet")


def test_a_named_format_reads_a_file_of_another_name(tmp_path, read):
    csv(tmp_path / "all.data", "a,x,d", header="text,label,domain")
    with pytest.raises(DataError, match=r"all.data: unknown kind of file; name its format"):
        read(tmp_path / "all.data")
    raw, _ = read(tmp_path / "all.data", format="csv")
    assert where(raw) == [("a", "d", None)]


def test_a_folder_with_no_data_is_an_error(tmp_path, read):
    (tmp_path / "README.md").write_text("x")
    (tmp_path / "sub").mkdir()
    with pytest.raises(DataError, match="no data in this folder"):
        read(tmp_path)


@pytest.mark.parametrize("source", ["./nowhere", "/no/where", "reviews.csv", "data/reviews.jsonl", "", "a/b/c"])
def test_a_path_that_is_not_there_is_said_to_be_so(read, source):
    with pytest.raises(DataError, match=r"no such file or folder"):
        read(source)


def test_what_could_be_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert looks_like_hub_id("imdb")
    assert looks_like_hub_id("acme/reviews")
    assert looks_like_hub_id("nyu-mll/glue:mnli")
    assert not looks_like_hub_id("here/reviews")
    assert not looks_like_hub_id("acme/reviews.csv")
    assert not looks_like_hub_id("~/reviews")


def test_domains_keeps_some_and_names_those_there_are(tmp_path, read):
    csv(tmp_path / "books.csv", "a,x", ",x")
    csv(tmp_path / "dvd.csv", "b,x", ",x")
    raw, _ = read(tmp_path, domains=["dvd"])
    assert where(raw) == [("b", "dvd", None)]
    assert [row.location for row in raw.dropped] == [f"{tmp_path}/dvd.csv:3"]
    with pytest.raises(DataError, match=r"no domain 'toys' .--domains.; there are books, dvd"):
        read(tmp_path, domains=["dvd", "toys"])


def test_a_domain_without_a_usable_row_is_an_error(tmp_path, read):
    csv(tmp_path / "books.csv", "a,x")
    csv(tmp_path / "dvd.csv", "b,")
    with pytest.raises(DataError, match=r"no row of domain 'dvd' can be used: 1 x no label .first: .*dvd.csv:2"):
        read(tmp_path)


def test_data_that_lies_too_deep_is_named(tmp_path, read):
    (tmp_path / "more" / "dvd").mkdir(parents=True)
    for path in (tmp_path / "books.csv", tmp_path / "more" / "dvd" / "part.csv"):
        path.write_text("text,label\na,x\n")
    _, notes = read(tmp_path)
    assert notes == [f"{tmp_path}: not read: more/dvd/ (too deep)"]
