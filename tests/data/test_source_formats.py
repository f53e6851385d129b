import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hrkd_cli.data.drop_reasons import DropReason
from hrkd_cli.errors import DataError

HEADER = "text,label,domain\n"


def rows(raw):
    return [(e.text, e.label, e.domain) for e in raw.examples]


def dropped(raw):
    return sorted([(row.reason, row.line) for row in raw.dropped], key=lambda row: row[1])


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


REVIEW = """<review>
<unique_id>
1
</unique_id>
<rating>
5.0
</rating>
<title>
Fine
</title>
<review_text>
{}
</review_text>
</review>
"""


def test_amazon_keeps_odd_characters_and_ignores_unlabelled(tmp_path, read):
    text = "Bread & <b>butter\x1a\ufffd\n\nnext\u0085line, same text"
    for domain in ("books", "dvd"):
        write(tmp_path / domain / "positive.review", REVIEW.format(text) + REVIEW.format("second"))
        write(tmp_path / domain / "negative.review", REVIEW.format("awful"))
        write(tmp_path / domain / "unlabeled.review", REVIEW.format("unknown"))
    raw, notes = read(tmp_path)
    assert rows(raw) == [
        (content, label, domain)
        for domain in ("books", "dvd")
        for content, label in (("awful", "negative"), (text, "positive"), ("second", "positive"))
    ]
    assert [e.line for e in raw.examples[:3]] == [1, 1, 17]
    assert notes == []


def test_amazon_tags_can_be_named(tmp_path, read):
    write(tmp_path / "books" / "positive.review", REVIEW.format("long text"))
    raw, _ = read(tmp_path, text="title", label="rating")
    assert rows(raw) == [("Fine", "5", "books")]
    with pytest.raises(DataError, match=r"no column 'stars' .--label.; columns: unique_id, rating, title, review_text"):
        read(tmp_path, label="stars")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no tags here\n", r"positive.review:1: expected a tag"),
        (REVIEW.format("one") + "<review>\n<title>\nx\n</title>\n", r"positive.review:15: .* no </review>"),
        (REVIEW.format("one").replace("</title>\n", ""), r"positive.review:13: </review> inside <title>"),
    ],
)
def test_amazon_that_is_broken_is_an_error(tmp_path, read, content, message):
    write(tmp_path / "books" / "positive.review", content)
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_mnli_quotes_are_text_and_genre_is_the_domain(tmp_path, read):
    folder = tmp_path / "glue" / "MNLI"
    header = "index\tgenre\tsentence1\tsentence2\tlabel1\tgold_label\n"
    write(
        folder / "train.tsv", header + '0\tfiction\t"Unclosed\t"Quoted"\tneutral\tentailment\n1\ttravel\ta\tb\tx\t-\n'
    )
    write(folder / "dev_matched.tsv", header + "0\tfiction\tc\td\tneutral\tneutral\n1\tfiction\tshort row\n")
    write(folder / "dev_mismatched.tsv", header + "0\tverbatim\tc\td\tneutral\tneutral\n")
    for source in (folder, tmp_path / "glue"):
        with pytest.raises(DataError, match="no row of domain 'travel' can be used: 1 x no label"):
            read(source)
        raw, notes = read(source, domains=["fiction"])
        assert [(e.text, e.text_pair, e.label, e.split) for e in raw.examples] == [
            ("c", "d", "neutral", "test"),
            ('"Unclosed', '"Quoted"', "entailment", "train"),
        ]
        assert dropped(raw) == [(DropReason.FIELD_COUNT, 3)]
        assert raw.has_pairs
        assert "dev_mismatched.tsv" in notes[0]


def test_mnli_without_train(tmp_path, read):
    write(tmp_path / "dev_matched.tsv", "genre\tsentence1\tsentence2\tgold_label\nslate\ta\tb\tneutral\n")
    raw, _ = read(tmp_path, format="mnli")
    assert [e.split for e in raw.examples] == ["test"]


