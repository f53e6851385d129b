import datetime
import subprocess
import sys
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hrkd_cli.data.texts import read_texts
from hrkd_cli.errors import DataError, UsageError
from hrkd_cli.predict.text_input import InputRow


def row(line, text, **kept):
    return InputRow(text, "auto", {"line": line, **kept})


def kept(rows):
    """Return the fields of rows without their line numbers."""
    return [{name: value for name, value in row.fields.items() if name != "line"} for row in rows]


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_each_line_of_a_text_file_is_a_row_even_if_it_is_blank(tmp_path):
    content = "one\u0085still one\r\n\n  \ntwo, with commas\n"
    rows = [row(1, "one\u0085still one"), row(2, ""), row(3, "  "), row(4, "two, with commas")]
    assert list(read_texts(write(tmp_path / "a.txt", content))) == rows


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'text,label,text_pair\n"a, b",x,p\n,,q\n'),
        ("a.tsv", "text\tlabel\ttext_pair\na, b\tx\tp\n\t\tq\n"),
        ("a.jsonl", '{"text": "a, b", "text_pair": "p"}\n{"text": null, "text_pair": "q"}\n'),
    ],
)
def test_files_with_columns_need_no_label_and_keep_every_row(tmp_path, name, content):
    first = 1 if name.endswith(".jsonl") else 2  # line 1 is the header
    write(tmp_path / name, content)
    texts = {
        pair: [(row.fields["line"], row.text) for row in read_texts(tmp_path / name, has_pairs=pair)]
        for pair in (False, True)
    }
    assert texts == {
        False: [(first, "a, b"), (first + 1, "")],
        True: [(first, ("a, b", "p")), (first + 1, ("", "q"))],
    }


def test_parquet_files_are_read(tmp_path):
    pq.write_table(pa.table({"sentence": ["a", "b"]}), tmp_path / "a.parquet")
    assert list(read_texts(tmp_path / "a.parquet")) == [row(1, "a"), row(2, "b")]


def test_columns_can_be_named_and_the_only_column_is_the_text(tmp_path):
    path = write(tmp_path / "a.csv", "x,y\na,b\n")
    assert list(read_texts(path, text="y", text_pair="x")) == [row(2, ("b", "a"), x="a")]
    assert list(read_texts(write(tmp_path / "b.csv", "opinion\na\n"))) == [row(2, "a")]
    with pytest.raises(DataError, match=r"no text column found .columns: x, y"):
        read_texts(path)
    with pytest.raises(DataError, match=r"no column 'z' .--text.; columns: x, y"):
        read_texts(path, text="z")


def test_other_columns_are_kept_and_renamed_if_a_key_of_the_record_has_their_name(tmp_path):
    path = write(tmp_path / "a.csv", "id,body,domain,label,input_label,id\n007,a,books,pos,x,8\n")
    fields = {"id": "007", "input_label": "pos", "input_input_label": "x", "input_id": "8"}
    assert kept(read_texts(path, domains=["books"])) == [fields]
    # A column of domains that gives no row its domain is another column.
    assert kept(read_texts(path)) == [{**fields, "input_domain": "books"}]


def test_kept_values_are_as_in_the_file_unless_json_has_no_such_value(tmp_path):
    first = '{"text": "a", "id": 1, "tags": ["\\ud800é", {"y": NaN}], "name\\ud800": "\\ud800é"}'
    lines = f'{first}\n{{"text": "b", "id": null}}\n'
    rows = kept(read_texts(write(tmp_path / "a.jsonl", lines)))
    assert rows[0] == {"id": 1, "tags": ["\\ud800é", {"y": None}], "name\\ud800": "\\ud800é"}
    assert rows[1] == {"id": None, "tags": None, "name\\ud800": None}
    day = datetime.date(2026, 1, 2)
    pq.write_table(
        pa.table({"text": ["a"], "day": [day], "n": [float("inf")], "s": [{"k": 1}]}), tmp_path / "a.parquet"
    )
    assert kept(read_texts(tmp_path / "a.parquet")) == [{"day": "2026-01-02", "n": None, "s": {"k": 1}}]


def test_columns_of_one_name_in_a_parquet_file_are_all_kept(tmp_path):
    columns = [pa.array(values) for values in (["a", "b"], [1, 2], [3, 4])]
    pq.write_table(pa.Table.from_arrays(columns, names=["text", "id", "id"]), tmp_path / "a.parquet")
    assert kept(read_texts(tmp_path / "a.parquet")) == [
        {"id": 1, "input_id": 3},
        {"id": 2, "input_id": 4},
    ]


