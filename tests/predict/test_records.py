import csv
import json
import math
import sys
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from hrkd_cli.errors import HrkdError, OutputError, UsageError
from hrkd_cli.predict import records
from hrkd_cli.predict.predictor import Predictor
from hrkd_cli.predict.text_input import InputRow

SCORES = {"negative": 0.25, "positive": 0.75}
RECORDS = [
    {"line": 2, "id": 7, "text": 'a "b"\n', "domain": "books", "label": "positive", "scores": SCORES, "abstain": True},
    {"line": 3, "id": None, "text": "", "domain": "dvd", "label": None, "scores": {}, "abstain": True},
]
ROWS = [
    {"line": 2, "id": 7, "text": 'a "b"\n', "domain": "books", "label": "positive", "probability": 0.75}
    | {"scores": json.dumps(SCORES), "domain_probability": None, "abstain": True, "fallback": None},
    {"line": 3, "id": None, "text": "", "domain": "dvd", "label": None, "probability": None}
    | {"scores": "{}", "domain_probability": None, "abstain": True, "fallback": None},
]


def write(path, rows, kept=None):
    with records.open_output(path, {"id": int} if kept is None else kept) as write:
        for row in rows:
            write(row)
    return path


def test_each_format_has_all_records_and_no_other_file_is_left(tmp_path):
    content = write(tmp_path / "a.jsonl", RECORDS).read_text("utf-8")
    assert [json.loads(line) for line in content.splitlines()] == RECORDS
    assert pq.read_table(write(tmp_path / "a.parquet", RECORDS)).to_pylist() == ROWS
    with write(tmp_path / "a.csv", RECORDS).open(newline="") as file:
        found = list(csv.DictReader(file))
    as_text = {None: "", True: "true"}
    assert found == [{name: as_text.get(value, str(value)) for name, value in row.items()} for row in ROWS]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.jsonl", "a.parquet"]


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
def test_a_line_break_in_a_value_does_not_end_the_line_of_a_csv_file(tmp_path, end):
    row = {**RECORDS[0], "id": f"a{end}b", "text": f"good{end}book"}
    path = write(tmp_path / "a.csv", [row, RECORDS[1]], {"id": str})
    with path.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [(line["line"], line["id"], line["text"]) for line in found] == [
        ("2", row["id"], row["text"]),
        ("3", "", ""),
    ]
    assert path.read_bytes().startswith(b"line,id,text,domain,label,probability,scores,")
    assert b"\r\n" not in path.read_bytes().replace(end.encode(), b"")


def test_a_parquet_file_is_written_in_groups_of_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_ROW_GROUP", 2)
    path = write(tmp_path / "a.parquet", RECORDS * 2 + RECORDS[:1])
    assert [pq.ParquetFile(path).metadata.row_group(n).num_rows for n in range(3)] == [2, 2, 1]
    assert pq.read_table(path).to_pylist() == [*ROWS, *ROWS, ROWS[0]]


@pytest.mark.parametrize(
    ("values", "kind", "written"),
    [
        ([1, None, -(2**63)], int, [1, None, -(2**63)]),
        ([1, 0.5], float, [1.0, 0.5]),
        ([2**53, 0.5], float, [2.0**53, 0.5]),
        ([2**53 + 1, 0.5], str, ["9007199254740993", "0.5"]),
        ([0.5, 1, -(2**63)], str, ["0.5", "1", str(-(2**63))]),
        ([True, False], bool, [True, False]),
        ([True, 1], str, ["true", "1"]),
        (["007", 7], str, ["007", "7"]),
        ([2**63], str, [str(2**63)]),
        ([["é"], {"a": 1}], str, ['["é"]', '{"a": 1}']),
        ([None], str, [None]),
    ],
)
def test_a_parquet_column_has_the_type_of_its_values_or_json_text(tmp_path, values, kind, written):
    found = records.common_type({records.value_type(value) for value in values if value is not None})
    assert found is kind
    path = write(tmp_path / "a.parquet", [{**RECORDS[0], "id": value} for value in values], {"id": found})
    assert pq.read_table(path)["id"].to_pylist() == written