def test_mnli_without_dev_matched_when_the_user_says_it_is_mnli(tmp_path, read):
    write(tmp_path / "train.tsv", 'genre\tsentence1\tsentence2\tgold_label\nslate\t"a\tb\tneutral\n')
    raw, _ = read(tmp_path, format="mnli")
    assert [(e.text, e.domain, e.split) for e in raw.examples] == [('"a', "slate", "train")]


def test_csv_quoting_bom_and_lines(tmp_path, read):
    content = '\ufefftext,label,domain\r\n"one, ""two""\nthree",good,books\r\n\r\nplain 5" disc,bad,books\r\n'
    raw, _ = read(write(tmp_path / "all.csv", content))
    assert rows(raw) == [('one, "two"\nthree', "good", "books"), ('plain 5" disc', "bad", "books")]
    assert [e.line for e in raw.examples] == [2, 5]


def test_csv_field_beyond_the_modules_default_limit(tmp_path, read):
    raw, _ = read(write(tmp_path / "all.csv", HEADER + "x" * 200_000 + ",good,books\n"))
    assert len(raw.examples[0].text) == 200_000


def test_csv_stray_quote_names_the_line_on_which_the_record_starts(tmp_path, read):
    path = write(tmp_path / "all.csv", HEADER + 'fine,good,books\n"unclosed,bad,books\nnext "line",good,books\n')
    with pytest.raises(DataError, match=rf"^{path}:3: not valid quoting") as error:
        read(path)
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match=r"all.csv:2: not valid quoting"):
        read(write(path, HEADER + '"never closed,good,books\n'))


def test_csv_rows_that_cannot_be_used_are_kept_with_line_and_reason(tmp_path, read):
    content = (
        HEADER
        + "ok,good,books\na,good\nb,good,books,more\n  ,good,books\nc,,books\nd,NaN,books\ne,good,\nf,nan,books\n"
    )
    raw, _ = read(write(tmp_path / "all.csv", content))
    assert rows(raw) == [("ok", "good", "books")]
    assert dropped(raw) == [
        (DropReason.FIELD_COUNT, 3),
        (DropReason.FIELD_COUNT, 4),
        (DropReason.EMPTY_TEXT, 5),
        (DropReason.NO_LABEL, 6),
        (DropReason.NO_LABEL, 7),
        (DropReason.NO_DOMAIN, 8),
        (DropReason.NO_LABEL, 9),
    ]


def test_tsv_is_literal_where_every_line_has_the_headers_tabs(tmp_path, read):
    content = 'text\tlabel\tdomain\n"stray\tgood\tbooks\n"well ""formed"""\tgood\tbooks\n"a" and "b"\tbad\tbooks\n'
    raw, _ = read(write(tmp_path / "all.tsv", content))
    assert [e.text for e in raw.examples] == ['"stray', 'well "formed"', '"a" and "b"']
    assert [e.line for e in raw.examples] == [2, 3, 4]


def test_tsv_is_quoted_where_lines_differ(tmp_path, read):
    path = write(tmp_path / "all.tsv", 'text\tlabel\tdomain\n"a\ttab\nand a line"\tgood\tbooks\nb\tbad\tbooks\n')
    raw, _ = read(path)
    assert rows(raw) == [("a\ttab\nand a line", "good", "books"), ("b", "bad", "books")]
    with pytest.raises(DataError, match=r"all.tsv:2: not valid quoting"):
        read(write(path, 'text\tlabel\tdomain\n"a" b\ttab\nx\ty\tz\n'))


