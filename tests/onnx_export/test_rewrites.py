import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from hrkd_cli.evaluation.onnx_inspect import count_parameters
from hrkd_cli.events import Note
from hrkd_cli.models.loading import load_classifier
from hrkd_cli.models.mean_pooling import with_pooling_layer
from hrkd_cli.models.torch_backend import TorchBackend
from hrkd_cli.onnx_export import rewrites, trace
from hrkd_cli.onnx_export.graph_editor import OnnxFormat, to_proto
from hrkd_cli.onnx_export.recipes import FORMATS
from hrkd_cli.onnx_export.rewrites import rewrite_file
from hrkd_cli.onnx_export.trace import check_parity, trace_to_onnx
from tiny_folder import CONFIGS, write_model

BERT = {"constant_shapes": 8, "first_token": 1, "separate_residuals": 5}
# ModernBERT's head averages over tokens.
APPLIED = dict.fromkeys(CONFIGS, BERT) | {
    "modernbert": {"constant_shapes": 6, "first_token": 0, "separate_residuals": 6}
}


def rewrite(proto):
    """Return a rewritten ModelProto, and how often each rewrite applied."""
    model = ir.from_proto(proto)
    counts = rewrites.rewrite(model)
    return to_proto(model), counts


@pytest.fixture(scope="module", params=list(CONFIGS))
def traced(request, tmp_path_factory):
    """An architecture, its torch model, and its traced graph."""
    folder = write_model(tmp_path_factory.mktemp(request.param) / "student", architecture=request.param)
    torch_model = TorchBackend(folder, device="cpu")
    trace_to_onnx(torch_model, folder / "model.onnx")
    return request.param, torch_model, folder / "model.onnx"


def test_rewriting_keeps_the_logits(traced, tmp_path):
    architecture, torch_model, path = traced
    traced = onnx.load(path)
    model, counts = rewrite(traced)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, tmp_path / "model.onnx")
    assert check_parity(torch_model, tmp_path / "model.onnx") < 2e-5
    assert len(model.graph.node) < (0.8 if architecture != "modernbert" else 1) * len(traced.graph.node)
    assert counts == APPLIED[architecture]
    # There are no unused values, and only standard operators.
    read = {name for node in model.graph.node for name in node.input} | {"logits"}
    assert {tensor.name for tensor in model.graph.initializer} <= read
    assert all(set(node.output) & read for node in model.graph.node)
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}


def test_rewriting_twice_changes_nothing_more(traced):
    model, _ = rewrite(onnx.load(traced[2]))
    _, again = rewrite(model)
    assert again["constant_shapes"] == again["separate_residuals"] == 0


def test_padding_is_a_bias_of_one_row(traced, tmp_path):
    """The bias is [B, 1, 1, T]; local attention has a separate mask."""
    architecture, _, path = traced
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    ranks = {v.name: [d.dim_value or d.dim_param for d in v.type.tensor_type.shape.dim] for v in model.graph.value_info}
    softmax = [n for n in model.graph.node if n.op_type == "Softmax"]
    adds = {n.output[0]: n for n in model.graph.node if n.op_type == "Add"}
    masks = {adds[n.input[0]].input[1] for n in softmax}
    assert len(masks) == (2 if architecture == "modernbert" else 1)
    assert any(ranks[mask][1:3] == [1, 1] for mask in masks)


def test_berts_last_layer_computes_one_token(made, tmp_path):
    torch_model = TorchBackend(made / "student", device="cpu")
    trace_to_onnx(torch_model, tmp_path / "model.onnx")
    rewrite_file(tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    # The last layer's dense outputs have one token, the first layer's have all.
    names = [n.output[0] for n in model.graph.node if n.op_type == "MatMul" and "dense" in n.name]
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    ids = np.ones((2, 7), dtype=np.int64)
    arrays = {"input_ids": ids, "attention_mask": ids, "token_type_ids": 0 * ids}
    shapes = dict(zip(names, (output.shape for output in session.run(names, arrays)), strict=True))
    assert {shape[1] for name, shape in shapes.items() if "layer.0" in name} == {7}
    assert {shape[1] for name, shape in shapes.items() if "layer.1" in name} == {1}
    assert onnx.load(tmp_path / "model.onnx").metadata_props[0].key.startswith("hrkd.")


def small_graph(nodes, tensors, outputs, shape):
    """Return a graph with inputs attention_mask and x."""
    inputs = [
        helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["b", "t"]),
        helper.make_tensor_value_info("x", TensorProto.FLOAT, shape),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        inputs,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_the_last_layer_stays_whole_for_a_head_that_reads_another_token():
    graph = small_graph(
        [helper.make_node("Gather", ["x", "last"], ["y"], axis=1)], {"last": np.int64(-1)}, ["y"], ["b", "t", 4]
    )
    assert rewrite(graph)[1]["first_token"] == 0
    # Nor is anything sliced if the region has no attention.
    graph = small_graph(
        [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Gather", ["r", "first"], ["y"], axis=1)],
        {"first": np.int64(0)},
        ["y"],
        ["b", "t", 4],
    )
    rewritten, counts = rewrite(graph)
    assert counts["first_token"] == 0
    assert [node.op_type for node in rewritten.graph.node] == ["Relu", "Gather"]


def test_a_rewrite_that_changes_the_logits_is_undone(made, tmp_path, monkeypatch):
    torch_model = TorchBackend(made / "student", device="cpu")

    def wrong(path):
        model = onnx.load(path)
        weight = next(t for t in model.graph.initializer if "LayerNorm.weight" in t.name)
        weight.CopyFrom(numpy_helper.from_array(3 * numpy_helper.to_array(weight), weight.name))
        onnx.save(model, path)
        return {}

    monkeypatch.setattr(trace, "rewrite_file", wrong)
    events = []
    trace.write_fp32(torch_model, tmp_path / "model.onnx", on_event=events.append)
    assert check_parity(torch_model, tmp_path / "model.onnx") < 1e-4
    assert any("kept as traced" in e.text for e in events if isinstance(e, Note) and e.warning)


def test_a_pooling_layer_costs_one_mean(tmp_path):
    """Its constant weights are not in the graph, and only the first token's output is computed."""
    folder = write_model(tmp_path / "student")
    classifier = load_classifier(folder, None)
    pooled = with_pooling_layer(classifier)
    assert FORMATS[OnnxFormat.INT8].estimate_bytes(pooled) == FORMATS[OnnxFormat.INT8].estimate_bytes(classifier)
    pooled.save_pretrained(folder)
    torch_model = TorchBackend(folder, device="cpu")
    trace_to_onnx(torch_model, tmp_path / "model.onnx")
    counts = rewrite_file(tmp_path / "model.onnx")
    assert counts["first_token"] == 1
    assert check_parity(torch_model, tmp_path / "model.onnx") < 2e-5
    model = onnx.load(tmp_path / "model.onnx")
    norms = 4 * classifier.config.hidden_size  # the only constants that the graph has
    assert count_parameters(model) == torch_model.parameters + norms
    graph, last = model.graph, pooled.config.num_hidden_layers - 1
    own = [node for node in graph.node if f"layer.{last}" in node.name]
    constants = {tensor.name for tensor in graph.initializer}
    products = [node for node in own if node.op_type in ("MatMul", "Gemm")]
    assert len(products) == 2  # attention scores, of zeros, and the mean
    assert not any(name in constants for node in products for name in node.input)
