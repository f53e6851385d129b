"""CSV, TSV and MNLI files: quoting, delimiters and line numbers."""

import pytest

from hrkd_cli.data.drop_reasons import DropReason
from hrkd_cli.errors import DataError
from source_rows import HEADER, reason_and_line, text_label_domain, write_file


def test_quotes_byte_order_mark_and_line_breaks_of_csv(tmp_path, read):
    content = '\ufefftext,label,domain\r\n"one, ""two""\nthree",good,books\r\n\r\nplain 5" disc,bad,books\r\n'
    raw, _ = read(write_file(tmp_path / "all.csv", content))
    assert text_label_domain(raw) == [('one, "two"\nthree', "good", "books"), ('plain 5" disc', "bad", "books")]
    assert [e.line for e in raw.examples] == [2, 5]


def test_a_csv_field_may_exceed_the_csv_modules_default_limit(tmp_path, read):
    raw, _ = read(write_file(tmp_path / "all.csv", HEADER + "x" * 200_000 + ",good,books\n"))
    assert len(raw.examples[0].text) == 200_000


def test_a_stray_quote_is_an_error_with_the_line_on_which_the_record_starts(tmp_path, read):
    path = write_file(tmp_path / "all.csv", HEADER + 'fine,good,books\n"unclosed,bad,books\nnext "line",good,books\n')
    with pytest.raises(DataError, match=rf"^{path}:3: not valid quoting") as error:
        read(path)
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match=r"all.csv:2: not valid quoting"):
        read(write_file(path, HEADER + '"never closed,good,books\n'))


def test_a_carriage_return_ends_a_csv_record_only_if_it_ends_all(tmp_path, read):
    records = ["text,label,domain", "one,good,books", '"two\rlines",bad,books']
    for end in ("\r", "\r\n", "\r\r\n"):
        raw, _ = read(write_file(tmp_path / "all.csv", end.join(records) + end))
        assert text_label_domain(raw) == [("one", "good", "books"), ("two\rlines", "bad", "books")]
    path = write_file(tmp_path / "all.csv", "label,text,domain\ngood,one,books\nbad,first half\rbad,other half,books\n")
    with pytest.raises(DataError, match=rf"^{path}:3: a carriage return in a field that is not in quotation marks"):
        read(path)


@pytest.mark.parametrize(("separator", "word"), [(";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")])
def test_the_delimiter_of_a_csv_file_is_detected_and_noted(tmp_path, read, separator, word):
    records = [["text", "label", "domain"], ['"Grüße, größer"', "x", "a"], ['"zwei"', "y", "a"]]
    raw, notes = read(write_file(tmp_path / "all.csv", "".join(separator.join(fields) + "\n" for fields in records)))
    assert text_label_domain(raw) == [("Grüße, größer", "x", "a"), ("zwei", "y", "a")]
    assert any(f"separated by {word}" in note for note in notes)


def test_tsv_is_literal_if_all_lines_have_as_many_tabs_as_the_header(tmp_path, read):
    content = 'text\tlabel\tdomain\n"stray\tgood\tbooks\n"well ""formed"""\tgood\tbooks\n"a" and "b"\tbad\tbooks\n'
    raw, _ = read(write_file(tmp_path / "all.tsv", content))
    assert [e.text for e in raw.examples] == ['"stray', 'well "formed"', '"a" and "b"']
    assert [e.line for e in raw.examples] == [2, 3, 4]


def test_tsv_is_quoted_if_that_gives_more_records_as_wide_as_the_header(tmp_path, read):
    path = write_file(tmp_path / "all.tsv", 'text\tlabel\tdomain\n"a\ttab\nand a line"\tgood\tbooks\nb\tbad\tbooks\n')
    raw, _ = read(path)
    assert text_label_domain(raw) == [("a\ttab\nand a line", "good", "books"), ("b", "bad", "books")]
    # Otherwise, a quotation mark that opens a text and is closed in another row would swallow the rows between.
    rows = '"a\tgood\tbooks\nb"\tbad\tbooks\nragged\tgood\tbooks\t\n"a" b\tbad\tbooks\n'
    raw, _ = read(write_file(path, "text\tlabel\tdomain\n" + rows))
    assert [e.text for e in raw.examples] == ['"a', 'b"', '"a" b']
    assert reason_and_line(raw) == [(DropReason.FIELD_COUNT, 4)]


