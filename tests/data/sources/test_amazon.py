import pytest

from hrkd_cli.errors import DataError
from source_rows import text_label_domain, write_file

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


def test_odd_characters_are_kept_and_unlabeled_reviews_ignored(tmp_path, read):
    text = "Bread & <b>butter\x1a\ufffd\n\nnext\u0085line, same text"
    for domain in ("books", "dvd"):
        write_file(tmp_path / domain / "positive.review", REVIEW.format(text) + REVIEW.format("second"))
        write_file(tmp_path / domain / "negative.review", REVIEW.format("awful"))
        write_file(tmp_path / domain / "unlabeled.review", REVIEW.format("unknown"))
    raw, notes = read(tmp_path)
    assert text_label_domain(raw) == [
        (content, label, domain)
        for domain in ("books", "dvd")
        for content, label in (("awful", "negative"), (text, "positive"), ("second", "positive"))
    ]
    assert [e.line for e in raw.examples[:3]] == [1, 1, 17]
    assert notes == []


def test_tags_can_be_named_as_columns(tmp_path, read):
    write_file(tmp_path / "books" / "positive.review", REVIEW.format("long text"))
    raw, _ = read(tmp_path, text="title", label="rating")
    assert text_label_domain(raw) == [("Fine", "5", "books")]
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
def test_a_broken_review_is_an_error_with_its_line(tmp_path, read, content, message):
    write_file(tmp_path / "books" / "positive.review", content)
    with pytest.raises(DataError, match=message):
        read(tmp_path)
