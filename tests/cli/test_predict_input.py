import io
import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def stdin(monkeypatch):
    def give(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    return give


def records(ran, *keys: str) -> list[tuple]:
    assert ran.code == 0, ran.err
    return [tuple(json.loads(line)[key] for key in keys) for line in ran.out.splitlines()]


def labeled_texts(ran) -> list[str]:
    return [text for (text,) in records(ran, "text")]


def test_texts_of_the_arguments_are_labeled(hrkd, predictor):
    ran = hrkd("predict", "folder", "good", "bad book", "--domain", "books", "--threads", "2", "--device", "cpu")
    assert [json.loads(line) for line in ran.out.splitlines()] == [
        {"text": "good", "domain": "books", "label": "4", "scores": {"a": 0.25, "b": 0.75}},
        {"text": "bad book", "domain": "books", "label": "8", "scores": {"a": 0.25, "b": 0.75}},
    ]
    assert predictor.made == [("folder", 2, "cpu")]
    assert hrkd("predict", "folder", "good", "--json").out == hrkd("predict", "folder", "good").out


def test_a_file_is_read_with_input_or_by_its_name(hrkd, predictor):
    Path("new.csv").write_text("id,body\n1,good\n2,bad\n")
    assert labeled_texts(hrkd("predict", "m", "--input", "new.csv", "--text", "body")) == ["good", "bad"]
    assert labeled_texts(hrkd("predict", "m", "new.csv", "--text", "body")) == ["good", "bad"]
    Path("new.txt").write_text("good\nbad\n")
    assert labeled_texts(hrkd("predict", "m", "new.txt")) == ["good", "bad"]
    # Names of no file, so texts.
    assert labeled_texts(hrkd("predict", "m", "and/or", "lost in gone.csv")) == ["and/or", "lost in gone.csv"]


@pytest.mark.parametrize(
    ("texts", "line"),
    [
        (["gone.csv"], "TEXT number 1: no such file: gone.csv; pipe a text to stdin to label it"),
        (["good", "sub/gone.txt"], "TEXT number 2: no such file: sub/gone.txt"),
        (["a.csv", "a.csv"], "TEXT number 1: give one file of texts, with --input, and not a.csv"),
        (["./sub"], "TEXT number 1: give one file of texts, with --input, and not ./sub"),
        (["a.xyz"], "TEXT number 1: give one file of texts, with --input, and not a.xyz"),
    ],
)
def test_the_name_of_a_file_that_is_not_read_is_not_labeled_as_a_text(hrkd, predictor, texts, line):
    Path("sub").mkdir()
    for name in ("a.csv", "a.xyz"):
        Path(name).write_text("text\ngood\n")
    ran = hrkd("predict", "m", *texts)
    assert (ran.code, ran.out) == (2, "")
    assert line in ran.err


def test_a_domain_that_gets_no_answer_is_an_error_before_the_first_text_is_labeled(hrkd, predictor):
    Path("new.csv").write_text("text,domain\ngood,books\n,unknowable\nbad,dvd\nugly,unknowable\n")
    predictor.domains_of_models = ("books", "dvd", "unknowable")
    ran = hrkd("predict", "m", "--input", "new.csv", "--output", "out.jsonl")
    assert (ran.code, ran.out) == (2, "")
    assert "hrkd predict: new.csv:5: no answer for it" in ran.err
    assert predictor.asked == []
    assert not Path("out.jsonl").exists()


def test_rows_of_a_file_have_the_domain_of_its_column_unless_an_option_names_one(hrkd, predictor):
    Path("new.csv").write_text("text,domain\ngood,books\nbad,\nugly,dvd\n")
    ran = hrkd("predict", "m", "--input", "new.csv")
    assert records(ran, "line", "text", "domain") == [(2, "good", "books"), (3, "bad", "auto"), (4, "ugly", "dvd")]
    for domain in ("dvd", "auto"):
        assert records(hrkd("predict", "m", "new.csv", "--domain", domain), "domain") == [(domain,)] * 3
    Path("new.csv").write_text("text,domain\ngood,books\nbad,cars\n")
    ran = hrkd("predict", "m", "--input", "new.csv")
    assert (ran.code, ran.out) == (1, "")
    assert "hrkd predict: new.csv:3: domain 'cars' (column 'domain') is not one of the model's: books, dvd" in ran.err


def test_rows_without_text_are_counted_and_get_a_record(hrkd, predictor):
    Path("new.csv").write_text("text,text_pair\ngood,x\n,y\n ,z\n")
    ran = hrkd("predict", "m", "new.csv", "--quiet")
    assert records(ran, "line", "text") == [(2, "good"), (3, ""), (4, " ")]
    assert ran.err == "warning: new.csv: no text and so no label in 2 rows (line 3, 4)\n"
    predictor.pair = True
    Path("new.csv").write_text("text,text_pair\ngood,x\nbad,\n")
    assert "new.csv: no text and so no label in 1 row (line 3)" in hrkd("predict", "m", "new.csv").err
    Path("new.txt").write_text("\ngood\tx\n")
    ran = hrkd("predict", "m", "new.txt")
    assert records(ran, "line", "text") == [(1, ""), (2, "good")]


def test_each_line_of_stdin_gives_a_record_and_empty_ones_a_warning(hrkd, predictor, stdin):
    stdin(b"\xef\xbb\xbfgood\r\n\nbad\nlast without an end")
    ran = hrkd("predict", "m", "--quiet")
    assert records(ran, "line", "text") == [(1, "good"), (2, ""), (3, "bad"), (4, "last without an end")]
    assert ran.err == "warning: stdin:2: empty line, no label\n"


@pytest.mark.parametrize(("data", "line"), [(b"ok\n\xff\n", "stdin:2: not UTF-8"), (b"", "stdin: no text")])
def test_stdin_without_text_or_not_utf8_is_an_error(hrkd, predictor, stdin, data, line):
    stdin(data)
    ran = hrkd("predict", "m")
    assert (ran.code, ran.err) == (1, f"hrkd predict: {line}\n")


def test_pairs_come_from_tabs_or_two_columns(hrkd, predictor, stdin):
    predictor.pair = True
    assert labeled_texts(hrkd("predict", "m", "a\tb", "c\td")) == ["a", "c"]
    assert predictor.asked == [("a", "b"), ("c", "d")]
    stdin(b"a\tb\nc d\n")
    ran = hrkd("predict", "m")
    assert ran.code == 1
    assert ran.err == "hrkd predict: stdin:2: this model reads pairs; put one TAB between the two texts\n"
    Path("new.csv").write_text("premise,hypothesis\na,b\n")
    assert labeled_texts(hrkd("predict", "m", "new.csv", "--text", "premise", "--text-pair", "hypothesis")) == ["a"]
    assert predictor.asked[-1] == ("a", "b")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["a", "--input", "new.txt"], "give texts as arguments or a file with --input, not both"),
        (["--input", "gone.txt"], "--input: no such file: gone.txt"),
        (["a", " "], "TEXT number 2 is empty"),
        (["a", "--text", "body"], "--text names a column of a file"),
        (["a", "--text-pair", "body"], "--text-pair names a column of a file"),
    ],
)
def test_contradictory_inputs_are_usage_errors(hrkd, predictor, words, line):
    Path("new.txt").write_text("x\n")
    ran = hrkd("predict", "m", *words)
    assert (ran.code, ran.out) == (2, "")
    assert line in ran.err


