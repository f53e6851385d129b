"""Reports of folders that the stages wrote."""

from hrkd_cli.choices import Graph
from hrkd_cli.distillation.distill import distill
from hrkd_cli.reporting.page import render_page
from hrkd_cli.reporting.report import report
from hrkd_cli.reporting.run import Run
from hrkd_cli.teaching.teach import teach
from tiny import make_dataset, write_encoder


def test_runs_of_teach_and_distill_are_reported(tmp_path):
    dataset = make_dataset()
    shared = {"epochs": 2, "batch_size": 8, "max_length": 16}
    encoder = write_encoder(tmp_path / "encoder", layers=2)
    teach(encoder, data=dataset, out=tmp_path / "teacher", **shared)
    for graph, sections in ((Graph.FROZEN, True), (Graph.NONE, False)):
        out, options = tmp_path / str(graph), {"graph": graph, "student": "1x32", "allow_weak_teacher": True}
        done = distill(tmp_path / "teacher", data=dataset, out=out, **shared, **options)
        run = Run(out)
        assert (run.best["step"], run.last_step) == (done.best_step, done.steps)
        assert run.domains == tuple(dataset.domains)
        assert "attention" in run.losses
        assert ("Weight of each domain, by layer" in render_page([run])) is sections
        changed = {"epochs", "max_length", "student", "allow_weak_teacher", "graph"}
        assert set(run.changed_options()) == changed | ({"hierarchy"} if sections else set())
    result = report([tmp_path / "teacher", tmp_path / "frozen"], out=tmp_path / "both.html")
    assert [run.stage for run in result.runs] == ["teach", "distill"]
    assert result.runs[0].to_json()["finished"]
