import hashlib

import pytest

from hrkd_cli import prepare
from hrkd_cli.errors import DataError, UsageError
from source_rows import text_domain_split, write_csv_file


def test_only_the_given_domains_are_kept_and_an_unknown_one_is_an_error(tmp_path, read):
    write_csv_file(tmp_path / "books.csv", "a,x", ",x")
    write_csv_file(tmp_path / "dvd.csv", "b,x", ",x")
    raw, _ = read(tmp_path, domains=["dvd"])
    assert text_domain_split(raw) == [("b", "dvd", None)]
    assert [row.location for row in raw.dropped] == [f"{tmp_path}/dvd.csv:3"]
    with pytest.raises(DataError, match=r"no domain 'toys' .--domains.; there are books, dvd"):
        read(tmp_path, domains=["dvd", "toys"])


def test_the_first_error_in_the_source_is_reported(tmp_path, jsonl):
    folder = tmp_path / "in"
    rows = [{"text": f"t{i}", "label": i % 2} for i in range(60)]
    jsonl(folder / "a.jsonl", rows)
    (folder / "b.csv").write_text("text,label\n")
    (folder / "c.csv").write_text("text,label\n" + "t,l\n" * 60 + '"t" t,l\n')
    (folder / "d.csv").write_text("no,columns\nx,y\n")
    for name, message in (("b", "b.csv: no rows in it"), ("c", "c.csv:62: not valid"), ("d", "d.csv: no text column")):
        with pytest.raises(DataError, match=message):
            prepare(folder, out=tmp_path / "out")
        (folder / f"{name}.csv").unlink()
    assert prepare(folder, out=tmp_path / "out").domains["a"].train == 48


def test_an_unknown_encoding_is_a_usage_error(tmp_path, read):
    write_csv_file(tmp_path / "books.csv", "a,x")
    for name in ("klingon", "rot13"):
        with pytest.raises(UsageError, match=f"--encoding: '{name}' is not a known encoding"):
            read(tmp_path, encoding=name)


def test_a_split_column_overrides_the_file_name_only_if_it_is_named(tmp_path, read):
    write_csv_file(tmp_path / "books.train.csv", "a,x,test", header="text,label,split")
    assert text_domain_split(read(tmp_path)[0]) == [("a", "books", "train")]
    assert text_domain_split(read(tmp_path, split="split")[0]) == [("a", "books", "test")]


def test_one_domain_is_that_of_all_rows_and_category_may_then_be_the_label(tmp_path, read):
    write_csv_file(tmp_path / "train.csv", "a,x", header="text,category")
    with pytest.raises(
        DataError, match=r"no domain column found .*prepare --domain, make all .* with hrkd prepare --one-domain NAME"
    ):
        read(tmp_path)
    assert [(e.label, e.domain) for e in read(tmp_path, one_domain="bank")[0].examples] == [("x", "bank")]
    path = write_csv_file(tmp_path / "two.csv", "a,x,books", "b,y,dvd", header="text,label,domain")
    assert [(e.label, e.domain) for e in read(path, one_domain="all")[0].examples] == [("x", "all"), ("y", "all")]


def test_a_test_file_without_labels_is_a_warning_beside_files_with_labels(tmp_path, read):
    write_csv_file(tmp_path / "test.csv", "b,d", header="text,domain")
    with pytest.raises(DataError, match=r"test.csv: no label column found"):
        read(tmp_path)
    write_csv_file(tmp_path / "train.csv", "a,x,d", header="text,label,domain")
    raw, notes = read(tmp_path)
    assert text_domain_split(raw) == [("a", "d", "train")]
    assert notes == [
        f"not read: {tmp_path}/test.csv: no label column found (columns: text, domain); "
        "name it with hrkd prepare --label"
    ]
    # Anything else is an error: test rows would be drawn from train instead.
    for content in (b"text,label,domain\nna\xefve,x,d\n", b"text,text,label,domain\na,a,x,d\n"):
        (tmp_path / "test.csv").write_bytes(content)
        with pytest.raises(DataError, match=r"test.csv:2: not UTF-8|test.csv: 2 columns are called 'text'"):
            read(tmp_path)
    (tmp_path / "test.csv").unlink()
    write_csv_file(tmp_path / "dev.csv", "a,d", header="text,domain")
    with pytest.raises(DataError, match=r"dev.csv: no label column found"):
        read(tmp_path)


def test_checksums_are_those_of_the_files(tmp_path, read):
    path = write_csv_file(tmp_path / "books" / "train.csv", "a,x")
    content = path.read_bytes()
    assert read(tmp_path)[0].checksums == [
        {"path": "books/train.csv", "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    ]


def test_several_columns_of_zeros_and_ones_are_named_as_several_labels(tmp_path, read):
    path = write_csv_file(tmp_path / "d.csv", "a,0,1,1,7", "b,1,0,0,8", header="text,toxic,insult,threat,id")
    message = r"d.csv: several labels per row .toxic, insult, threat.; .*with hrkd prepare --label; no label column"
    with pytest.raises(DataError, match=message):
        read(path.parent)
    assert [row.label for row in read(path.parent, label="toxic")[0].examples] == ["0", "1"]
    with pytest.raises(DataError, match="no column 'gone'"):
        read(path.parent, label="gone")
    path = write_csv_file(tmp_path / "d.csv", "a,0,1,1,x", header="opinion,helpful,verified,vine,label")
    with pytest.raises(DataError, match=r"no text column found .*--text$"):
        read(path.parent)
