import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import study
import study_plan
from hrkd_cli.settings import DistillSettings, TeachSettings
from study_plan import PLANS, PlanError, select_methods
from study_table import make_tables, mean_accuracy, paired_bootstrap, replace_tables, row_differences, sample_sd
from tiny import make_dataset

PRINTS = {"data": "d", "teacher": "t"}


def test_accuracy_is_averaged_over_domains_not_rows():
    assert mean_accuracy({"a": "1111", "b": "01"}) == 75.0


def test_sample_sd_divides_by_n_minus_1():
    assert sample_sd([80.0, 82.0]) == pytest.approx(2**0.5)
    assert sample_sd([80.0]) is None


def test_row_differences_are_pairs_by_rows():
    found = row_differences([{"a": "110"}, {"a": "000"}], [{"a": "010"}, {"a": "001"}])
    assert [gap.tolist() for gap in found] == [[[1, 0, 0], [0, 0, -1]]]


def test_row_differences_of_other_rows_are_an_error():
    with pytest.raises(PlanError, match="different test rows"):
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


def test_methods_are_selected_by_pattern():
    assert select_methods("first", ["amazon-5/frozen", "*/logits"])["amazon-5"] == ["logits", "frozen"]
    assert list(select_methods("first", ["mnli-5"])) == ["mnli-5"]
    with pytest.raises(PlanError, match="nothing in plan"):
        select_methods("first", ["amazon-7"])


@pytest.mark.parametrize("column", study_plan.COLUMNS)
def test_every_column_has_valid_options(column):
    plan = study_plan.COLUMNS[column]
    TeachSettings(**plan.teach_options())
    for method in plan.methods:
        DistillSettings(**plan.distill_options(method))


def test_a_stored_result_made_with_other_options_is_an_error(tmp_path):
    file = tmp_path / "run.json"
    assert not study.is_stored(file, {"student": "a"})
    file.write_text('{"student": "a", "options": {"epochs": 3}}')
    assert study.is_stored(file, {"student": "a", "options": {"epochs": 3}})
    with pytest.raises(PlanError, match="another student"):
        study.is_stored(file, {"student": "b"})


def write_study(folder: Path) -> Path:
    where = {"device": "a machine", "threads": 2, "versions": {"torch": "1"}, "fingerprints": PRINTS}
    speed = {"seconds": 10.0, "examples_per_second": 20.0, "dev": 0.5}
    column = study_plan.COLUMNS["sample"].to_json()
    facts = {"column": column, "teacher_model": "big", "rows": {"train": 8, "dev": 2, "test": 4}}
    (folder / "sample").mkdir(parents=True)
    text = json.dumps({**facts, **where, **speed, "right": {"a": "1110"}, "floor": {"a": "1100"}})
    (folder / "sample" / "column.json").write_text(text)
    for method, seed, right in (
        ("frozen", 1, "1100"),
        ("frozen", 2, "1100"),
        ("logits", 1, "1110"),
        ("logits", 2, "1110"),
    ):
        options = study_plan.COLUMNS["sample"].distill_options(method)
        run = {"method": method, "seed": seed, "options": options, "student": "small", "right": {"a": right}}
        (folder / "sample" / f"{method}-{seed}.json").write_text(json.dumps({**run, **where, **speed}))
    return folder


def test_the_table_of_stored_runs(tmp_path):
    text = make_tables(write_study(tmp_path), "frozen")["sample"]
    assert "| linear model | 50.0 |" in text
    assert "| teacher | 75.0 |" in text
    assert "| HRKD, frozen graph | 50.0 | 0.0 | 50.0 |  | 2 | 10 | 20 |" in text
    low, high = (f"{x:+.1f}" for x in paired_bootstrap([np.array([[0.0, 0, 1, 0]] * 2)])[1:])
    assert f"| logits only | 75.0 | 0.0 | 50.0 | +25.0 [{low}, {high}] | 2 | 10 | 20 |" in text
    assert "seeds 1, 2" in text


def test_differences_from_the_teacher_and_the_linear_model(tmp_path):
    study = write_study(tmp_path)
    assert "| HRKD, frozen graph | 50.0 | 0.0 | 50.0 | -25.0 [" in make_tables(study, "teacher")["sample"]
    assert "| logits only | 75.0 | 0.0 | 50.0 | +25.0 [" in make_tables(study, "floor")["sample"]


