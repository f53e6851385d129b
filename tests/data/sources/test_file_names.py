"""Domain and split by the names of files and folders."""

import pytest

from hrkd_cli import prepare
from hrkd_cli.data.sources.file_names import parse_names
from hrkd_cli.errors import DataError
from source_rows import text_domain_split, write_csv_file


@pytest.mark.parametrize(
    ("stem", "domain", "split"),
    [
        ("books_test", "books", "test"),
        ("books-test", "books", "test"),
        ("books test", "books", "test"),
        ("books.test", "books", "test"),
        ("test_books", "books", "test"),
        ("Train - Books", "Books", "train"),
        ("books.v2.val", "books.v2", "dev"),
        ("books_train_v2", "books_v2", "train"),
        ("books_valid", "books", "dev"),
        ("snli_1.0_train", "snli_1.0", "train"),
        ("multinli_1.0_dev_matched", "multinli_1.0", "dev"),
        ("books-train-00000-of-00002", "books", "train"),
        ("books-00000-of-00002", "books", None),
        ("books_train_part3", "books", "train"),
        ("testdata.manual.2009", "manual.2009", "test"),
        ("train_set", None, "train"),
        ("train2014", None, "train"),
        ("trainspotting", "trainspotting", None),
        ("latest_contest", "latest_contest", None),
        ("mr.bean", "mr.bean", None),
    ],
)
def test_a_split_word_before_or_after_the_domain_gives_the_split(stem, domain, split):
    assert parse_names(stem, "") == (domain, split)


@pytest.mark.parametrize(
    ("stem", "folder", "expected"),
    [
        ("books", "train", ("books", "train")),
        ("test", "books", ("books", "test")),
        ("part1", "books_test", ("books", "test")),
        ("part1", "books", ("books", None)),
        ("train", "game-dev", ("game-dev", "train")),
        ("train", "books-train", ("books", "train")),
    ],
)
def test_a_folder_gives_the_domain_or_the_split(stem, folder, expected):
    assert parse_names(stem, folder) == expected


@pytest.mark.parametrize("pattern", ["{}_books", "books_{}", "books-{}", "books {}", "books.v2.{}"])
def test_test_rows_by_file_name_are_never_trained_on(tmp_path, pattern):
    for split in ("train", "test"):
        rows = [f"{split} number {i},{'xy'[i % 2]}" for i in range(20)]
        write_csv_file(tmp_path / "in" / f"{pattern.format(split)}.csv", *rows)
    (counts,) = prepare(tmp_path / "in", out=tmp_path / "out").domains.values()
    assert (counts.train, counts.dev, counts.test) == (18, 2, 20)


def test_a_name_with_the_words_of_two_splits_is_an_error(tmp_path, read):
    write_csv_file(tmp_path / "books_train_test.csv", "a,x")
    with pytest.raises(DataError, match=r"^books_train_test: a name of two splits .test, train.; rename it"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("one", "other"), [("bookstrain", "bookstest"), ("books", "books_eval"), ("Books", "booksTst")]
)
def test_domains_that_differ_only_by_a_split_word_are_an_error(tmp_path, read, one, other):
    write_csv_file(tmp_path / f"{one}.csv", "a,x")
    write_csv_file(tmp_path / f"{other}.csv", "b,x")
    with pytest.raises(DataError, match=r"csv and .*csv look like splits of one domain; name them as in books.train"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["eval", "development", "hold-out", "evaluation_set"])
def test_a_name_like_that_of_a_split_is_an_error_beside_splits(tmp_path, read, name):
    write_csv_file(tmp_path / f"{name}.csv", "a,x,d", "b,y,d", header="text,label,domain")
    assert len(read(tmp_path)[0].examples) == 2
    write_csv_file(tmp_path / "train.csv", "c,x,d", header="text,label,domain")
    if name != "evaluation_set":
        with pytest.raises(DataError, match=rf"{name}.csv is named like a split, but not train, dev or test; rename"):
            read(tmp_path)


def test_a_split_word_that_may_be_part_of_the_domain_is_a_warning(tmp_path, read):
    for name in ("game-dev", "cooking", "books", "books_test"):
        write_csv_file(tmp_path / f"{name}.csv", f"{name},x")
    raw, notes = read(tmp_path)
    assert text_domain_split(raw)[-1] == ("game-dev", "game", "dev")
    assert notes == [f"{tmp_path}: split words in these names give their only split (rename to avoid it): game-dev.csv"]


def test_copies_of_a_file_are_a_warning(tmp_path, read):
    for name in ("books", "books (1)", "books - Copy", "books - Copy (2)", "books_old", "Copy of books", "old_tales"):
        write_csv_file(tmp_path / f"{name}.csv", f"{name},x")
    _, notes = read(tmp_path)
    names = "Copy of books.csv, books (1).csv, books - Copy (2).csv, books - Copy.csv, books_old.csv"
    assert notes == [f"{tmp_path}: read as other domains, but named like copies of a file: {names}"]