def test_jsonl_values_and_unusable_rows(tmp_path, read):
    lines = [
        {"text": "t1\u0085\u2028still t1", "label": 1, "domain": "d"},
        {"text": "t2", "label": True, "domain": "d"},
        {"text": "t3", "label": 2.0, "domain": "d"},
        {"text": 4, "label": "1.0", "domain": "d"},
        {"text": "t5", "label": None, "domain": "d"},
        {"text": "t6", "label": float("nan"), "domain": "d"},
        {"text": "t7", "domain": "d"},
        {"text": None, "label": "x", "domain": "d"},
        {"text": ["t9"], "label": "x", "domain": "d"},
        {"text": "\ud800", "label": "x", "domain": "d"},
        {"text": "t11", "label": "a/b", "domain": 7},
    ]
    ascii_off = json.dumps(lines[0], ensure_ascii=False)
    path = write(tmp_path / "all.jsonl", "\n".join([ascii_off, "", *map(json.dumps, lines[1:])]))
    raw, _ = read(path)
    assert rows(raw) == [
        ("t1\u0085\u2028still t1", "1", "d"),
        ("t2", "true", "d"),
        ("t3", "2", "d"),
        ("4", "1", "d"),
        ("t11", "a/b", "7"),
    ]
    assert dropped(raw) == [
        (DropReason.NO_LABEL, 6),
        (DropReason.NO_LABEL, 7),
        (DropReason.NO_LABEL, 8),
        (DropReason.EMPTY_TEXT, 9),
        (DropReason.NOT_TEXT, 10),
        (DropReason.INVALID_UNICODE, 11),
    ]


@pytest.mark.parametrize("line", ['{"text": "a"', "[1, 2]", "[" * 100_000, '{"text": ' + "1" * 5000 + "}"])
def test_jsonl_that_cannot_be_parsed_is_an_error(tmp_path, read, line):
    path = write(tmp_path / "all.jsonl", '{"text": "a", "label": "b", "domain": "c"}\n' + line + "\n")
    with pytest.raises(DataError, match=r"all.jsonl:2: not ") as error:
        read(path)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("name", ["all.csv", "all.tsv", "all.jsonl", "books/positive.review"])
def test_broken_utf8_is_an_error_with_its_line(tmp_path, read, name):
    path = write(tmp_path / name, b"\xef\xbb\xbffirst\nsecond\nth\xffird\n")
    with pytest.raises(DataError, match=rf"^{path}:3: not UTF-8 .byte 0xff."):
        read(path)


@pytest.mark.parametrize("name", ["all.csv", "all.tsv", "all.jsonl", "all.parquet", "books/positive.review"])
@pytest.mark.parametrize("content", [b"", b" \n"])
def test_an_empty_file_is_an_error(tmp_path, read, name, content):
    path = write(tmp_path / name, content)
    with pytest.raises(DataError, match=rf"^{path}: the file is empty"):
        read(path)


def test_a_header_alone_is_an_error(tmp_path, read):
    with pytest.raises(DataError, match=r"all.csv: no rows in it"):
        read(write(tmp_path / "all.csv", HEADER))


def test_parquet_values_and_class_names(tmp_path, read):
    table = pa.table(
        {"text": ["a", "b", None, "d"], "label": [0, 1, 0, -1], "domain": pa.array(["x"] * 4).dictionary_encode()}
    )
    pq.write_table(table, tmp_path / "plain.parquet")
    raw, _ = read(tmp_path / "plain.parquet")
    assert rows(raw) == [("a", "0", "x"), ("b", "1", "x"), ("d", "-1", "x")]
    assert dropped(raw) == [(DropReason.EMPTY_TEXT, 3)]
    features = {"label": {"_type": "ClassLabel", "names": ["neg", "pos"]}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "hf.parquet")
    raw, _ = read(tmp_path / "hf.parquet")
    assert rows(raw) == [("a", "neg", "x"), ("b", "pos", "x")]
    assert dropped(raw) == [(DropReason.EMPTY_TEXT, 3), (DropReason.NO_LABEL, 4)]


def test_a_file_that_is_not_parquet_is_an_error(tmp_path, read):
    with pytest.raises(DataError, match=r"all.parquet: not a readable Parquet file"):
        read(write(tmp_path / "all.parquet", "text,label\n"))


