import shutil

import numpy as np
import onnx
import pytest

from hrkd_cli import Predictor
from hrkd_cli.errors import ModelError, UsageError
from hrkd_cli.predict.backend import OnnxBackend, open_backend


def test_the_kind_of_backend_follows_from_the_path(student):
    torch_backend, onnx_backend = open_backend(student), open_backend(student / "onnx")
    assert (torch_backend.kind, torch_backend.file) == ("torch", "model.safetensors")
    assert isinstance(onnx_backend, OnnxBackend)
    assert (onnx_backend.kind, onnx_backend.file, onnx_backend.parameters) == ("onnx", "model.onnx", None)
    assert onnx_backend.bytes == (student / "onnx/model.onnx").stat().st_size


def test_a_missing_path_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hrkd-out").mkdir()
    for path in ("hrkd-out/studnet", "./absent", tmp_path / "absent", "absent.onnx", "a/b/c"):
        with pytest.raises(ModelError, match="no such file or folder"):
            Predictor(path)


@pytest.mark.parametrize("threads", [0, 9, 100_000])
def test_fewer_than_one_thread_or_far_more_than_cores_is_an_error(student, monkeypatch, threads):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    with pytest.raises(UsageError, match=rf"--threads: {threads} is not .* at most 8 \(4 for each of .* 2 cores\)"):
        Predictor(student / "onnx", threads=threads)


def test_a_file_that_is_not_onnx_is_an_error(student, tmp_path):
    shutil.copytree(student, tmp_path / "copy")
    (tmp_path / "copy/onnx/model.onnx").write_bytes(b"not a graph")
    with pytest.raises(ModelError, match="onnxruntime cannot read it"):
        Predictor(tmp_path / "copy/onnx")


def test_an_onnx_file_of_another_model_is_an_error(student, different_labels, tmp_path):
    shutil.copytree(student, tmp_path / "copy")
    shutil.copy(different_labels / "onnx/model.onnx", tmp_path / "copy/onnx/model.onnx")
    with pytest.raises(ModelError, match=r"gives 5 outputs but config\.json names 4"):
        Predictor(tmp_path / "copy/onnx").predict(["a"])


def test_nan_weights_are_an_error(student, tmp_path):
    shutil.copytree(student, tmp_path / "copy")
    graph = onnx.load(tmp_path / "copy/onnx/model.onnx")
    bias = next(t for t in graph.graph.initializer if t.name.endswith("classifier.bias"))
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(4, np.nan, dtype=np.float32), bias.name))
    onnx.save(graph, tmp_path / "copy/onnx/model.onnx")
    with pytest.raises(ModelError, match="not numbers"):
        Predictor(tmp_path / "copy/onnx").predict(["a"])
