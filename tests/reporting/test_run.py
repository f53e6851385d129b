"""Reading runs: finished, under way, cut off, damaged, foreign."""

import json
import re

import pytest

from fake_runs import dev_line, lines, step_line, write_lines, write_record, write_run
from hrkd_cli.errors import DataError
from hrkd_cli.reporting.run import Run


def test_a_finished_run_is_read(tmp_path):
    run = Run(write_run(tmp_path / "student"))
    assert (run.name, run.stage, run.finished) == ("student", "distill", True)
    assert (len(run.steps), run.last_step) == (40, 40)
    assert run.domains == ("books", "dvd")
    assert run.best["step"] == 20
    assert list(run.losses) == ["total", "hidden", "prediction"]
    assert [table.loc[1].tolist() for table in run.layers("ratios")] == [[0.4, 0.6], [0.5, 0.5], [0.3, 0.7]]
    assert [table.shape for table in run.layers("layer_ratios")] == [(40, 2), (40, 3)]
    assert run.scores("accuracy").loc[20].tolist() == [70, 90]


def test_domains_without_labels_have_ratios_and_no_dev_scores(tmp_path):
    run = Run(write_run(tmp_path / "student", new_domains="camera, zoo"))
    assert run.domains == ("books", "camera", "dvd", "zoo")
    assert list(run.scores("accuracy")) == ["books", "dvd"]


def test_the_later_of_equal_scores_is_the_best(tmp_path):
    found = [step_line(1), *(dev_line(n, 0.5, books, best=n == 2) for n, books in ((1, 0.6), (2, 0.9), (3, 0.9)))]
    assert Run(write_lines(tmp_path, [*found, dev_line(4, 0.5, 0.7, best=False)])).best["step"] == 3


def test_the_best_step_comes_from_the_record_of_a_finished_run(tmp_path):
    write_run(tmp_path)
    record = json.loads((tmp_path / "hrkd.json").read_text())
    record["results"]["best"] = {"step": 40}
    (tmp_path / "hrkd.json").write_text(json.dumps(record))
    assert Run(tmp_path).best["step"] == 40
    dev = dev_line(40, 0.9, 0.9, best=True)["dev"]  # with a wide branch
    record["results"]["best"]["dev"] = dev
    (tmp_path / "hrkd.json").write_text(json.dumps(record))
    assert Run(tmp_path).best == {"step": 40, **dev}


def test_an_incomplete_last_line_is_skipped(tmp_path):
    run = Run(write_lines(tmp_path / "s.partial", lines()[:7], tail='{"step": 8, "epo'))
    assert (len(run.steps), run.finished, run.best) == (7, False, None)


def test_a_damaged_line_is_an_error_with_its_number(tmp_path):
    scored = dev_line(2, 0.5, 0.5, best=True)
    scored["dev"]["average"]["accuracy"] = "high"
    for damaged in ({"step": 2}, {"step": 2, "dev": None}, scored):
        write_lines(tmp_path, [step_line(1), damaged, step_line(3)])
        with pytest.raises(DataError, match=re.escape("metrics.jsonl:2: not a line written by hrkd")):
            Run(tmp_path)


@pytest.mark.parametrize("content", ["", '{"st', json.dumps(dev_line(1, 0.5, 0.5, best=True)) + "\n"])
def test_a_run_without_a_step_is_an_error(tmp_path, content):
    (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(DataError, match="no step recorded yet"):
        Run(tmp_path)


def test_a_folder_that_is_not_a_run_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"no metrics\.jsonl in it; give the output folder"):
        Run(tmp_path)
    with pytest.raises(DataError, match="no such folder; give the output folder"):
        Run(tmp_path / "missing")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file: not a folder"):
        Run(tmp_path / "file")


def test_the_error_names_the_folder_of_an_unfinished_run(tmp_path):
    write_lines(tmp_path / "student.partial", lines())
    with pytest.raises(DataError, match=re.escape(f"give {tmp_path / 'student.partial'}")):
        Run(tmp_path / "student")


def test_options_of_an_unfinished_run_come_from_its_newest_checkpoint(tmp_path):
    write_lines(tmp_path, lines())
    for step, epochs in ((9, 1), (10, 2)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        values = {"format": 1, "step": step, "options": {"epochs": epochs, "graph": "uniform"}}
        (tmp_path / f"checkpoint-{step}" / "checkpoint.json").write_text(json.dumps(values))
    assert Run(tmp_path).changed_options() == {"epochs": 2}


@pytest.mark.parametrize(
    ("given", "changed"),
    [
        ({}, []),
        ({"graph": "frozen", "hierarchy": True}, ["graph", "hierarchy"]),
        ({"method": "tinybert", "graph": "none", "hierarchy": False}, ["method", "graph"]),
        ({"epochs": 3, "of_another_version": 1}, ["epochs"]),
        ({"method": "unheard-of"}, ["method"]),
    ],
)
def test_changed_options_differ_from_the_defaults(tmp_path, given, changed):
    assert list(Run(write_run(tmp_path, **given)).changed_options()) == changed


@pytest.mark.parametrize(
    ("names", "stage"),
    [
        (["total"], "teach"),
        (["total", "label", "domain"], "teach"),
        (["total", "prediction", "domain"], "distill"),
        (["total", "hidden"], "distill"),
    ],
)
def test_the_losses_of_an_unfinished_run_tell_its_stage(tmp_path, names, stage):
    run = Run(write_lines(tmp_path, [step_line(1, losses=dict.fromkeys(names, 1.0), ratios=False)]))
    assert run.stage == stage


def test_the_record_of_a_run_names_its_stage(tmp_path):
    write_lines(tmp_path, lines())
    assert Run(write_record(tmp_path, stage="teach")).stage == "teach"