def test_domains_with_shuffled_labels_are_not_scored(tmp_path):
    folder = write_study(tmp_path) / "sample"
    for file in folder.glob("*.json"):
        found = json.loads(file.read_text())
        if file.name == "column.json":
            found["column"]["shuffled"] = ["b"]
            found["floor"]["b"] = "0000"
        found["right"]["b"] = "0000"
        file.write_text(json.dumps(found))
    text = make_tables(tmp_path, "frozen")["sample"]
    assert "| linear model | 50.0 |" in text
    assert "| logits only | 75.0 |" in text
    assert "domains other than b, dev that of all." in text


def test_final_ratios_average_the_last_fifth_of_training(tmp_path):
    file = tmp_path / "metrics.jsonl"
    # Ten records, two layers, two domains; the last two count: means of 0.2, 0.4, 0.1, 0.3 and of the rest to 1.
    rows = [[[0.5, 0.5], [0.5, 0.5]]] * 8 + [[[0.2, 0.8], [0.4, 0.6]], [[0.1, 0.9], [0.3, 0.7]]]
    file.write_text("".join(json.dumps({"step": n, "ratios": r}) + "\n" for n, r in enumerate(rows)) + '{"dev": 1}\n')
    assert study.final_ratios(file) == pytest.approx([0.25, 0.75])
    file.write_text('{"step": 1}\n')
    assert study.final_ratios(file) is None


def test_ratios_are_listed_by_domain(tmp_path):
    folder = write_study(tmp_path) / "sample"
    for seed, ratios in ((1, [0.25, 0.75]), (2, [0.35, 0.65])):
        file = folder / f"frozen-{seed}.json"
        found = json.loads(file.read_text())
        file.write_text(json.dumps({**found, "ratios": ratios, "right": {**found["right"], "b": "11"}}))
    for name in ("column", "logits-1", "logits-2"):
        found = json.loads((folder / f"{name}.json").read_text())
        more = {"column": {**found["column"], "shuffled": ["b"]}, "floor": {"a": "1100"}} if name == "column" else {}
        (folder / f"{name}.json").write_text(json.dumps({**found, **more}))
    assert "- HRKD, frozen graph: a 0.300, b 0.700" in make_tables(tmp_path, "frozen")["sample"]


def test_only_the_train_labels_of_named_domains_are_shuffled(tmp_path):
    dataset = make_dataset()
    study.shuffle_labels(dataset, ["books"], tmp_path)
    for domain in dataset.domains:
        for split in ("train", "dev", "test"):
            lines = (tmp_path / f"{domain}.{split}.jsonl").read_text().splitlines()
            found = [json.loads(line)["label"] for line in lines]
            rows = dataset.split(domain, split)
            assert [json.loads(line)["text"] for line in lines] == rows.texts
            assert sorted(found) == sorted(rows.labels)
            assert (found != list(rows.labels)) == (domain == "books" and split == "train")


def test_runs_of_another_teacher_are_an_error(tmp_path):
    file = write_study(tmp_path) / "sample" / "logits-2.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "fingerprints": {"data": "d", "teacher": "other"}}))
    with pytest.raises(PlanError, match=r"logits-2\.json: made with other data or another teacher"):
        make_tables(tmp_path, "frozen")


def test_only_the_text_between_the_markers_is_replaced():
    text = "a\n<!-- study:first -->\nold\n<!-- /study -->\nb\n<!-- study:later -->\nkept\n<!-- /study -->\n"
    found, done = replace_tables(text, {"first": "new", "sample": "nowhere"})
    assert done == ["first"]
    assert found == text.replace("\nold\n", "\n\nnew\n\n")
    assert replace_tables(found, {"first": "new"})[0] == found


def test_results_md_has_markers_for_the_tables():
    text = (Path(__file__).parents[2] / "docs" / "results.md").read_text(encoding="utf-8")
    _, done = replace_tables(text, {plan: "x" for plan in PLANS if plan != "sample"})
    assert done == ["first", "later", "noise"]