def test_mnli_quotes_are_text_and_genre_is_the_domain(tmp_path, read):
    folder = tmp_path / "glue" / "MNLI"
    header = "index\tgenre\tsentence1\tsentence2\tlabel1\tgold_label\n"
    write_file(
        folder / "train.tsv", header + '0\tfiction\t"Unclosed\t"Quoted"\tneutral\tentailment\n1\ttravel\ta\tb\tx\t-\n'
    )
    write_file(folder / "dev_matched.tsv", header + "0\tfiction\tc\td\tneutral\tneutral\n1\tfiction\tshort row\n")
    write_file(folder / "dev_mismatched.tsv", header + "0\tverbatim\tc\td\tneutral\tneutral\n")
    for source in (folder, tmp_path / "glue"):
        with pytest.raises(DataError, match="no row of domain 'travel' can be used: 1 x no label"):
            read(source)
        raw, notes = read(source, domains=["fiction"])
        assert [(e.text, e.text_pair, e.label, e.split) for e in raw.examples] == [
            ("c", "d", "neutral", "test"),
            ('"Unclosed', '"Quoted"', "entailment", "train"),
        ]
        assert reason_and_line(raw) == [(DropReason.FIELD_COUNT, 3)]
        assert raw.has_pairs
        assert "dev_mismatched.tsv" in notes[0]


@pytest.mark.parametrize(("name", "separator"), [("a.csv", ","), ("a.tsv", "\t")])
def test_without_a_header_columns_have_numbers_and_the_first_line_is_a_row(tmp_path, read, name, separator):
    path = write_file(tmp_path / name, f"x{separator}one\ny{separator}two\n".replace(" ", separator))
    raw, _ = read(path, no_header=True, one_domain="d", text="2", label="1")
    assert text_label_domain(raw) == [("one", "x", "d"), ("two", "y", "d")]


def test_the_separator_line_of_excel_is_not_the_header(tmp_path, read):
    raw, _ = read(write_file(tmp_path / "all.csv", "sep=;\r\n" + HEADER.replace(",", ";") + '"a, b";x;d\n'))
    assert text_label_domain(raw) == [("a, b", "x", "d")]
    assert [row.line for row in raw.examples] == [3]


@pytest.mark.parametrize("content", ["sep=;\n", "sep=;\n\n"])
def test_a_separator_line_alone_is_an_empty_file(tmp_path, read, content):
    with pytest.raises(DataError, match=r"all.csv: the file is empty$"):
        read(write_file(tmp_path / "all.csv", content))


def test_a_quoted_separator_line_in_a_tsv_file_is_its_header(tmp_path, read):
    with pytest.raises(DataError, match=r"all.tsv: no text column found"):
        read(write_file(tmp_path / "all.tsv", '"sep=\n\tx"\n'))


def test_backslashes_before_quotes_and_single_quotes_are_detected_and_noted(tmp_path, read):
    content = HEADER + '"a \\"good\\", old one",x,d\n"b",y,d\n'
    raw, notes = read(write_file(tmp_path / "all.csv", content))
    assert text_label_domain(raw) == [('a "good", old one', "x", "d"), ("b", "y", "d")]
    assert notes == [f"{tmp_path}/all.csv: quotation marks in fields follow a backslash"]
    raw, notes = read(write_file(tmp_path / "all.csv", HEADER + "'one, two',x,d\n'it''s',y,d\n"))
    assert text_label_domain(raw) == [("one, two", "x", "d"), ("it's", "y", "d")]
    assert notes == [f"{tmp_path}/all.csv: fields are in single quotes"]


def test_backslashes_before_quotes_are_detected_after_thousands_of_rows_without(tmp_path, read):
    content = HEADER + "plain,x,d\n" * 9000 + '"a \\"good\\", old one",y,d\n'
    raw, _ = read(write_file(tmp_path / "all.csv", content))
    assert text_label_domain(raw)[-1] == ('a "good", old one', "y", "d")


def test_backslashes_and_apostrophes_in_well_quoted_fields_are_text(tmp_path, read):
    content = HEADER + '"in C:\\dir\\",x,d\n"say \\""hi\\""",y,d\n\'tis,x,d\n'
    raw, notes = read(write_file(tmp_path / "all.csv", content))
    assert [row.text for row in raw.examples] == ["in C:\\dir\\", 'say \\"hi\\"', "'tis"]
    assert notes == []
