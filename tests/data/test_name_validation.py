import pytest

from hrkd_cli.errors import DataError


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
