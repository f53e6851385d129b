"""Unlabeled texts: the domain of each file, dropped texts, and the notes about them."""

import json

import pytest

from hrkd_cli import prepare
from hrkd_cli.data.dataset import Dataset, TextRows
from hrkd_cli.data.unlabeled import read_unlabeled
from hrkd_cli.errors import DataError
from hrkd_cli.events import ignore


def labeled(**splits):
    return {name: TextRows(list(texts), None, ["a"] * len(texts)) for name, texts in splits.items()}


@pytest.fixture
def data():
    rows = {
        "books": labeled(train=["train one"], dev=["Dev  ONE"], test=["test one"]),
        "dvd": labeled(train=["train two"], dev=["dev two"], test=["test two"]),
        "toys": labeled(train=["train three"], dev=["dev three"]),
    }
    return Dataset.from_rows(rows, has_pairs=False)


@pytest.fixture
def pairs():
    def rows(*both):
        return TextRows([a for a, _ in both], [b for _, b in both], ["a"] * len(both))

    parts = {"train": rows(("a premise", "one")), "dev": rows(("held out", "two"))}
    return Dataset.from_rows({"books": parts}, has_pairs=True)


def write(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.write_text(content, encoding="utf-8")
    return folder


def lines(*texts):
    return "".join(json.dumps({"text": text, "label": "ignored"}) + "\n" for text in texts)


def test_all_formats_are_read_and_known_texts_and_duplicates_are_dropped(tmp_path, data):
    folder = write(
        tmp_path / "u",
        # One is of dvd's test split, one of books' dev split in another spelling, one of the train split.
        books__jsonl=lines("new", "test two", "dev one", "train one", "NEW", "", "newer"),
        dvd__txt="first\u0085line\n\nsecond line\nsecond  LINE\n",
        dvd__more__csv="id,text,label\n1,third,x\n",
        garden__jsonl=lines("nobody's"),
        README__md="about the texts",
    )
    notes = []
    found = read_unlabeled(folder, data, on_event=notes.append)
    assert {d: rows.texts for d, rows in found.rows.items()} == {
        "books": ["new", "newer"],
        "dvd": ["third", "first\u0085line", "second line"],
    }
    assert found.dropped == {"in the data": 3, "duplicate": 2, "no text": 1}
    assert sum(len(rows) for rows in found.rows.values()) == 5
    told = [note.text for note in notes]
    assert told == [
        f"{folder}: not read, because the data has no domain of that name: garden.jsonl",
        "unlabeled texts: books 2, dvd 3; left out: 3 x in the data, 2 x duplicate, 1 x no text",
        "unlabeled texts: none for toys, which learn from labeled rows alone",
    ]
    assert found.to_json()["texts"] == {"books": 2, "dvd": 3}


def test_a_domain_column_overrides_the_file_name(tmp_path, data):
    rows = "domain,text\nbooks,one\ndvd,two\nnone,three\n"
    folder = write(tmp_path / "u", all__csv=rows)
    in_folder = read_unlabeled(folder, data, on_event=ignore)
    alone = read_unlabeled(folder / "all.csv", data, on_event=ignore)
    for found in (in_folder, alone):
        assert {d: r.texts for d, r in found.rows.items()} == {"books": ["one"], "dvd": ["two"]}
        assert found.dropped == {"other domain": 1}


def test_blitzers_unlabeled_reviews_are_read(tmp_path, data):
    review = "<review>\n<review_text>\nA story\n</review_text>\n</review>\n"
    (tmp_path / "u").mkdir()
    write(tmp_path / "u" / "books", unlabeled__review=review)
    assert read_unlabeled(tmp_path / "u", data, on_event=ignore).rows["books"].texts == ["A story"]


def test_a_prepared_folder_is_a_source(tmp_path, data, reviews):
    prepare(reviews, out=tmp_path / "prepared")
    found = read_unlabeled(tmp_path / "prepared", data, on_event=ignore)
    assert {domain: len(rows) for domain, rows in found.rows.items()} == {"books": 40, "dvd": 40}


def test_pairs_are_compared_by_both_texts_with_train_and_by_the_first_with_dev(tmp_path, pairs):
    rows = [("a premise", "one"), ("a premise", "another"), ("held out", "new"), ("new", "one")]
    text = "".join(json.dumps({"premise": a, "hypothesis": b}) + "\n" for a, b in rows)
    found = read_unlabeled(write(tmp_path / "u", books__jsonl=text), pairs, on_event=ignore)
    assert list(zip(found.rows["books"].texts, found.rows["books"].pairs, strict=True)) == [rows[1], rows[3]]
    assert found.dropped == {"in the data": 2}
    with pytest.raises(DataError, match=r"books\.txt: no second text found \(columns: text\), and the data has two"):
        read_unlabeled(write(tmp_path / "t", books__txt="one\n"), pairs, on_event=ignore)


def test_the_fingerprint_depends_on_texts_and_domains_only(tmp_path, data):
    first = read_unlabeled(write(tmp_path / "a", books__txt="one\ntwo\n"), data, on_event=ignore)
    same = read_unlabeled(write(tmp_path / "b", books__jsonl=lines("one", "two", "one")), data, on_event=ignore)
    other = read_unlabeled(write(tmp_path / "c", books__txt="one\nthree\n"), data, on_event=ignore)
    moved = read_unlabeled(write(tmp_path / "d", dvd__txt="one\ntwo\n"), data, on_event=ignore)
    assert first.fingerprint == same.fingerprint
    assert len({first.fingerprint, other.fingerprint, moved.fingerprint}) == 3


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"garden__txt": "one\n"}, r"no new text for the domains of the data \(books, dvd, toys\)$"),
        ({"books__txt": "test one\n"}, "left out: 1 x in the data"),
        ({"books__csv": "stars,id\n1,2\n"}, r"books.csv: no text column found .columns: stars, id.$"),
        (
            {"books__xml": "<a/>"},
            "no data in this folder; expected one CSV, TSV, JSONL, Parquet or .txt file per domain",
        ),
    ],
)
def test_an_unusable_source_is_an_error_of_one_line(tmp_path, data, files, message):
    with pytest.raises(DataError, match=message):
        read_unlabeled(write(tmp_path / "u", **files), data, on_event=ignore)


