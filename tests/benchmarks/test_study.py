import json
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS / "peers")]

import peer
import study
from hrkd_cli import prepare
from hrkd_cli.settings import DistillSettings
from study_methods import COLUMNS, METHODS, StudyError, select
from study_table import (
    Results,
    difference,
    draw_picture,
    make_summary,
    make_tables,
    mean_accuracy,
    paired_bootstrap,
    pareto_front,
    read_results,
    replace_tables,
    row_differences,
    sample_sd,
)
from tiny import tiny_tokenizer


def test_accuracy_is_averaged_over_domains_not_rows():
    assert mean_accuracy({"a": "1111", "b": "01"}) == 75.0


def test_sample_sd_divides_by_n_minus_1():
    assert sample_sd([80.0, 82.0]) == pytest.approx(2**0.5)
    assert sample_sd([80.0]) is None


def test_row_differences_are_pairs_by_rows():
    found = row_differences([{"a": "110"}, {"a": "000"}], [{"a": "010"}, {"a": "001"}])
    assert [gap.tolist() for gap in found] == [[[1, 0, 0], [0, 0, -1]]]


def test_row_differences_of_other_rows_are_an_error():
    with pytest.raises(StudyError, match="different test rows"):
        row_differences([{"a": "110"}], [{"a": "01"}])


def test_a_constant_difference_has_an_interval_without_width():
    assert paired_bootstrap([np.ones((3, 7)), np.zeros((3, 4))], resamples=50) == (50.0, 50.0, 50.0)


def test_pairs_are_drawn_together_in_all_domains():
    # Two pairs with differences 1 and 0: the mean of two draws is 0, 1/2 or 1 with probability 1/4, 1/2, 1/4.
    gap = np.array([[1.0] * 5, [0.0] * 5])
    # The opposite in the other domain: if pairs were drawn separately by domain, the mean would vary.
    assert paired_bootstrap([gap, 1 - gap], resamples=400) == (50.0, 50.0, 50.0)
    assert paired_bootstrap([gap, gap], resamples=400) == (50.0, 0.0, 100.0)


