import io
import json

from cli_fakes import COMPARED, DOMAIN, EXPORTED, model_entry, result
from hrkd_cli import formatting
from hrkd_cli.cli import tables
from hrkd_cli.cli.console import Console
from hrkd_cli.cli.tables import Table


def to_text(table: Table) -> str:
    console = Console()
    console.out = io.StringIO()
    console.write_table(table)
    return console.out.getvalue().rstrip("\n")


def test_text_is_aligned_without_drawing_characters():
    table = Table(
        "T",
        ("name", "n\nrows", "word"),
        [("a", "1,000", "x"), ("section of one cell",), ("bb", "2", "yy")],
        left_aligned=(0, 2),
    )
    assert to_text(table).splitlines() == [
        "T",
        "                         n",
        "name                  rows  word",
        "-------------------  -----  ----",
        "a                    1,000  x",
        "section of one cell",
        "bb                       2  yy",
    ]


def test_models_stand_side_by_side():
    text = to_text(tables.eval_tables(COMPARED)[0])
    lines = [line.split() for line in text.splitlines()]
    assert text.isascii()
    assert ["books", "(200)", "86.5", "[81.0,", "90.6]", "86.5", "[81.0,", "90.6]"] in lines
    assert ["average", "86.5", "[84.0,", "89.0]", "86.5", "[84.0,", "89.0]"] in lines
    assert ["average", "86.0", "86.0"] in lines
    assert ["hrkd-out/teacher", "hrkd-out/student/onnx"] in lines
    assert ["fp32", "int8"] in lines
    assert ["parameters", "14,350,248", "14,350,248"] in lines
    assert ["size,", "MB", "57.4", "57.4"] in lines
    assert ["latency", "p50,", "ms", "-", "7.35"] in lines
    assert ["accuracy", "padded", "in", "batches,", "%", "-", "86.0"] in lines
    assert ["labels", "that", "padding", "changes,", "%", "-", "0.25"] in lines
    assert "batch 1, 1 thread, 128 tokens" in text


def test_a_model_that_lacks_a_domain_or_a_figure():
    partial = model_entry("b", domains={"books": {"n": 1, "accuracy": 1.0, "macro_f1": 1.0}}, parameters=0)
    lines = [
        line.split()
        for line in to_text(tables.eval_tables({"split": "dev", "models": [model_entry("a"), partial]})[0]).splitlines()
    ]
    assert ["dvd", "(200)", "86.5", "[81.0,", "90.6]", "-"] in lines
    assert ["dvd", "86.0", "-"] in lines
    assert ["parameters", "14,350,248", "-"] in lines
    assert not any("p50" in line for line in lines)


def test_labels_have_a_table_of_their_own():
    scores = {"precision": 0.9, "recall": 0.8, "f1": 0.847, "support": 100}
    domains = {"books": {**DOMAIN, "labels": {"neg": scores, "pos": scores}}}
    found = tables.eval_tables({"split": "test", "models": [model_entry("a", domains=domains), model_entry("b")]})
    assert len(found) == 2
    text = to_text(found[1])
    assert "a (fp32)" in text
    assert ["books", "pos", "100", "90.0", "80.0", "84.7"] in [line.split() for line in text.splitlines()]


FLOOR = {"model": "tf-idf + logistic regression", "kind": "floor", "file": None, "precision": None}


def floor_at(accuracy, **more):
    average = {"accuracy": accuracy, "macro_f1": accuracy, "interval": [accuracy - 0.03, accuracy + 0.03]}
    return model_entry("", **{**FLOOR, "parameters": None, "bytes": None, "average": average, **more})


def test_the_floor_stands_last():
    teacher = model_entry("t", latency=[{"tokens": 16, "threads": 1, "p50": 1.0, "p95": 2.0}])
    labels = {"pos": {"precision": 0.9, "recall": 0.8, "f1": 0.847, "support": 100}}
    floor = floor_at(0.8, domains={"books": {**DOMAIN, "labels": labels}})
    whole, lengths, by_label = tables.eval_tables({"split": "test", "models": [teacher, floor]})
    assert whole.columns == ("", "t\nfp32", "linear floor\n")
    assert [row for row in whole.rows if row[0] == "  size, MB"] == [("  size, MB", "57.4", "-")]
    assert [row for row in whole.rows if row[0] == "  parameters"] == [("  parameters", "14,350,248", "-")]
    assert len(lengths.columns) == 3  # it is not timed
    assert ("linear floor",) in by_label.rows


def test_a_word_where_the_floor_is_not_beaten():
    teacher, student = model_entry("t"), model_entry("s", parameters=1000)  # 86.5 [84.0, 89.0] both
    lines = tables.linear_baseline_notes
    assert lines({"models": [teacher, student]}) == []
    assert lines({"models": [teacher, student, floor_at(0.839)]}) == []
    [text] = lines({"models": [teacher, student, floor_at(0.85)]})
    assert text.startswith("s is only 1.5 points above a linear model on this data, within its 95 % interval; ")
    [text] = lines({"models": [teacher, student, floor_at(0.886)]})
    assert text.startswith("s is 2.1 points below a linear model on this data; ")
    # Of one model, or several of one size, the first is meant.
    assert lines({"models": [teacher, floor_at(0.9)]})[0].startswith("t is 3.5 points below")


def test_the_word_goes_to_stderr(hrkd, engines):
    found = {"split": "test", "models": [model_entry("t"), floor_at(0.9)]}
    engines["eval"].result = result(found)
    ran = hrkd("eval", "t", "--floor", "--json")
    assert json.loads(ran.out) == found
    assert "t is 3.5 points below a linear model" in ran.err
    assert "linear model" not in hrkd("eval", "t", "--floor", "--quiet").err


def test_export_shows_files_parts_and_operators():
    text = "\n".join(to_text(table) for table in tables.export_tables(EXPORTED))
    assert "model_quantized.onnx  int8       14.5" in text
    assert ["embeddings", "9.5", "MB"] in [line.split() for line in text.splitlines()]
    assert len(tables.export_tables({"files": EXPORTED["files"], "quantized_ops": {}, "bytes_by_part": {}})) == 1


def test_the_gate_line():
    assert tables.gate_lines({"gate": None}) == []
    assert tables.gate_lines({"gate": {"max_drop": 1, "drop": -0.25, "passed": True}}) == [
        "Gate passed: dev accuracy rose by 0.25 points; allowed drop: 1."
    ]


def test_a_terminal_gets_drawn_tables_without_markup_in_names(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    console = Console()
    console.out = Terminal()
    console.write_table(Table("T [red]", ("name", "n"), [("[bold]x", "1"), ("section",)]))
    text = console.out.getvalue()
    assert "[bold]x" in text
    assert "T [red]" in text
    assert "\x1b[3" not in text  # no colour


def test_units():
    assert [formatting.duration(s) for s in (0.04, 9, 45, 100, 754, 7500)] == [
        "0.0 s",
        "9.0 s",
        "45 s",
        "2 min",
        "13 min",
        "2 h 05 min",
    ]
    assert [formatting.byte_size(n) for n in (512, 14_486_363, 437_958_648, 2.5e12)] == [
        "512 B",
        "14.5 MB",
        "438 MB",
        "2.5 TB",
    ]
    assert formatting.plural(1, "row") == "1 row"
    assert formatting.plural(1200, "row") == "1,200 rows"
