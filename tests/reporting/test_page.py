"""The page: its sections, missing values, and escaping."""

import json
import re
from html.parser import HTMLParser

import pytest

from fake_runs import dev_line, lines, step_line, write_export, write_lines, write_run
from hrkd_cli.reporting.page import domain_ratios, losses, optimization, render_page
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
        "Dev scores", "Dev accuracy by domain", "Best dev scores: step 20",
        "Losses", "Loss: total", "Loss: hidden", "Loss: prediction",
        "Optimization", "Learning rate", "Gradient norm, before clipping", "Speed, over 20 steps",
        "Domain ratios by layer", "Embedding", "Layer 1", "Layer 2",
        "Layer ratios", "Layer 1", "Layer 2",
        "Exported files", "What each precision costs", "Latency", "Median latency, 1 thread",
    ]  # fmt: skip
    for said in ("80.0%", "83 s", "the-teacher (0123456789ab)", "--epochs 4", "default shape, from the teacher",
                 "hrkd-cli 0.1.0", "best: step 20", "1/2, all domains alike"):  # fmt: skip
        assert said in text, said
    assert (tmp_path / "dataset").as_posix() in text


def test_missing_metrics_are_left_out(tmp_path):
    bare = [step_line(n, ratios=False, losses={"total": 1.0}) for n in range(1, 4)]
    for line in bare:
        del line["learning_rate"], line["gradient_norm"], line["examples_per_second"]
    found, _ = outline(write_lines(tmp_path / "t.partial", bare))
    assert found.titles == ["Teacher (not finished): t.partial", "Losses", "Loss: total"]


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


def test_exported_files_show_accuracy_changes_by_domain(tmp_path):
    found, _ = outline(write_export(write_run(tmp_path / "s")))
    first = found.cells.index("change, points") + 1
    assert found.cells[first : first + 12] == [
        "books", "70.0", "72.0", "+2.00", "dvd", "90.0", "87.0", "-3.00", "average, padded in batches", "-0.75",
        "average", "80.0",
    ]  # fmt: skip
    assert "passed (0.50 of 1)" in found.cells
    assert "avx2, 7-bit weights" in found.cells


def test_macro_f1_is_drawn_if_it_selects_the_best_step(tmp_path):
    found, _ = outline(write_run(tmp_path / "s", metric="macro-f1"))
    assert found.titles[2:4] == ["Dev accuracy by domain", "Dev macro-F1 by domain"]


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
