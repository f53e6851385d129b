import json

from hrkd_cli.data.drop_reasons import DropReason
from source_rows import HEADER, reason_and_line, text_label_domain, write_file


def test_json_values_become_texts_or_a_drop_reason(tmp_path, read):
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
    path = write_file(tmp_path / "all.jsonl", "\n".join([ascii_off, "", *map(json.dumps, lines[1:])]))
    raw, _ = read(path)
    assert text_label_domain(raw) == [
        ("t1\u0085\u2028still t1", "1", "d"),
        ("t2", "true", "d"),
        ("t3", "2", "d"),
        ("4", "1", "d"),
        ("t11", "a/b", "7"),
    ]
    assert reason_and_line(raw) == [
        (DropReason.NO_LABEL, 6),
        (DropReason.NO_LABEL, 7),
        (DropReason.NO_LABEL, 8),
        (DropReason.EMPTY_TEXT, 9),
        (DropReason.NOT_TEXT, 10),
        (DropReason.INVALID_UNICODE, 11),
    ]


def test_unusable_csv_rows_have_a_line_and_a_drop_reason(tmp_path, read):
    content = (
        HEADER
        + "ok,good,books\na,good\nb,good,books,more\n  ,good,books\nc,,books\nd,NaN,books\ne,good,\nf,nan,books\n"
    )
    raw, _ = read(write_file(tmp_path / "all.csv", content))
    assert text_label_domain(raw) == [("ok", "good", "books")]
    assert reason_and_line(raw) == [
        (DropReason.FIELD_COUNT, 3),
        (DropReason.FIELD_COUNT, 4),
        (DropReason.EMPTY_TEXT, 5),
        (DropReason.NO_LABEL, 6),
        (DropReason.NO_LABEL, 7),
        (DropReason.NO_DOMAIN, 8),
        (DropReason.NO_LABEL, 9),
    ]
