import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hrkd_cli.events import Note
from hrkd_cli.models.backend import TorchBackend
from hrkd_cli.onnx_export import plain
from hrkd_cli.onnx_export.graph import write_graph
from hrkd_cli.onnx_export.masks import BIAS
from hrkd_cli.onnx_export.onnx_graph import OnnxGraph
from hrkd_cli.onnx_export.rewrite import rewrite, rewrite_file
from hrkd_cli.onnx_export.verify import largest_difference
from tiny_folder import CONFIGS, write_model

BERT = {
    "constant_shapes": 8,
    "plain_masks": 2,
    "first_token": 1,
    "merged_projections": 2,
    "separate_residuals": 5,
}
APPLIED = dict.fromkeys(("bert", "distilbert", "roberta", "electra"), BERT) | {
    # Its projections are one product already, and only every third layer looks at all tokens.
    "modernbert": BERT | {"constant_shapes": 6, "plain_masks": 1, "first_token": 0, "merged_projections": 0}
}


@pytest.fixture(scope="module", params=list(CONFIGS))
def traced(request, tmp_path_factory):
    """A traced graph, and the torch model."""
    folder = write_model(tmp_path_factory.mktemp(request.param) / "student", architecture=request.param)
    own = TorchBackend(folder, device="cpu")
    write_graph(own.model, own.inputs, folder / "model.onnx")
    return request.param, own, folder / "model.onnx"


def test_the_logits_are_the_same(traced, tmp_path):
    architecture, own, path = traced
    model = onnx.load(path)
    before = len(model.graph.node)
    counts = rewrite(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, tmp_path / "model.onnx")
    assert largest_difference(own, tmp_path / "model.onnx") < 2e-5
    assert len(model.graph.node) < (0.6 if architecture != "modernbert" else 1.05) * before
    expected = APPLIED[architecture]
    if architecture == "modernbert":  # how its graph looks depends on the version of transformers
        assert counts["first_token"] == counts["merged_projections"] == 0
    else:
        assert counts == expected
    # Nothing is left that nobody reads, and standard operators only.
    read = {name for node in model.graph.node for name in node.input} | {"logits"}
    assert {tensor.name for tensor in model.graph.initializer} <= read
    assert all(set(node.output) & read for node in model.graph.node)
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}


def test_rewriting_twice_changes_nothing_more(traced, tmp_path):
    architecture, _, path = traced
    if architecture == "modernbert":
        pytest.skip("its graph holds parts that each pass leaves alone")
    model = onnx.load(path)
    rewrite(model)
    nodes = len(model.graph.node)
    again = rewrite(model)
    assert again["constant_shapes"] == again["merged_projections"] == again["separate_residuals"] == 0
    assert abs(len(model.graph.node) - nodes) <= 2


def test_the_last_layer_of_bert_works_on_one_token(made, tmp_path):
    own = TorchBackend(made / "student", device="cpu")
    write_graph(own.model, own.inputs, tmp_path / "model.onnx")
    rewrite_file(tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    # The outputs of its dense layers have one token, those of the first layer all.
    names = [n.output[0] for n in model.graph.node if n.op_type == "MatMul" and "dense" in n.name]
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    ids = np.ones((2, 7), dtype=np.int64)
    arrays = {"input_ids": ids, "attention_mask": ids, "token_type_ids": 0 * ids}
    shapes = dict(zip(names, (found.shape for found in session.run(names, arrays)), strict=True))
    assert {shape[1] for name, shape in shapes.items() if "layer.0" in name} == {7}
    assert {shape[1] for name, shape in shapes.items() if "layer.1" in name} == {1}
    assert onnx.load(tmp_path / "model.onnx").metadata_props[0].key.startswith("hrkd.")


def small_graph(nodes, tensors, outputs, shape):
    """A graph of attention_mask and x that gives ``outputs``."""
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


@pytest.mark.parametrize(("lowest", "replaced"), [(np.finfo(np.float32).min, True), (-10000.0, False)])
def test_only_a_mask_of_the_lowest_number_is_replaced(lowest, replaced):
    nodes = [
        helper.make_node("Cast", ["attention_mask"], ["m"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["m", "axes"], ["u"]),
        helper.make_node("Sub", ["one", "u"], ["s"]),
        helper.make_node("Mul", ["s", "low"], ["bias"]),
        helper.make_node("Add", ["x", "bias"], ["a"]),
        helper.make_node("Softmax", ["a"], ["y"], axis=-1),
    ]
    tensors = {"axes": np.array([1, 2]), "one": np.float32(1), "low": np.float32(lowest)}
    model = small_graph(nodes, tensors, ["y"], ["b", 2, "t", "t"])
    assert rewrite(model)["plain_masks"] == int(replaced)
    assert any(BIAS in node.input for node in model.graph.node) is replaced


def test_a_head_that_reads_another_token_keeps_all_of_the_last_layer():
    graph = small_graph(
        [helper.make_node("Gather", ["x", "last"], ["y"], axis=1)], {"last": np.int64(-1)}, ["y"], ["b", "t", 4]
    )
    assert rewrite(graph)["first_token"] == 0
    # Nor is anything cut where the first token is read but no attention was passed.
    graph = small_graph(
        [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Gather", ["r", "first"], ["y"], axis=1)],
        {"first": np.int64(0)},
        ["y"],
        ["b", "t", 4],
    )
    assert rewrite(graph)["first_token"] == 0
    assert [node.op_type for node in graph.graph.node] == ["Relu", "Gather"]


def test_nodes_come_after_what_they_read():
    first, second = (
        helper.make_node("Relu", ["x"], ["a"], name="a"),
        helper.make_node("Relu", ["a"], ["b"], name="b"),
    )
    model = small_graph([first, second], {"unused": np.float32(3)}, ["b"], ["b", "t"])
    graph = OnnxGraph(model)
    graph.nodes.reverse()
    done = graph.finish()
    assert [node.name for node in done.graph.node] == ["a", "b"]
    assert not done.graph.initializer


def test_a_rewrite_that_changed_the_logits_is_not_kept(made, tmp_path, monkeypatch):
    own = TorchBackend(made / "student", device="cpu")

    def wrong(path):
        model = onnx.load(path)
        weight = next(t for t in model.graph.initializer if "LayerNorm.weight" in t.name)
        weight.CopyFrom(numpy_helper.from_array(3 * numpy_helper.to_array(weight), weight.name))
        onnx.save(model, path)
        return {}

    monkeypatch.setattr(plain, "rewrite_file", wrong)
    seen = []
    plain.write_fp32(own, tmp_path / "model.onnx", on_event=seen.append)
    assert largest_difference(own, tmp_path / "model.onnx") < 1e-4
    assert any("kept as it was traced" in e.text for e in seen if isinstance(e, Note) and e.warning)