def test_a_file_appears_when_it_is_complete_and_an_error_leaves_the_old_one(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("old")

    def rows():
        yield RECORDS[0]
        assert path.read_text() == "old"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write(path, rows())
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_refused_before_any_work(tmp_path):
    (tmp_path / "a.csv").write_text("text\n")
    (tmp_path / "b.csv").symlink_to(tmp_path / "a.csv")
    (tmp_path / "c.csv").mkdir()
    for name, source, force, words in (
        ("a.txt", None, True, "ends with none of .jsonl, .csv, .parquet"),
        ("no/a.csv", None, True, "no such folder: "),
        ("a.csv", None, False, "exists already; replace it with --force"),
        ("a.csv", "a.csv", True, "is the input and will not be replaced"),
        ("b.csv", "a.csv", True, "is the input and will not be replaced"),
        ("c.csv", None, True, "is not a file and will not be replaced"),
    ):
        with pytest.raises(UsageError if name == "a.txt" else OutputError, match=words):
            records.check_output(tmp_path / name, source and tmp_path / source, force=force)
    records.check_output(tmp_path / "a.csv", None, force=True)
    records.check_output(tmp_path / "new.csv", tmp_path / "a.csv", force=False)


def test_a_full_disk_is_one_line(tmp_path):
    def rows():
        yield RECORDS[0]
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match=r"a.jsonl: cannot be written .No space left on device.; choose another"):
        write(tmp_path / "a.jsonl", rows())
    assert list(tmp_path.iterdir()) == []


def test_parquet_without_pyarrow_names_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    line = f"a Parquet file needs pyarrow: {sys.executable} -m pip install pyarrow"
    with pytest.raises(HrkdError, match=line):
        write(tmp_path / "a.parquet", [])
    assert list(tmp_path.iterdir()) == []


def make_rows(texts, read):
    for number, text in enumerate(texts):
        read.append(number)
        yield InputRow(text, "dvd" if number % 2 else "books", {"line": number, "id": f"n{number}"})


def test_each_row_has_a_record_with_its_own_fields_and_domain_in_order(student):
    predictor = Predictor(student / "onnx")
    texts = ["good", "", "bad " * 20, "very old"] * 10
    alone = [
        {**row.fields, **predictor.predict([row.text], domain=row.domain)[0].to_json()} for row in make_rows(texts, [])
    ]
    for options in ({"batch_size": None}, {"batch_size": 1}):
        for as_they_arrive in (True, False):
            made = records.make_records(predictor, make_rows(texts, []), as_they_arrive=as_they_arrive, **options)
            assert list(made) == alone
    in_batches = records.make_records(predictor, make_rows(texts, []), batch_size=8, as_they_arrive=False)
    for found, expected in zip(in_batches, alone, strict=True):
        scores = found.pop("scores"), expected.pop("scores")
        assert found == expected
        assert scores[0] == pytest.approx(scores[1], abs=1e-5)


@pytest.mark.parametrize(
    ("batch_size", "as_they_arrive", "count"), [(None, True, 1), (3, True, 3), (3, False, 48), (None, False, 64)]
)
def test_rows_that_arrive_are_labeled_at_once_and_those_of_a_file_in_windows(
    student, batch_size, as_they_arrive, count
):
    predictor, read = Predictor(student / "onnx"), []
    rows = make_rows(["good"] * 200, read)
    made = records.make_records(predictor, rows, batch_size=batch_size, as_they_arrive=as_they_arrive)
    assert next(made)["line"] == 0
    assert len(read) == count


def test_nothing_in_a_record_hides_a_field_of_the_row():
    names = ["line", "text", "domain", "label", "scores", "domain_probability", "abstain", "fallback", "probability"]
    assert records.kept_names(names) == [f"input_{name}" for name in names]
    assert records.kept_names(["id", "input_label", "label", "id"]) == [
        "id",
        "input_label",
        "input_input_label",
        "input_id",
    ]
    predictor = SimpleNamespace(
        stream=lambda *_args, **_options: iter([SimpleNamespace(to_json=lambda: {"text": "a"})])
    )
    rows = [InputRow("a", "auto", {"line": 1, "id": math.pi})]
    made = records.make_records(predictor, rows, batch_size=None, as_they_arrive=True)
    assert list(made) == [{"line": 1, "id": math.pi, "text": "a"}]
