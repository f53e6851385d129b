import json

from hrkd_cli.models.fingerprint import model_fingerprint, with_calibration
from tiny_folder import write_model


def test_calibration_does_not_change_a_models_fingerprint(tmp_path):
    folder = write_model(tmp_path / "student", labels={"bücher": ("gut", "schlecht")})
    before, fingerprint = (folder / "config.json").read_bytes(), model_fingerprint(folder)
    for entries in ({"model.onnx": {"rows": 3}}, {"model.onnx": {"rows": 4}, "a.onnx": {"rows": 5}}):
        (folder / "config.json").write_bytes(with_calibration(folder / "config.json", entries))
        assert json.loads((folder / "config.json").read_text())["hrkd"]["calibration"] == entries
        assert model_fingerprint(folder) == fingerprint
        assert with_calibration(folder / "config.json", {}) == before
    (folder / "config.json").write_bytes(before.replace(b'"gelu"', b'"relu"'))
    assert model_fingerprint(folder) != fingerprint


def test_calibration_of_a_model_that_hrkd_did_not_train_can_be_removed_too(tmp_path):
    path = tmp_path / "config.json"
    before = '{\n  "model_type": "bert",\n  "id2label": {\n    "0": "schön"\n  }\n}\n'.encode()
    path.write_bytes(before)
    assert with_calibration(path, {}) == before
    path.write_bytes(with_calibration(path, {"model.onnx": {"rows": 3}}))
    assert json.loads(path.read_text())["hrkd"] == {"calibration": {"model.onnx": {"rows": 3}}}
    assert with_calibration(path, {}) == before