def test_columns_are_found_by_usual_names_without_case(tmp_path, read):
    raw, _ = read(
        write(
            tmp_path / "a.csv",
            "id,Premise,Hypothesis,Gold_Label,Genre,Split\n1,a,b,x,d,VAL\n2,a2,b2,-,d,\n3,c,d,y,d,odd\n",
        )
    )
    assert [(e.text, e.text_pair, e.label, e.domain, e.split) for e in raw.examples] == [("a", "b", "x", "d", "dev")]
    assert dropped(raw) == [(DropReason.NO_LABEL, 3), (DropReason.UNKNOWN_SPLIT, 4)]


def test_category_is_a_domain_beside_a_label_and_a_label_in_a_file_a_domain(tmp_path, read):
    raw, _ = read(write(tmp_path / "one.csv", "category,content,sentiment\nbooks,a,good\n"))
    assert rows(raw) == [("a", "good", "books")]
    write(tmp_path / "folder" / "dvd.csv", "category,content\nspam,a\n")
    raw, _ = read(tmp_path / "folder")
    assert rows(raw) == [("a", "spam", "dvd")]


def test_columns_can_be_named(tmp_path, read):
    path = write(tmp_path / "a.csv", "text,label,domain,t,l,d,p,s\nx,x,x,a,b,c,e,train\n")
    raw, _ = read(path, text="t", label="l", domain="d", text_pair="p", split="S")
    example = raw.examples[0]
    assert (example.text, example.text_pair, example.label, example.domain, example.split) == (
        "a",
        "e",
        "b",
        "c",
        "train",
    )


@pytest.mark.parametrize("role", ["text", "text_pair", "label", "domain", "split"])
def test_a_named_column_that_is_missing_is_an_error(tmp_path, read, role):
    path = write(tmp_path / "a.csv", HEADER + "a,b,c\n")
    option = "--" + role.replace("_", "-")
    with pytest.raises(DataError, match=rf"a.csv: no column 'nope' .{option}.; columns: text, label, domain"):
        read(path, **{role: "nope"})


@pytest.mark.parametrize("role", ["text", "label", "domain"])
def test_a_needed_column_that_is_not_found_is_an_error(tmp_path, read, role):
    path = write(tmp_path / "a.csv", HEADER.replace(role, "zzz") + "a,b,c\n")
    with pytest.raises(DataError, match=rf"a.csv: no {role} column found .columns: .*zzz.*; name it with --{role}"):
        read(path)


def test_empty_second_text_is_unusable(tmp_path, read):
    raw, _ = read(write(tmp_path / "a.csv", "text,text_pair,label,domain\na,b,c,d\na, ,c,d\n"))
    assert dropped(raw) == [(DropReason.EMPTY_PAIR, 3)]


def test_domains_must_agree_on_the_second_text(tmp_path, read):
    write(tmp_path / "a.csv", "text,text_pair,label\na,b,c\n")
    write(tmp_path / "b.csv", "text,label\na,c\n")
    with pytest.raises(DataError, match=r"a.csv has a second text and .*b.csv has none"):
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
def test_names_that_could_be_no_folder_or_not_be_shown_are_refused(tmp_path, read, jsonl, domain, label, message):
    rows = [{"text": "s", "label": "x", "domain": "books"}, {"text": "t", "label": label, "domain": domain}]
    with pytest.raises(DataError, match=message):
        read(jsonl(tmp_path / "a.jsonl", rows))


def test_nothing_usable_is_an_error_with_the_reasons(tmp_path, read):
    with pytest.raises(
        DataError, match=r"no row of domain 'd' can be used|no row can be used: 2 x no label .first: .*a.csv:2"
    ):
        read(write(tmp_path / "a.csv", HEADER + "a,,d\nb,nan,d\n"))
