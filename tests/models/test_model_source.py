"""Where a model comes from: folders, the hub, and the shapes of students."""

import pytest

from hrkd_cli.errors import ModelError
from hrkd_cli.models.model_source import Shape, check_student, parse_shape, student_spec_is_path


def test_parse_shape():
    assert parse_shape("4x312") == Shape(4, 312)
    assert parse_shape("3X384") == Shape(3, 384)
    assert parse_shape("models/4x312") is None
    assert parse_shape("huawei-noah/TinyBERT_General_4L_312D") is None


def test_a_student_is_a_model_unless_it_is_a_size_or_a_shape():
    assert not any(map(student_spec_is_path, ("tiny", "small", "base", "4x312", None)))
    assert all(map(student_spec_is_path, ("./tiny", "owner/small", "bases")))


def test_the_error_for_an_unfinished_student_says_how_to_finish_it(tmp_path):
    (tmp_path / "student.partial" / "checkpoint-4").mkdir(parents=True)
    with pytest.raises(ModelError, match=r"no such folder; an interrupted run .* hrkd distill --resume"):
        check_student(tmp_path / "student")
    with pytest.raises(ModelError, match="no such folder; name a student's folder, or run hrkd distill first"):
        check_student(tmp_path / "other")