def test_rows_are_read_one_after_the_other_and_again_each_time(tmp_path):
    rows = read_texts(write(tmp_path / "a.csv", "text\n" + "a\n" * 6000))
    tracemalloc.start()
    try:
        assert sum(1 for _ in rows) == sum(1 for _ in rows) == 6000
        assert tracemalloc.get_traced_memory()[1] < 300_000  # a list of the rows takes 1 MB
    finally:
        tracemalloc.stop()


def test_unusable_input_is_an_error_of_one_line(tmp_path):
    with pytest.raises(DataError, match=r"nowhere.csv: cannot be read: No such file"):
        read_texts(tmp_path / "nowhere.csv")
    with pytest.raises(DataError, match=r"a.txt:2: not UTF-8"):
        list(read_texts(write(tmp_path / "a.txt", b"a\n\xff\n")))
    with pytest.raises(DataError, match=r"a.csv:3: wrong number of fields; expected 2"):
        list(read_texts(write(tmp_path / "a.csv", "text,b\na,b\nc\n")))
    with pytest.raises(UsageError, match="--text-pair: lines of text have no columns"):
        read_texts(tmp_path / "a.txt", text_pair="b")


@pytest.mark.parametrize(
    ("content", "domains"),
    [
        ("text,domain\na,books\nb, dvd \nc,\n", ["books", "dvd", "given"]),
        ("text,domain\na,auto\n", ["auto"]),
        ("text,genre\na,books\nb,dvd\n", ["books", "dvd"]),
        ("text,topic\na,cars\nb,tea\n", ["given", "given"]),  # about something else
        ("text\na\n", ["given"]),
    ],
)
def test_rows_have_the_domain_of_their_column(tmp_path, content, domains):
    path = write(tmp_path / "a.csv", content)
    rows = read_texts(path, domains=["books", "dvd"], default_domain="given")
    assert [row.domain for row in rows] == domains
    assert {row.domain for row in read_texts(path)} == {"auto"}


def test_a_domain_that_the_model_does_not_have_is_an_error_with_file_and_line(tmp_path):
    message = r"a.csv:3: domain 'cars' .column 'domain'. is not one of the model's: books, dvd; .*--domain"
    with pytest.raises(DataError, match=message):
        list(read_texts(write(tmp_path / "a.csv", "text,domain\na,books\nb,cars\n"), domains=["books", "dvd"]))
    with pytest.raises(DataError, match=r"a.csv:2: .*; did you mean books.$"):
        list(read_texts(write(tmp_path / "a.csv", "text,domain\na,book\n"), domains=["books", "dvd"]))
    with pytest.raises(DataError, match=r"a.csv:2: domain 'DVD' .column 'category'.* did you mean dvd.$"):
        list(read_texts(write(tmp_path / "a.csv", "text,category\na,DVD\n"), domains=["books", "dvd"]))
    with pytest.raises(DataError, match=r"a.jsonl:1: domain \"\['books'\]\" .column 'domain'."):
        list(read_texts(write(tmp_path / "a.jsonl", '{"text": "a", "domain": ["books"]}\n'), domains=["books"]))


@pytest.mark.parametrize(
    ("name", "content", "separator"),
    [
        ("a.txt", "text;domain\ngood, yes;books\n", ";"),
        ("a.txt", "good;books;1\nbad;dvd;2\n", ";"),
        ("a.tsv", "text,label\ngood,1\n", ","),
        ("a.txt", "id\tbody\n1\tgood\n", r"\t"),
        ("a.txt", "good\nbad; and ugly\n", None),
        ("a.txt", "good, yes\nbad, no\n", None),
        ("a.txt", "good; yes\n", None),
    ],
)
def test_a_table_read_as_lines_of_text_gives_a_warning(tmp_path, name, content, separator):
    notes = []
    read_texts(write(tmp_path / name, content), on_event=notes.append)
    assert [note.warning for note in notes] == [True] * (separator is not None)
    assert separator is None or f"look like rows of a table separated by '{separator}'" in notes[0].text


def test_no_heavy_library_is_imported(tmp_path):
    paths = [
        write(tmp_path / "a.txt", "a\n"),
        write(tmp_path / "a.csv", "text\na\n"),
        write(tmp_path / "a.tsv", "text\na\n"),
        write(tmp_path / "a.jsonl", '{"text": "a"}\n'),
    ]
    code = (
        "import sys, pathlib\nfrom hrkd_cli.data.texts import read_texts\n"
        "for p in sys.argv[1:]: assert [row.text for row in read_texts(pathlib.Path(p))] == ['a'], p\n"
        "print({'pyarrow', 'duckdb', 'datasets', 'pandas', 'torch', 'transformers'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"
