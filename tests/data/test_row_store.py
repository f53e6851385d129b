import pytest

from hrkd_cli.data.drop_reasons import DropReason
from hrkd_cli.data.row_store import normalize_text
from hrkd_cli.errors import DataError
from source_rows import HEADER, reason_and_line, write_csv_file, write_file


def test_texts_are_equal_but_for_case_width_ligatures_and_white_space():
    assert normalize_text("  \uff26\uff55\uff4c\uff4c\u00a0WIDTH\n \ufb01ne ") == normalize_text("full width fine")
    assert normalize_text("Straße") == normalize_text("STRASSE")
    assert normalize_text("a b") != normalize_text("ab")


def test_a_row_with_an_empty_second_text_is_dropped(tmp_path, read):
    raw, _ = read(write_file(tmp_path / "a.csv", "text,text_pair,label,domain\na,b,c,d\na, ,c,d\n"))
    assert reason_and_line(raw) == [(DropReason.EMPTY_PAIR, 3)]


def test_spaces_around_a_domain_of_a_file_name_or_an_option_are_removed(tmp_path, read):
    write_csv_file(tmp_path / "books .csv", "a,x")
    write_csv_file(tmp_path / "dvd.csv", "b,y")
    assert {row.domain for row in read(tmp_path)[0].examples} == {"books", "dvd"}
    assert {row.domain for row in read(tmp_path, one_domain=" shop ")[0].examples} == {"shop"}


def test_files_must_agree_on_the_second_text(tmp_path, read):
    write_file(tmp_path / "a.csv", "text,text_pair,label\na,b,c\n")
    write_file(tmp_path / "b.csv", "text,label\na,c\n")
    with pytest.raises(DataError, match=r"a.csv has a second text and .*b.csv has none.* .hrkd prepare --text-pair"):
        read(tmp_path)


def test_a_file_without_rows_is_an_error(tmp_path, read):
    with pytest.raises(DataError, match=r"all.csv: no rows in it"):
        read(write_file(tmp_path / "all.csv", HEADER))


def test_a_source_without_usable_rows_is_an_error_with_the_reasons(tmp_path, read):
    with pytest.raises(DataError, match=r"no row can be used: 2 x no label .first: .*a.csv:2"):
        read(write_file(tmp_path / "a.csv", HEADER + "a,,d\nb,nan,d\n"))


def test_a_domain_without_a_usable_row_is_an_error(tmp_path, read):
    write_csv_file(tmp_path / "books.csv", "a,x")
    write_csv_file(tmp_path / "dvd.csv", "b,")
    with pytest.raises(DataError, match=r"no row of domain 'dvd' can be used: 1 x no label .first: .*dvd.csv:2"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("domain", "label", "message"),
    [
        ("a/b", "x", r"domain name 'a/b' contains a slash; rename it"),
        ("a\\b", "x", r"contains a slash; rename it"),
        ("a\u2028b", "x", r"domain name 'a.*' contains a control character; rename it"),
        (".a", "x", r"domain name '.a' starts with a dot; rename it"),
        ("x" * 300, "x", r"domain name 'x*' is longer than 255 bytes; rename it"),
        ("BOOKS", "x", r"domain names 'BOOKS' and 'books' differ only in case; rename one"),
        ("books", "l\u0007m", r"label 'l.*' contains a control character; rename it"),
    ],
)
def test_names_that_cannot_be_folders_or_printed_are_errors(tmp_path, read, jsonl, domain, label, message):
    rows = [{"text": "s", "label": "x", "domain": "books"}, {"text": "t", "label": label, "domain": domain}]
    with pytest.raises(DataError, match=message):
        read(jsonl(tmp_path / "a.jsonl", rows))
