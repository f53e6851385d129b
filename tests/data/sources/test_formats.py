from pathlib import Path

import pytest

from hrkd_cli.choices import SourceFormat
from hrkd_cli.data.sources.formats import PLAIN_TEXT, detect_format, get_format
from hrkd_cli.errors import DataError
from source_rows import text_domain_split, write_csv_file, write_file


def test_a_named_format_reads_a_file_with_any_suffix(tmp_path, read):
    write_csv_file(tmp_path / "all.data", "a,x,d", header="text,label,domain")
    with pytest.raises(DataError, match=r"all.data: unknown kind of file; name its format"):
        read(tmp_path / "all.data")
    raw, _ = read(tmp_path / "all.data", format="csv")
    assert text_domain_split(raw) == [("a", "d", None)]


@pytest.mark.parametrize("name", ["all.csv", "all.tsv", "all.jsonl", "all.parquet", "books/positive.review"])
@pytest.mark.parametrize("content", [b"", b" \n"])
def test_an_empty_file_is_an_error(tmp_path, read, name, content):
    path = write_file(tmp_path / name, content)
    with pytest.raises(DataError, match=rf"^{path}: the file is empty"):
        read(path)


def test_formats_are_detected_by_suffix_in_any_case_and_compression():
    for name in ("a.csv", "a.CSV", "a.csv.gz", "a.b.csv.zst"):
        assert detect_format(Path(name)) is get_format(SourceFormat.CSV)
    assert detect_format(Path("a.xlsx")) is None


def test_some_suffixes_are_read_only_if_the_file_is_the_source():
    assert detect_format(Path("a.json")) is get_format(SourceFormat.JSONL)
    assert detect_format(Path("a.json"), standalone=False) is None


def test_plain_text_is_read_only_if_no_label_is_required():
    assert detect_format(Path("a.txt")) is None
    assert detect_format(Path("a.txt"), require_label=False) is PLAIN_TEXT
