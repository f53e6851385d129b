import json

from cli_fakes import COMPARED, DOMAIN, EXPORTED, model_entry, result, to_text
from hrkd_cli.cli import tables


def test_models_are_columns():
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


def test_missing_domains_and_values_are_dashes():
    partial = model_entry("b", domains={"books": {"n": 1, "accuracy": 1.0, "macro_f1": 1.0}}, parameters=0)
    lines = [
        line.split()
        for line in to_text(tables.eval_tables({"split": "dev", "models": [model_entry("a"), partial]})[0]).splitlines()
    ]
    assert ["dvd", "(200)", "86.5", "[81.0,", "90.6]", "-"] in lines
    assert ["dvd", "86.0", "-"] in lines
    assert ["parameters", "14,350,248", "-"] in lines
    assert not any("p50" in line for line in lines)


def test_scores_by_label_are_a_separate_table():
    scores = {"precision": 0.9, "recall": 0.8, "f1": 0.847, "support": 100}
    domains = {"books": {**DOMAIN, "labels": {"neg": scores, "pos": scores}}}
    found = tables.eval_tables({"split": "test", "models": [model_entry("a", domains=domains), model_entry("b")]})
    assert len(found) == 2
    text = to_text(found[1])
    assert "a (fp32)" in text
    assert ["books", "pos", "100", "90.0", "80.0", "84.7"] in [line.split() for line in text.splitlines()]


def test_domains_that_models_find_are_a_row_and_a_confusion_matrix():
    matrix = {"books": {"books": 1800, "dvd": 200}, "dvd": {"books": 50, "dvd": 150}}
    models = [model_entry("a", domain_accuracy=0.825, found_domains=matrix), model_entry("b", "int8")]
    whole, confusion = tables.eval_tables({"split": "test", "domain": "auto", "models": models})
    assert whole.title == "Split: test; domain unknown"
    assert ("  domain found, %", "82.5", "-") in whole.rows
    assert confusion.title == "Domains found by a (fp32)"
    assert confusion.columns == ("rows of", "books", "dvd")
    assert confusion.rows == [("books", "1,800", "200"), ("dvd", "50", "150")]
    matrix["books"] = {f"d{n}": n for n in range(11)}
    assert len(tables.eval_tables({"split": "test", "domain": "auto", "models": models})) == 1


FLOOR = {"model": "tf-idf + logistic regression", "kind": "floor", "file": None, "precision": None}


def floor_at(accuracy, **more):
    average = {"accuracy": accuracy, "macro_f1": accuracy, "interval": [accuracy - 0.03, accuracy + 0.03]}
    return model_entry("", **{**FLOOR, "parameters": None, "bytes": None, "average": average, **more})


def test_the_linear_baseline_is_the_last_column_and_is_not_timed():
    teacher = model_entry("t", latency=[{"tokens": 16, "threads": 1, "p50": 1.0, "p95": 2.0}])
    labels = {"pos": {"precision": 0.9, "recall": 0.8, "f1": 0.847, "support": 100}}
    floor = floor_at(0.8, domains={"books": {**DOMAIN, "labels": labels}})
    whole, lengths, by_label = tables.eval_tables({"split": "test", "models": [teacher, floor]})
    assert whole.columns == ("", "t\nfp32", "tf-idf\n+ logistic regression")
    assert [row for row in whole.rows if row[0] == "  size, MB"] == [("  size, MB", "57.4", "-")]
    assert [row for row in whole.rows if row[0] == "  parameters"] == [("  parameters", "14,350,248", "-")]
    assert lengths.columns == ("tokens", "threads", "t\nfp32, torch")  # it is not timed
    assert ("tf-idf + logistic regression",) in by_label.rows


def test_a_model_not_clearly_above_the_linear_baseline_gets_a_note():
    teacher, student = model_entry("t"), model_entry("s", parameters=1000)  # 86.5 [84.0, 89.0] both
    lines = tables.linear_baseline_notes
    assert lines({"models": [teacher, student]}) == []
    assert lines({"models": [teacher, student, floor_at(0.839)]}) == []
    [text] = lines({"models": [teacher, student, floor_at(0.85)]})
    assert text.startswith("s is only 1.5 points above tf-idf + logistic regression, within its 95% interval; ")
    [text] = lines({"models": [teacher, student, floor_at(0.886)]})
    assert text.startswith("s is 2.1 points below tf-idf + logistic regression; ")
    # The best of several baselines counts.
    better = floor_at(0.9, model="frozen e + logistic regression")
    [text] = lines({"models": [teacher, student, floor_at(0.85), better]})
    assert text.startswith("s is 3.5 points below frozen e + logistic regression; ")
    # Of one model, or several of one size, the first is meant.
    assert lines({"models": [teacher, floor_at(0.9)]})[0].startswith("t is 3.5 points below")


def test_the_linear_baseline_note_goes_to_stderr(hrkd, engines):
    found = {"split": "test", "models": [model_entry("t"), floor_at(0.9)]}
    engines["eval"].result = result(found)
    ran = hrkd("eval", "t", "--floor", "--json")
    assert json.loads(ran.out) == found
    assert "t is 3.5 points below tf-idf + logistic regression" in ran.err
    assert "logistic" not in hrkd("eval", "t", "--floor", "--quiet").err


