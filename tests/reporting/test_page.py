"""The page: its sections, missing values, and escaping."""

import json
import re
from html.parser import HTMLParser

import pytest

from fake_runs import (
    dev_line,
    evaluated,
    lines,
    step_line,
    write_evaluation,
    write_export,
    write_lines,
    write_run,
)
from hrkd_cli import method
from hrkd_cli.reporting.model_comparison import compare_models
from hrkd_cli.reporting.page import LOSSES, certainty, comparison, domain_ratios, losses, optimization, render_page
from hrkd_cli.reporting.run import Run

VOID = {"meta", "path", "rect", "use"}


class Outline(HTMLParser):
    """Titles, cells and ids of a page; every element must be closed by its own end."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.titles, self.tags, self.cells = [], [], [], set(), []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        assert not any(name.startswith("on") or name in ("src", "href") for name, _ in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("h1", "h2", "h3", "figcaption"):
            self.titles.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.cells.append(data)


def outline(*folders):
    text = render_page([Run(folder) for folder in folders])
    found = Outline(text)
    assert len(set(found.ids)) == len(found.ids)
    assert "script" not in found.tags
    assert not re.search(r"https?://|@import", text)
    return found, text


def test_a_finished_run_has_all_sections(tmp_path):
    found, text = outline(write_export(write_run(tmp_path / "student", epochs=4)))
    assert found.titles == [
        "Distillation: student",
        "Accuracy, size and speed",
        "Dev scores during training", "Dev accuracy by domain",
        "Losses", "Loss: total", "Loss: hidden", "Loss: prediction",
        "Steps", "Learning rate", "Gradient norm, before clipping", "Speed, over 20 steps",
        "Weight of each domain, by layer", "Embedding", "Layer 1", "Layer 2",
        "Weight of lower layers", "Layer 1", "Layer 2",
        "Exported files", "Latency", "Median latency, 1 thread",
        "How it was made",
    ]  # fmt: skip
    for said in ("83 s", "the-teacher (0123456789ab)", "--epochs 4", "default shape, from the teacher",
                 "hrkd-cli 0.1.0", "best: step 20", "1/2, all domains alike"):  # fmt: skip
        assert said in text, said
    assert (tmp_path / "dataset").as_posix() in text


def test_missing_metrics_are_left_out(tmp_path):
    bare = [step_line(n, ratios=False, losses={"total": 1.0}) for n in range(1, 4)]
    for line in bare:
        del line["learning_rate"], line["gradient_norm"], line["examples_per_second"]
    found, _ = outline(write_lines(tmp_path / "t.partial", bare))
    assert found.titles == ["Teacher (not finished): t.partial", "Losses", "Loss: total", "How it was made"]


def test_malicious_names_are_escaped(tmp_path):
    evil = ('</style><script>alert("1")</script>', "a'b\"&<i>")
    folder = write_lines(tmp_path / "<b>", [step_line(1, losses={"total": 1.0, evil[0]: 2.0})])
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps(dev_line(1, 0.5, 0.7, best=True, domains=evil)) + "\n")
    found, text = outline(folder, write_run(tmp_path / "other"))
    assert f"Loss: {evil[0]}" in found.titles
    assert set(evil) <= set(found.cells)
    assert "<script" not in text


def test_values_that_are_not_finite_numbers_are_left_out(tmp_path):
    more = [
        step_line(1, losses={"total": 1.0, "held_back": 0.3, "note": "x"}),
        step_line(2, gradient_norm=float("inf")),
    ]
    run = Run(write_lines(tmp_path, more))
    drawn = {chart.title: chart.data.iloc[:, 0].to_dict() for chart in (*losses(run), *optimization(run))}
    assert drawn["Loss: total"] == {1: 1.0, 2: 3.0}
    assert drawn["Loss: held_back"] == {1: 0.3}
    assert drawn["Loss: note"] == {}
    assert drawn["Gradient norm, before clipping"] == {1: 2.0}
    assert "Loss: note" not in outline(tmp_path)[0].titles


def test_several_runs_start_with_a_comparison(tmp_path):
    found, _ = outline(write_run(tmp_path / "a"), write_run(tmp_path / "b", ratios=False), tmp_path / "a")
    assert found.titles[:3] == ["3 runs compared", "Dev accuracy, average of domains", "Best dev accuracy, %"]
    first = found.cells.index("books")
    assert found.cells[first : first + 12] == [
        "books", "70.0", "70.0", "70.0", "dvd", "90.0", "90.0", "90.0", "average", "80.0", "80.0", "80.0",
    ]  # fmt: skip
    assert [title for title in found.titles if title.startswith("Distillation")] == [
        "Distillation: a", "Distillation: b", "Distillation: a",
    ]  # fmt: skip


def test_every_loss_is_explained():
    assert set(LOSSES) == {loss.name for loss in method.LOSSES}


def test_the_dev_scores_of_runs_are_drawn_by_step(tmp_path):
    for name, steps in (("a", (3, 6)), ("b", (2, 4, 6))):
        scores = [dev_line(step, 0.5, step / 10, best=True) for step in steps]
        write_lines(tmp_path / name, [step_line(6), *scores])
    chart = comparison([Run(tmp_path / "a"), Run(tmp_path / "b")])
    assert chart.data["b"].dropna().to_dict() == pytest.approx({2: 35, 4: 45, 6: 55})
    assert list(chart.data.index) == [2, 3, 4, 6]


def test_without_an_evaluation_the_page_opens_with_the_dev_scores_of_student_and_files(tmp_path):
    found, text = outline(write_export(write_run(tmp_path / "s")))
    assert found.cells[:11] == [
        "student", "int8", "books", "70.0", "72.0", "dvd", "90.0", "87.0", "average", "80.0", "79.5",
    ]  # fmt: skip
    assert "<code>hrkd eval</code>" in text
    assert "passed (0.50 of 1; 0.75 in padded batches)" in found.cells


def test_an_evaluated_run_opens_with_its_models_then_mistakes_then_curves(tmp_path):
    run = write_export(write_run(tmp_path / "s"))
    int8 = {"kind": "onnx", "precision": "int8", "file": "model_quantized.onnx", "bytes": 2e6}
    timed = {"latency_ms": {"p50": 3.21, "tokens": 11, "threads": 2}}
    floor = evaluated("tf-idf + logistic regression", 0.75, kind="floor")
    write_evaluation(
        run, evaluated("../the-teacher", 0.9, **timed), evaluated(".", 0.88), evaluated("onnx", 0.86, **int8), floor
    )
    found, text = outline(run)
    assert found.titles[:10] == [
        "Distillation: s", "Accuracy, size and speed", "What int8 confuses", "books", "dvd",
        "Worst mistakes, or wrong labels",
        "How far to trust a probability", "Are answers right as often as stated?",
        "Accuracy of the most certain answers", "Dev scores during training",
    ]  # fmt: skip
    assert found.cells[:24] == [
        "teacher", "student", "int8", "linear on words",
        "books", "90.0", "88.0", "86.0", "75.0", "dvd", "90.0", "88.0", "86.0", "75.0",
        "average", "90.0", "88.0", "86.0", "75.0", "average on dev", "80.0", "79.5", "MB", "5.0",
    ]  # fmt: skip
    for said in ("test split of the-data", "80.0&ndash;95.0", "text of 11 tokens, 2 threads", "dvd.csv:18", "98.7",
                 "a &lt;b&gt; film", "2 more", "--share:90.0%"):  # fmt: skip
        assert said in text, said
    assert "To fill the gaps" not in text


def test_a_matrix_of_many_labels_is_a_list_of_its_most_frequent_confusions(tmp_path):
    run, names = write_run(tmp_path / "s"), [f"intent {n:02}" for n in range(75)]
    entry = evaluated(".", 0.9)
    labels = {name: {"answers": {name: 20, names[n - 1]: n % 7 or 0.5}} for n, name in enumerate(names)}
    entry["domains"]["books"]["labels"] = {name: {"answers": {k: int(v) for k, v in e["answers"].items() if v >= 1}}
                                           for name, e in labels.items()}  # fmt: skip
    found, text = outline(write_evaluation(run, entry))
    first = found.cells.index("intent 06")
    assert found.cells[first : first + 3] == ["intent 06", "intent 05", "6 of 26"]
    assert "The most frequent confusions of 64, among 75 labels." in text
    assert "intent 01" not in found.cells


def test_points_of_few_answers_are_left_out_of_the_reliability_diagram(tmp_path):
    run = Run(write_evaluation(write_run(tmp_path / "s"), evaluated(".", 0.9)))
    reliability, coverage = certainty(compare_models(run).models)
    assert reliability.data["student"].to_dict() == {95.0: 95.0}
    assert coverage.data["student"].to_dict() == {50.0: 100.0, 100.0: 90.0}


def test_exported_files_name_their_cpu(tmp_path):
    found, _ = outline(write_export(write_run(tmp_path / "s")))
    assert "avx2, 7-bit weights" in found.cells


def test_macro_f1_is_drawn_if_it_selects_the_best_step(tmp_path):
    found, _ = outline(write_run(tmp_path / "s", metric="macro-f1"))
    assert found.titles[3:5] == ["Dev accuracy by domain", "Dev macro-F1 by domain"]


def test_a_loss_with_a_large_range_has_a_logarithmic_axis(tmp_path):
    far = [step_line(n, losses={"total": 10.0 ** (3 - n / 10), "flat": 1.0}) for n in range(1, 31)]
    _, text = outline(write_lines(tmp_path / "s", far))
    assert text.count(">loss, log scale</text>") == 1
    assert text.count(">loss</text>") == 1


@pytest.mark.parametrize(("steps", "windows"), [(24, {1}), (40, {1, 3}), (1000, {1, 21, 61})])
def test_short_runs_are_not_smoothed_and_windows_are_odd(tmp_path, steps, windows):
    run = Run(write_run(tmp_path, steps=steps))
    charts = (*losses(run), *optimization(run), *domain_ratios(run))
    assert {chart.window for chart in charts} == windows


def test_ratios_of_another_number_of_domains_are_numbered(tmp_path):
    """A damaged dev line can name fewer domains."""
    damaged = dev_line(2, 0.5, 0.7, best=True)
    del damaged["dev"]["domains"]["dvd"]
    run = Run(write_lines(tmp_path, [step_line(1), damaged, step_line(3)]))
    assert [list(chart.data.columns) for chart in domain_ratios(run)] == [["domain 1", "domain 2"]] * 3


@pytest.mark.parametrize(("steps", "layers", "domains"), [(3000, 3, 5), (60, 25, 20)])
def test_pages_of_long_runs_and_of_many_domains_stay_small(tmp_path, steps, layers, domains):
    ratios = [[1 / domains] * domains] * layers
    mixed = [[1 / (n + 1)] * (n + 1) for n in range(1, layers)]
    many = [step_line(n, ratios=False, layer_ratios=mixed) | {"ratios": ratios} for n in range(1, steps + 1)]
    text = render_page([Run(write_lines(tmp_path / "s", many))])
    assert len(text) < 1_500_000


def test_many_dev_scores_are_drawn_without_dots(tmp_path):
    many = [step_line(1)] + [dev_line(n, 0.5, 0.8 if n == 333 else 0.7, best=n == 333) for n in range(1, 1001)]
    _, text = outline(write_lines(tmp_path / "s", many))
    assert "1,000 dev scores;" in text
    assert "best: step 333" in text
    assert len(text) < 150_000


def test_domains_are_numbered_before_the_first_dev_score(tmp_path):
    _, text = outline(write_lines(tmp_path / "s", [line for line in lines() if "dev" not in line]))
    assert "domain 2" in text
