"""Setup of a distillation: the student's weights, and whether a teacher is run."""

import pytest
import torch
from safetensors.torch import load_file

from hrkd_cli.distillation.online_teacher import OnlineTeacher
from hrkd_cli.events import Progress
from short_runs import first_step, run_distill
from tiny import write_encoder


@pytest.mark.parametrize(
    "options", [{"method": "labels"}, {"hidden_weight": 0, "prediction_weight": 0, "label_weight": 1}]
)
def test_no_teacher_is_run_if_only_labels_are_learned(tmp_path, teacher, dataset, monkeypatch, options):
    monkeypatch.setattr(OnlineTeacher, "load", None)
    _, events = run_distill(teacher, dataset, tmp_path / "s", **options)
    assert set(first_step(events).losses) == {"total", "label", "domain"}
    assert not (tmp_path / "teacher-cache").exists()


def test_every_long_step_is_named_when_it_starts(tmp_path, teacher, dataset):
    _, events = run_distill(teacher, dataset, tmp_path / "s", cache_teacher="on")
    tasks = list(dict.fromkeys(event.task for event in events if isinstance(event, Progress)))
    assert tasks == [
        "loading the teacher",
        "tokenizing the texts",
        "scoring dev",
        "teacher outputs",
        "timing a training step",
        "fitting the wide branch",
        "encoding texts for tf-idf + logistic regression",
        "training tf-idf + logistic regression on 96 rows",
        "encoding texts for frozen encoder + logistic regression",
        "training frozen encoder + logistic regression on 96 rows",
    ]


def test_a_student_folder_starts_from_its_own_weights(tmp_path, teacher, dataset):
    student = write_encoder(tmp_path / "mine", layers=2, seed=9)
    run_distill(teacher, dataset, tmp_path / "s", student=str(student), learning_rate=1e-12)
    start, end = load_file(student / "model.safetensors"), load_file(tmp_path / "s" / "model.safetensors")
    name = "encoder.layer.1.output.dense.weight"
    torch.testing.assert_close(end[f"bert.{name}"], start[name])