def test_a_single_file_needs_a_domain_column(tmp_path, data):
    folder = write(tmp_path / "u", rows__csv="id,text\n1,one\n", rows__txt="one\n")
    for name, columns in (("rows.csv", "id, text"), ("rows.txt", "text")):
        with pytest.raises(
            DataError, match=rf"no domain column found .columns: {columns}., or give a folder with one file per domain"
        ):
            read_unlabeled(folder / name, data, on_event=ignore)
    with pytest.raises(DataError, match="no such file or folder"):
        read_unlabeled(folder / "nowhere", data, on_event=ignore)


def test_texts_of_a_domain_without_labels_are_read_if_there_are_any(tmp_path, data):
    folder = write(tmp_path / "u", garden__txt="one\ntest two\n", books__txt="two\n")
    more = data.with_labels({"garden": data.labels["books"]})
    found = read_unlabeled(folder, more, on_event=ignore)
    assert {domain: rows.texts for domain, rows in found.rows.items()} == {"books": ["two"], "garden": ["one"]}
    (folder / "garden.txt").write_text("test two\n", encoding="utf-8")
    message = (
        f"--new-domains garden: --unlabelled {folder} has no new text of it; it has new texts of books; left out: "
    )
    with pytest.raises(DataError, match=message):
        read_unlabeled(folder, more, on_event=ignore)


def test_a_domain_that_looks_like_one_of_the_data_gets_a_warning(tmp_path, data):
    folder = write(tmp_path / "u", Books__txt="one\n", more__csv="domain,text\nbooks,x\n DVD,y\ngarden,z\n")
    notes = []
    found = read_unlabeled(folder, data, on_event=notes.append)
    assert list(found.rows) == ["books"]
    assert [note.text for note in notes if note.warning] == [
        f"{folder}: texts of 'Books' are not read; the data spells it 'books': rename one",
        f"{folder}: texts of 'DVD' are not read; the data spells it 'dvd': rename one",
    ]


def test_held_out_texts_of_domains_that_are_left_out_are_not_used(tmp_path, data):
    folder = write(tmp_path / "u", books__jsonl=lines("new", "test two"))
    selected = data.select_domains("books")
    assert read_unlabeled(folder, selected, on_event=ignore).rows["books"].texts == ["new", "test two"]
    assert read_unlabeled(folder, selected, whole=data, on_event=ignore).rows["books"].texts == ["new"]
