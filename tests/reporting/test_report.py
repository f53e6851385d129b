"""The report file: its path, and files that are not replaced."""

import json
import os

import pytest

import hrkd_cli
from fake_runs import lines, write_lines, write_run
from hrkd_cli.cli.main import main
from hrkd_cli.errors import DataError, OutputError, UsageError
from hrkd_cli.events import Note
from hrkd_cli.reporting.report import report


def test_the_default_is_a_report_in_the_student_folder(tmp_path, capsys):
    write_run(tmp_path / "hrkd-out" / "student")
    assert main(["report", "--json", "--quiet"]) == 0
    file = tmp_path / "hrkd-out" / "student" / "report.html"
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {
        "out": os.path.join("hrkd-out", "student", "report.html"),  # noqa: PTH118 - as it was given
        "bytes": file.stat().st_size,
        "steps": 40,
        "runs": [
            {
                "run": os.path.join("hrkd-out", "student"),  # noqa: PTH118
                "stage": "distill",
                "finished": True,
                "steps": 40,
                "best": {"step": 20, "accuracy": 0.8},
            }
        ],
    }
    assert captured.err == ""
    assert sorted(place.name for place in file.parent.iterdir()) == ["hrkd.json", "metrics.jsonl", "report.html"]


def test_the_command_prints_a_table_and_the_path(tmp_path, capsys):
    write_run(tmp_path / "s")
    assert main(["report", "s", "--out", "new/page.html"]) == 0
    captured = capsys.readouterr()
    assert "distill  finished     40         20             80.0" in captured.out
    assert captured.err == f"page: {os.path.join('new', 'page.html')}\n"  # noqa: PTH118
    assert (tmp_path / "new" / "page.html").is_file()


def test_a_report_of_several_runs_is_written_to_hrkd_out(tmp_path):
    result = hrkd_cli.report([write_run(tmp_path / "a"), write_run(tmp_path / "b")])
    assert result.out == os.path.join("hrkd-out", "report.html")  # noqa: PTH118
    assert result.steps == 80
    assert "2 runs compared" in (tmp_path / result.out).read_text()


def test_an_unfinished_run_emits_a_note(tmp_path):
    told = []
    folder = write_lines(tmp_path / "s.partial", lines()[:9])
    result = report(folder, on_event=told.append)
    assert told == [Note(f"{folder}: not finished; the report covers its first 9 steps")]
    assert (result.runs[0].best_step, result.runs[0].to_json()["best"]) == (None, None)


def test_a_report_is_replaced_but_other_files_only_with_force(tmp_path):
    run, out = write_run(tmp_path / "s"), tmp_path / "page.html"
    report(run, out=out)
    report(run, out=out)
    out.write_text("mine")
    with pytest.raises(OutputError, match="is not a report; replace it with --force"):
        report(run, out=out)
    assert out.read_text() == "mine"
    report(run, out=out, force=True)
    assert "<!-- hrkd report -->" in out.read_text()


@pytest.mark.parametrize("name", ["metrics.jsonl", "onnx/export.json"])
def test_a_file_of_the_run_is_never_replaced(tmp_path, name):
    run = write_run(tmp_path / "s")
    (run / "onnx").mkdir()
    (run / "onnx" / "export.json").write_text("{}")
    before = (run / name).read_text()
    with pytest.raises(OutputError, match="is a file of the run"):
        report(run, out=run / name, force=True)
    assert (run / name).read_text() == before


def test_a_folder_is_not_replaced(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="is not a file"):
        report(write_run(tmp_path / "s"), out=tmp_path / "out", force=True)


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    run = write_run(tmp_path / "s")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        report(run, out=tmp_path / "file" / "page.html")
    assert sorted(place.name for place in tmp_path.iterdir()) == ["file", "s"]


def test_invalid_runs_are_errors(tmp_path, capsys):
    run = write_run(tmp_path / "s")
    with pytest.raises(UsageError, match="given twice"):
        report([run, tmp_path / "s" / ".." / "s"])
    with pytest.raises(UsageError, match="no run given"):
        report([])
    with pytest.raises(DataError, match="no such folder"):
        report([run, tmp_path / "missing"])
    assert main(["report"]) == 1
    assert capsys.readouterr().err == (
        f"hrkd report: {os.path.join('hrkd-out', 'student')}: no such folder; give the output folder of hrkd teach "  # noqa: PTH118
        "or hrkd distill\n"
    )
    assert not (tmp_path / "hrkd-out").exists()