def test_a_terminal_without_texts_is_a_usage_error(hrkd, predictor, monkeypatch):
    monkeypatch.setattr(sys, "stdin", Terminal())
    ran = hrkd("predict", "m")
    assert ran.code == 2
    assert "nothing to label" in ran.err
    assert predictor.made == []


def test_a_model_that_does_not_state_pairs_reads_single_texts(hrkd, predictor, monkeypatch):
    monkeypatch.setattr(predictor, "pair", None)
    assert labeled_texts(hrkd("predict", "m", "a\tb")) == ["a\tb"]


def test_records_keep_the_other_columns_of_a_file(hrkd, predictor):
    Path("new.jsonl").write_text('{"id": 7, "text": "good", "label": "x"}\n{"id": "8", "text": "", "tags": [1]}\n')
    found = [json.loads(line) for line in hrkd("predict", "m", "new.jsonl").out.splitlines()]
    assert [{key: record[key] for key in list(record)[:4]} for record in found] == [
        {"line": 1, "id": 7, "input_label": "x", "tags": None},
        {"line": 2, "id": "8", "input_label": None, "tags": [1]},
    ]
    assert [record["label"] for record in found] == ["4", "0"]


def test_output_writes_every_record_to_a_file_and_none_to_stdout(hrkd, predictor):
    Path("new.csv").write_text("id,text\n1,good\n2,\n")
    expected = [json.loads(line) for line in hrkd("predict", "m", "new.csv").out.splitlines()]
    ran = hrkd("predict", "m", "new.csv", "--output", "a.jsonl")
    assert (ran.code, ran.out, ran.err.splitlines()[-1]) == (0, "", "predictions: a.jsonl")
    assert [json.loads(line) for line in Path("a.jsonl").read_text().splitlines()] == expected
    Path("new.jsonl").write_text('{"id": 1, "text": "good"}\n{"id": 2.5, "text": "bad"}\n')
    ran = hrkd("predict", "m", "new.jsonl", "--output", "a.parquet", "--json")
    assert json.loads(ran.out) == {"output": "a.parquet", "rows": 2}
    assert pq.read_table("a.parquet").select(["line", "id", "label"]).to_pylist() == [
        {"line": 1, "id": 1.0, "label": "4"},
        {"line": 2, "id": 2.5, "label": "3"},
    ]
    ran = hrkd("predict", "m", "x", "--output", "a.jsonl")
    assert (ran.code, ran.out) == (1, "")
    assert "a.jsonl exists already; replace it with --force or choose another --output" in ran.err
    assert hrkd("predict", "m", "x", "--output", "a.jsonl", "--force").code == 0
    assert json.loads(Path("a.jsonl").read_text())["text"] == "x"


def test_errors_of_a_file_come_before_the_first_text_is_labeled(hrkd, predictor):
    Path("new.csv").write_text("id,text\n" + "1,good\n" * 200 + "2\n")
    ran = hrkd("predict", "m", "new.csv", "--output", "a.csv")
    assert (ran.code, ran.err) == (1, "hrkd predict: new.csv:202: wrong number of fields; expected 2\n")
    assert predictor.asked == []
    assert [path.name for path in Path().iterdir()] == ["new.csv"]


def test_rows_of_a_file_and_of_stdin_are_read_in_batches(hrkd, predictor, stdin):
    Path("new.csv").write_text("text\ngood\n")
    for words, options in (
        (["new.csv"], [(None, None)]),
        (["new.csv", "--batch-size", "8"], [(8, 128)]),
        (["a text"], [(None, None)]),
        ([], [(1, None)]),
        (["--batch-size", "8"], [(8, None)]),
    ):
        predictor.batches = []
        stdin(b"a\n")
        assert hrkd("predict", "m", *words).code == 0
        assert predictor.batches == options