def test_the_interval_over_rows_matches_the_normal_approximation():
    # One pair, R rows, half of them 1: the mean of R draws has sd 1 / (2 sqrt R); two domains halve the variance.
    rows = 400
    gap = np.array([[1.0, 0.0] * (rows // 2)])
    half = 100 * 1.96 / (2 * rows**0.5)
    _, low, high = paired_bootstrap([gap], resamples=10_000)
    assert (low, high) == pytest.approx((50 - half, 50 + half), abs=0.25)
    _, low, high = paired_bootstrap([gap, gap], resamples=10_000)
    assert (low, high) == pytest.approx((50 - half / 2**0.5, 50 + half / 2**0.5), abs=0.25)


def test_rows_are_the_same_in_all_pairs():
    # Equal pairs: five of them say no more about the rows than one.
    one = np.array([[1.0, 0.0] * 50])
    five = np.repeat(one, 5, axis=0)
    _, low, high = paired_bootstrap([five], resamples=10_000)
    assert (low, high) == pytest.approx(paired_bootstrap([one], resamples=10_000)[1:], abs=1.0)


def test_names_are_selected_and_checked():
    assert select(None, COLUMNS, ("amazon",), "--columns") == ["amazon"]
    assert select("mnli,amazon-5", COLUMNS, (), "--columns") == ["mnli", "amazon-5"]
    with pytest.raises(StudyError, match="--columns: 'mlni' is not one of products, intents"):
        select("mlni", COLUMNS, (), "--columns")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_script_and_valid_options(name):
    method = METHODS[name]
    assert method.script.is_file()
    assert method.requirements is None or method.requirements.is_file()
    DistillSettings(**(method.options or {}))


# Two domains with two and three test rows.
FACTS = {
    "column": "products",
    "data": "print",
    "rows": {"train": 8, "dev": 2, "test": 5},
    "tokens": 50,
    "test_rows": {"a": 2, "b": 3},
}
SIZES = {"bytes": {"weights": 2_000_000, "folder": 3_000_000}, "minutes": 1.5}


def make_run(method, seed, a, b, **more):
    return {"column": "products", "method": method, "seed": seed, "right": {"a": a, "b": b}, **SIZES, **more}


# Accuracy: student (100 + 100 / 3) / 2 = 66.7 and (50 + 200 / 3) / 2 = 58.3; linear model (50 + 0) / 2 = 25.
RUNS = [
    make_run("student", 1, "3", "4"),  # right rows in binary: 11 and 100
    make_run("student", 2, "2", "6"),
    make_run("tfidf", 1, "1", "0"),
    make_run("fasttext", 2, "0", "7"),
    {"column": "products", "method": "student", "seed": 1, "ms": {"16": [0.5, 0.6], "64": [1.25, 1.5]}},
    {"column": "products", "method": "tfidf", "seed": 1, "ms": {"64": [0.125, 0.25]}},
]


@pytest.fixture
def results(tmp_path):
    file = tmp_path / "results.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in (FACTS, *RUNS)), encoding="utf-8")
    return read_results([file])


def test_lines_of_the_same_run_are_merged(results):
    run = results.runs["products", "student", 1]
    assert run["right"] == {"a": "11", "b": "100"}
    assert run["ms"]["64"] == [1.25, 1.5]
    assert mean_accuracy(run["right"]) == pytest.approx(200 / 3)


def test_results_files_must_have_the_same_data(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text(json.dumps(FACTS) + "\n")
    other.write_text(json.dumps({**FACTS, "data": "another"}) + "\n")
    with pytest.raises(StudyError, match="other: column products has other data than in an earlier line"):
        read_results([one, other])
    other.write_text(json.dumps(RUNS[0]) + "\n")
    with pytest.raises(StudyError, match="no line with the column's facts before it"):
        read_results([other])


def test_a_deterministic_method_is_paired_with_every_seed(results):
    student, linear = (results.methods("products")[name] for name in ("student", "tfidf"))
    mean, _, _, seeds = difference(student, linear, deterministic=True)
    assert (mean, seeds) == (pytest.approx((200 / 3 + 175 / 3) / 2 - 25), 2)
    # Only seed 1 has a pair if the seed matters.
    mean, _, _, seeds = difference(student, linear, deterministic=False)
    assert (mean, seeds) == (pytest.approx(200 / 3 - 25), 1)
    assert difference({3: student[1]}, linear, deterministic=False) is None


def test_the_table_of_results(results):
    text = make_tables(results, "student")
    pairs = [np.array([[1.0, 0], [1, -1]]), np.array([[1.0, 0, 0], [1, 1, 0]])]
    mean, low, high = paired_bootstrap(pairs)
    assert mean == pytest.approx(37.5)
    assert "8 / 2 / 5 rows (train / dev / test); a test text has 50 tokens" in text
    assert "| **hrkd student, int8** | 62.5 | 5.9 |  | 2 | 2.0 | 3.0 | 0.50 | 1.25 |  |  | 1.5 |" in text
    assert f"| TF-IDF, linear | 25.0 |  | {mean:+.1f} [{low:+.1f}, {high:+.1f}] | 1 | 2.0 | 3.0 |  | 0.12 |" in text
    # fastText has seed 2 only: rows 00 and 111 against the student's 10 and 110.
    _, low, high = paired_bootstrap([np.array([[1.0, 0]]), np.array([[0.0, 0, -1]])])
    assert f"| fastText | 50.0 |  | +8.3 [{low:+.1f}, {high:+.1f}] (1 seed) | 1 |" in text


def test_the_summary_averages_over_columns(tmp_path):
    lines = [FACTS, *RUNS]
    # The other column has one domain with two rows, texts of 20 tokens, and no fastText.
    lines.append({**FACTS, "column": "intents", "test_rows": {"c": 2}, "rows": {"train": 1000}, "tokens": 20})
    for method, right, size, ms in (("student", "3", 4_000_000, 0.25), ("tfidf", "2", 1_000_000, 0.5)):
        run = make_run(method, 1, "", "") | {"column": "intents", "right": {"c": right}, "bytes": {"weights": size}}
        lines.append(run | {"ms": {"16": [ms, 1.0], "64": [9.0, 9.0]}})
    file = tmp_path / "results.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    columns, results = ["products", "intents"], read_results([file])
    text = make_summary(columns, results)
    assert "| train rows | 8 | 1,000 |  |  |  |" in text
    assert "| **hrkd student, int8** | **62.5** | **100.0** | 81.2 | 3.0 | 0.75 |" in text
    assert "| TF-IDF, linear | 25.0 | 50.0 | 37.5 | 1.5 | 0.31 |" in text
    assert "| fastText | 50.0 |  |  |  |  |" in text


def test_no_results_and_unknown_methods_are_errors(results):
    with pytest.raises(StudyError, match="no results"):
        make_tables(Results(), "student")
    with pytest.raises(StudyError, match="--against: 'studnt' is not one of student, teacher"):
        make_tables(results, "studnt")


def test_the_pareto_front_has_the_points_that_no_other_beats():
    points = {
        "cheap": (1.0, 70.0),
        "worse": (2.0, 69.0),
        "equal": (2.0, 80.0),
        "twin": (2.0, 80.0),
        "best": (9.0, 81.0),
    }
    assert pareto_front(points) == ["cheap", "equal", "twin", "best"]
    assert pareto_front({**points, "as cheap": (1.0, 75.0)})[0] == "as cheap"


def test_the_picture_has_the_names_of_the_methods_and_is_reproducible(results, tmp_path):
    out = tmp_path / "picture.svg"
    draw_picture(results, out)
    first = out.read_bytes()
    draw_picture(results, out)
    assert out.read_bytes() == first
    assert first.count(b"<!-- hrkd student, int8 -->") == 2
    assert first.count(b"<!-- TF-IDF, linear -->") == 2
    assert first.count(b"<!-- fastText -->") == 1  # it has no times
    assert b"mean of 1 data sets" in first


def test_the_documented_summary_is_that_of_the_stored_results():
    results = read_results([BENCHMARKS / "study.jsonl"])
    documented = (BENCHMARKS.parent / "docs/results.md").read_text(encoding="utf-8")
    assert make_summary([name for name in COLUMNS if name in results.columns], results) in documented


def test_only_the_text_between_the_markers_is_replaced():
    text = "a\n<!-- study -->\nold\n<!-- /study -->\nb\n"
    found = replace_tables(text, "new")
    assert found == text.replace("\nold\n", "\n\nnew\n\n")
    assert replace_tables(found, "new") == found
    with pytest.raises(StudyError, match="no <!-- study -->"):
        replace_tables("a", "new")


def write_texts(folder, *, pair=False):
    folder.mkdir(exist_ok=True)
    for domain, words in (("a", ("good", "bad")), ("b", ("fine", "poor"))):
        rows = [{"text": f"{words[n % 2]} number {n} of many", "label": ("yes", "no")[n % 2]} for n in range(40)]
        if pair:
            rows = [{**row, "text_pair": f"other {n} of many"} for n, row in enumerate(rows)]
        (folder / f"{domain}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_method_is_trained_stored_and_scored_on_the_test_rows(tmp_path):
    prepare(write_texts(tmp_path / "raw"), out=tmp_path / "data")
    data = peer.read_data(tmp_path / "data")

    def train(data, folder, options):
        (folder / "weights.bin").write_bytes(b"123")
        (folder / "words.txt").write_text("good fine")
        assert [len(rows.labels) for _, _, rows in data.groups()] == [64]

    def load(folder):
        words = (folder / "words.txt").read_text().split()
        return lambda texts, domain: ["yes" if text.split()[0] == words[0] else "no" for text in texts]

    model = tmp_path / "model"
    record = peer.train_and_predict(train, load, data, model, None)
    # All of a's rows are right; of b's, those with the label "no".
    bits = "".join("1" if label == "no" else "0" for label in data.rows("test")["b"].labels)
    assert record["right"] == {"a": "f", "b": f"{int(bits, 2):x}"}
    assert set(bits) == {"0", "1"}
    assert peer.byte_size(model, ["*.bin"]) == 3
    assert peer.byte_size(model, ["**/*", "*.bin"]) == 12
    times = peer.time_model(load(model), {"16": [("a", "good"), ("b", "fine")]})["ms"]["16"]
    assert 0 < times[0] <= times[1]


def test_domains_with_other_labels_are_separate_groups(tmp_path):
    raw = write_texts(tmp_path / "raw")
    (raw / "b.jsonl").write_text((raw / "b.jsonl").read_text().replace('"yes"', '"sure"'))
    prepare(raw, out=tmp_path / "data")
    groups = {name: rows for name, _, rows in peer.read_data(tmp_path / "data").groups()}
    assert list(groups) == ["a", "b"]
    assert set(groups["b"].labels) == {"no", "sure"}


@pytest.mark.parametrize("pair", [False, True])
def test_timed_texts_have_the_number_of_tokens(tmp_path, pair):
    from hrkd_cli.data.dataset_folder import open_dataset

    prepare(write_texts(tmp_path / "raw", pair=pair), out=tmp_path / "data")
    tiny_tokenizer().save_pretrained(tmp_path / "encoder")
    texts = study.choose_texts(open_dataset(tmp_path / "data"), tmp_path / "encoder")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tmp_path / "encoder" / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    for domain, text in texts[16]:
        assert domain in ("a", "b")
        assert len(tokenizer.encode(*(text if pair else [text])).ids) in (15, 16)  # a pair has halves of equal length


def test_results_md_has_markers_for_the_tables():
    text = (BENCHMARKS.parent / "docs" / "results.md").read_text(encoding="utf-8")
    assert "<!-- study -->\n\nnew tables\n\n<!-- /study -->" in replace_tables(text, "new tables")
