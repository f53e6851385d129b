import pytest

from hrkd_cli.errors import ModelError
from hrkd_cli.predict.model_location import ModelLocation, locate_model


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("{}")


def test_an_onnx_folder_gives_int8_else_fp32(tmp_path):
    touch(tmp_path, "config.json", "onnx/model.onnx")
    assert locate_model(tmp_path / "onnx") == ModelLocation(tmp_path, tmp_path / "onnx/model.onnx")
    touch(tmp_path, "onnx/model_quantized.onnx")
    assert locate_model(tmp_path / "onnx").onnx_file.name == "model_quantized.onnx"
    assert locate_model(tmp_path / "onnx/model.onnx").onnx_file.name == "model.onnx"


def test_a_model_folder_gives_torch_weights_else_onnx(tmp_path):
    touch(tmp_path, "config.json", "onnx/model.onnx")
    assert locate_model(tmp_path).onnx_file == tmp_path / "onnx/model.onnx"
    touch(tmp_path, "model.safetensors")
    assert locate_model(tmp_path) == ModelLocation(tmp_path, None)


def test_an_onnx_file_next_to_its_configuration(tmp_path):
    touch(tmp_path, "config.json", "model.onnx")
    assert locate_model(tmp_path) == ModelLocation(tmp_path, tmp_path / "model.onnx")


def test_the_current_folder(tmp_path, monkeypatch):
    touch(tmp_path, "config.json", "onnx/model.onnx")
    monkeypatch.chdir(tmp_path / "onnx")
    assert locate_model(".").root.resolve() == tmp_path.resolve()


def test_a_path_without_a_model_is_an_error(tmp_path):
    with pytest.raises(ModelError, match="no such file or folder"):
        locate_model(tmp_path / "absent")
    assert locate_model("absent/hub-id") is None
    with pytest.raises(ModelError, match="no model in this folder"):
        locate_model(tmp_path)
    touch(tmp_path, "notes.txt", "onnx/model.onnx")
    with pytest.raises(ModelError, match="not a model"):
        locate_model(tmp_path / "notes.txt")
    with pytest.raises(ModelError, match=r"no config\.json"):
        locate_model(tmp_path / "onnx")


def test_other_onnx_files_must_be_named(tmp_path):
    touch(tmp_path, "config.json", "onnx/model_fp16.onnx")
    with pytest.raises(ModelError, match="model_fp16"):
        locate_model(tmp_path / "onnx")
