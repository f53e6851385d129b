"""Where a model comes from: folders, the hub, and the shapes of students."""

from hrkd_cli.models.model_source import Shape, parse_shape


def test_parse_shape():
    assert parse_shape("4x312") == Shape(4, 312)
    assert parse_shape("3X384") == Shape(3, 384)
    assert parse_shape("models/4x312") is None
    assert parse_shape("huawei-noah/TinyBERT_General_4L_312D") is None
