import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file

from hrkd_cli.errors import ModelError
from hrkd_cli.evaluation.onnx_inspect import count_parameters, count_quantized_ops, load_onnx, weight_precision


def graph(nodes, initializers=()):
    weights = [helper.make_tensor(name, kind, [2], [1, 2]) for name, kind in initializers]
    return helper.make_model(helper.make_graph(nodes, "g", [], [], initializer=weights))


def node(kind, *inputs):
    return helper.make_node(kind, list(inputs) or ["x"], ["y"])


@pytest.mark.parametrize(
    ("nodes", "initializers", "name"),
    [
        ([node("MatMul")], [("w", TensorProto.FLOAT)], "fp32"),
        ([node("MatMul")], [("w", TensorProto.FLOAT16)], "fp16"),
        ([node("MatMulInteger")], [("w", TensorProto.INT8)], "int8"),
        ([node("Gather", "w", "i")], [("w", TensorProto.UINT8)], "int8"),
        ([node("QuantizeLinear"), node("MatMul")], [("w", TensorProto.INT8)], "int8-static"),
        ([node("MatMulNBits"), node("MatMulInteger")], [("w", TensorProto.UINT8)], "int4"),
    ],
)
def test_precision_is_the_recorded_one_or_follows_from_operators_and_weights(nodes, initializers, name):
    model = graph(nodes, initializers)
    assert weight_precision(model) == name
    helper.set_model_props(model, {"hrkd.precision": "bf16"})
    assert weight_precision(model) == "bf16"


def test_only_gathers_of_8_bit_tables_count_as_quantized():
    model = graph(
        [node("Gather", "w", "i"), node("Gather", "f", "i")], [("w", TensorProto.UINT8), ("f", TensorProto.FLOAT)]
    )
    assert count_quantized_ops(model) == {"Gather": 1}


def test_the_number_of_parameters_is_that_of_torch_in_fp32_and_int8(models):
    expected = sum(t.numel() for t in load_file(models / "student/model.safetensors").values())
    for name in ("model.onnx", "model_quantized.onnx"):
        assert count_parameters(load_onnx(models / "student/onnx" / name)) == expected


def test_weights_equal_those_of_torch(models):
    weights = load_file(models / "student/model.safetensors")
    [table] = [
        t
        for t in load_onnx(models / "student/onnx/model.onnx").graph.initializer
        if t.name.endswith("word_embeddings.weight")
    ]
    torch.testing.assert_close(
        torch.tensor(numpy_helper.to_array(table)), weights["bert.embeddings.word_embeddings.weight"]
    )


def test_a_file_that_is_not_onnx_is_an_error(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"\xff\xff")
    with pytest.raises(ModelError, match="cannot be read as an ONNX file"):
        load_onnx(tmp_path / "x.onnx")
