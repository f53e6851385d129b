import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hrkd_cli.data.texts import read_texts
from hrkd_cli.errors import DataError, UsageError


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_each_line_of_a_text_file_is_a_text_and_blank_lines_are_skipped(tmp_path):
    content = "one\u0085still one\r\n\n  \ntwo, with commas\n"
    assert read_texts(write(tmp_path / "a.txt", content)) == (["one\u0085still one", "two, with commas"], None)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'text,label,text_pair\n"a, b",x,p\n,,q\n'),
        ("a.tsv", "text\tlabel\ttext_pair\na, b\tx\tp\n\t\tq\n"),
        ("a.jsonl", '{"text": "a, b", "text_pair": "p"}\n{"text": null, "text_pair": "q"}\n'),
    ],
)
def test_files_with_columns_need_no_label_and_keep_every_row(tmp_path, name, content):
    assert read_texts(write(tmp_path / name, content)) == (["a, b", ""], ["p", "q"])


def test_parquet_files_are_read(tmp_path):
    pq.write_table(pa.table({"sentence": ["a", "b"]}), tmp_path / "a.parquet")
    assert read_texts(tmp_path / "a.parquet") == (["a", "b"], None)


def test_columns_can_be_named_and_the_only_column_is_the_text(tmp_path):
    path = write(tmp_path / "a.csv", "x,y\na,b\n")
    assert read_texts(path, text="y", text_pair="x") == (["b"], ["a"])
    assert read_texts(write(tmp_path / "b.csv", "opinion\na\n")) == (["a"], None)
    with pytest.raises(DataError, match=r"no text column found .columns: x, y"):
        read_texts(path)
    with pytest.raises(DataError, match=r"no column 'z' .--text.; columns: x, y"):
        read_texts(path, text="z")


def test_unusable_input_is_an_error_of_one_line(tmp_path):
    with pytest.raises(DataError, match=r"nowhere.csv: cannot be read: No such file"):
        read_texts(tmp_path / "nowhere.csv")
    with pytest.raises(DataError, match=r"a.txt:2: not UTF-8"):
        read_texts(write(tmp_path / "a.txt", b"a\n\xff\n"))
    with pytest.raises(DataError, match=r"a.csv:3: wrong number of fields; expected 2"):
        read_texts(write(tmp_path / "a.csv", "text,b\na,b\nc\n"))
    with pytest.raises(UsageError, match="--text-pair: lines of text have no columns"):
        read_texts(tmp_path / "a.txt", text_pair="b")


def test_no_heavy_library_is_imported(tmp_path):
    paths = [
        write(tmp_path / "a.txt", "a\n"),
        write(tmp_path / "a.csv", "text\na\n"),
        write(tmp_path / "a.tsv", "text\na\n"),
        write(tmp_path / "a.jsonl", '{"text": "a"}\n'),
    ]
    code = (
        "import sys, pathlib\nfrom hrkd_cli.data.texts import read_texts\n"
        "for p in sys.argv[1:]: assert read_texts(pathlib.Path(p)) == (['a'], None), p\n"
        "print({'pyarrow', 'duckdb', 'datasets', 'pandas', 'torch', 'transformers'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"