def test_export_shows_files_parts_and_operators():
    text = "\n".join(to_text(table) for table in tables.export_tables(EXPORTED))
    assert "model_quantized.onnx  int8       14.5" in text
    assert ["embeddings", "9.5", "MB"] in [line.split() for line in text.splitlines()]
    assert len(tables.export_tables({"files": EXPORTED["files"], "quantized_ops": {}, "bytes_by_part": {}})) == 1


def test_the_gate_line_states_the_change_and_the_limit():
    assert tables.gate_lines({"gate": None}) == []
    assert tables.gate_lines({"gate": {"max_drop": 1, "drop": -0.25, "passed": True}}) == [
        "Gate passed: dev accuracy rose by 0.25 points; allowed drop: 1."
    ]


def test_the_note_on_baselines_tells_the_margins_and_what_to_do_if_one_is_not_beaten():
    result = {"best": {"dev": {"average": {"accuracy": 0.9}}}}
    assert tables.baseline_note(result) is None
    beaten = {**result, "baselines": {"words": 0.85, "frozen": 0.888}}
    assert tables.baseline_note(beaten) == "dev accuracy 90.0%: 5.0 points above words, 1.2 points above frozen"
    behind = {**result, "baselines": {"words": 0.925}}
    assert tables.baseline_note(behind).startswith("dev accuracy 90.0%: 2.5 points below words; try more labeled")
    perfect = {"best": {"dev": {"average": {"accuracy": 1.0}}}, "baselines": {"words": 1.0}}
    assert tables.baseline_note(perfect) == "dev accuracy 100.0%: equal to words"


def test_calibration_errors_are_shown_before_and_after_and_certain_answers_in_a_table():
    row = {"target": 95, "threshold": 0.8714, "coverage": 0.61, "accuracy": 0.968}
    none = {"target": 99, "threshold": None, "coverage": None, "accuracy": None}
    calibrated = {"ece": 0.027, "brier": 0.181, "uncalibrated": {"ece": 0.061, "brier": 0.192}, "coverage": [row, none]}
    models = [model_entry("a", confidence={"ece": 0.05, "brier": 0.2}), model_entry("b", confidence=calibrated)]
    scores, certain = tables.eval_tables({"split": "test", "models": models})
    lines = [line.split() for line in to_text(scores).splitlines()]
    assert ["calibration", "error,", "%", "[before]", "5.0", "2.7", "[6.1]"] in lines
    assert ["Brier", "score", "[before]", "0.200", "0.181", "[0.192]"] in lines
    assert [line.split() for line in to_text(certain).splitlines()][-2:] == [
        ["95", "0.871", "61.0", "96.8"],
        ["99", "not", "promised", "-", "-"],
    ]


def test_the_accuracy_with_a_fallback_is_shown_by_threshold():
    steps = [
        {"threshold": 0.5, "sent": 0.0, "accuracy": 0.9, "latency_ms": 2.0},
        {"threshold": 0.75, "sent": 0.2, "accuracy": 0.95, "latency_ms": 4.5},
    ]
    cascade = {"model": "small", "fallback": "large", "fallback_accuracy": 0.94, "equal_at": 0.75, "steps": steps}
    result = {"split": "test", "models": [model_entry("small")], "cascade": cascade}
    table = tables.eval_tables(result)[-1]
    assert table.title == "small with --fallback large"
    assert table.columns == ("--min-confidence", "sent on, %", "accuracy, %", "ms per text")
    assert table.rows == [("0.500", "0.0", "90.0", "2.00"), ("0.750", "20.0", "95.0", "4.50")]
    assert tables.cascade_notes(result) == [
        "as accurate as large alone (94.0% of all rows): --min-confidence 0.750, which sends on 20.0% of the texts"
    ]
    assert tables.cascade_notes({"cascade": {**cascade, "fallback_accuracy": 0.9, "equal_at": 0.5}}) == [
        "small needs no fallback to be as accurate as large alone (90.0% of all rows)"
    ]
    assert tables.cascade_notes({"cascade": {**cascade, "equal_at": None}}) == [
        "no threshold in the table makes small as accurate as large alone (94.0% of all rows)"
    ]
    assert tables.cascade_notes({"models": []}) == []


def test_a_likely_label_error_is_noted_if_the_first_model_is_sure():
    suspect = {
        "domain": "books",
        "row": 7,
        "text": "so\nbad" * 30,
        "label": "pos",
        "answer": "neg",
        "probability": 0.99,
    }
    models = [model_entry("a", confidence={"suspects": [suspect, suspect, suspect | {"probability": 0.9}]})]
    text = " ".join(("so bad" * 30).split())[:60]
    assert tables.suspect_notes({"models": models}) == [
        "2 likely label errors (confidence.suspects of --json), such as row 7 of books, pos, "
        f"which a calls neg (99.0%): {text}"
    ]
    located = model_entry("a", confidence={"suspects": [suspect | {"location": "books.csv:82"}]})
    assert "such as books.csv:82 of books, pos, which" in tables.suspect_notes({"models": [located]})[0]
    unsure = model_entry("b", confidence={"suspects": [suspect | {"probability": 0.9}]})
    assert tables.suspect_notes({"models": [unsure, *models]}) == []
