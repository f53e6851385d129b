import io
import json
import os
import sys
from pathlib import Path

import pytest

from hrkd_cli.cli import predict_input
from hrkd_cli.cli.console import Console


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def stdin(monkeypatch):
    def give(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    return give


def labeled_texts(ran) -> list[str]:
    assert ran.code == 0, ran.err
    return [json.loads(line)["text"] for line in ran.out.splitlines()]


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
    # Not a file, so a text.
    assert labeled_texts(hrkd("predict", "m", "gone.csv")) == ["gone.csv"]


def test_lines_of_stdin_are_labeled_and_empty_ones_skipped(hrkd, predictor, stdin):
    stdin(b"\xef\xbb\xbfgood\r\n\nbad\nlast without an end")
    ran = hrkd("predict", "m", "--quiet")
    assert labeled_texts(ran) == ["good", "bad", "last without an end"]
    assert ran.err == "warning: stdin:2: empty line skipped\n"


def test_stdin_is_read_as_it_arrives(monkeypatch):
    read, write = os.pipe()
    with os.fdopen(read) as stdin, os.fdopen(write, "wb", buffering=0) as pipe:
        monkeypatch.setattr(sys, "stdin", stdin)
        texts = predict_input.from_stdin(False, Console())
        for piece in (b"one\ntw", b"o\n"):
            pipe.write(piece)
            assert next(texts) == ("one" if piece.startswith(b"one") else "two")


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
