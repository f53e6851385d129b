import json

import pytest

from hrkd_cli import prepare
from hrkd_cli.data.drop_reasons import DropReason
from hrkd_cli.errors import DataError
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


def test_rejected_and_ignored_annotations_are_not_used_and_counted(tmp_path, jsonl):
    rows = [{"text": f"t{i}", "label": "ab"[i % 2], "answer": "accept"} for i in range(40)]
    rows[5]["answer"], rows[6]["answer"], rows[7]["answer"] = "reject", "ignore", ["other"]
    source = jsonl(tmp_path / "in" / "d.jsonl", rows).parent
    assert prepare(source, out=tmp_path / "out").dropped == {"rejected annotation": 2}
    # A column that has another role is not an annotator's answer.
    jsonl(source / "d.jsonl", [{"text": f"t{i}", "answer": ("reject", "accept")[i % 2]} for i in range(40)])
    result = prepare(source, out=tmp_path / "two", label="answer")
    assert (result.dropped, result.domains["d"].labels) == ({}, {"accept": 20, "reject": 20})


def test_labels_are_renamed_as_they_are_read_and_those_without_a_new_name_are_dropped(tmp_path, jsonl):
    stars = [{"text": f"t{i}", "label": float(i % 5 + 1)} for i in range(100)]
    path = jsonl(tmp_path / "in" / "d.jsonl", stars)
    renames = ["1=bad", "2 = bad", "3=", "4=good", "5=good"]
    result = prepare(path.parent, out=tmp_path / "out", rename_label=renames)
    assert (result.domains["d"].labels, result.dropped) == ({"bad": 40, "good": 40}, {"no label": 20})
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["options"]["rename_label"] == renames
    with pytest.raises(DataError, match=r"in: no label '6' \(--rename-label\); there are 1, 2, bad, good"):
        prepare(path.parent, out=tmp_path / "two", rename_label=["6=good", "3=", "4=good", "5=bad"])
    # A new name is not renamed again.
    swapped = prepare(path.parent, out=tmp_path / "two", rename_label=["1=2", "2=1", "3=", "4=", "5=1"])
    assert swapped.domains["d"].labels == {"1": 40, "2": 20}
