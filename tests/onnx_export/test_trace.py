import numpy as np
import onnx
import pytest

from hrkd_cli import Predictor
from hrkd_cli.choices import Target
from hrkd_cli.errors import ModelError
from hrkd_cli.models.torch_backend import TorchBackend
from hrkd_cli.onnx_export.cpu_targets import weight_format_for
from hrkd_cli.onnx_export.export import export
from hrkd_cli.onnx_export.graph_editor import OPSET, PARTS, OnnxFormat, bytes_by_part, model_part
from hrkd_cli.onnx_export.quantizers import QuantizerInputs
from hrkd_cli.onnx_export.recipes import FORMATS, apply_recipe
from hrkd_cli.onnx_export.trace import PARITY_BATCH_SIZES, PARITY_TOLERANCE, check_parity, random_inputs, trace_to_onnx
from tiny_folder import CONFIGS, LABELS, make_dataset, make_texts, write_csv, write_model

SEGMENTS = {"bert", "electra", "roberta"}  # RoBERTa has them in a default configuration, if not in its real models


@pytest.fixture(scope="session", params=list(CONFIGS))
def exported(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    folder = write_model(root / "student", architecture=request.param)
    dataset = make_dataset({d: {"dev": (make_texts(4), ["negative", "positive"] * 2)} for d in LABELS})
    data = write_csv(root / "dev.csv", dataset, "dev")
    result = export(folder, int8=True, max_drop=100, data=data, latency=False)
    return request.param, folder, result


def test_logits_are_torchs_at_many_shapes(exported):
    architecture, folder, _ = exported
    own = TorchBackend(folder, device="cpu")
    assert check_parity(own, folder / "onnx/model.onnx") < PARITY_TOLERANCE
    # Through the runtime, with real padding.
    texts = make_texts(30)
    np.testing.assert_allclose(
        Predictor(folder / "onnx/model.onnx").logits(texts, batch_size=8),
        Predictor(folder).logits(texts, batch_size=3),
        atol=PARITY_TOLERANCE,
    )
    graph = onnx.load(folder / "onnx/model.onnx")
    expected = ["input_ids", "attention_mask"] + ["token_type_ids"] * (architecture in SEGMENTS)
    assert [i.name for i in graph.graph.input] == expected
    assert [o.name for o in graph.graph.output] == ["logits"]
    assert graph.opset_import[0].version == OPSET


def test_every_dense_layer_and_table_is_quantized(exported):
    architecture, folder, result = exported
    graph = onnx.load(folder / "onnx/model_quantized.onnx").graph
    # A layer has three projections (one in ModernBERT), output and feed-forward; the head has two.
    dense = {"bert": 14, "distilbert": 14, "roberta": 14, "electra": 15, "modernbert": 14}[architecture]
    tables = {"bert": 3, "distilbert": 2, "roberta": 3, "electra": 3, "modernbert": 1}[architecture]
    assert result.quantized_ops == {"MatMulInteger": dense, "Gather": tables}
    # Two products of activations a layer, scores and context, have no weights.
    products = sum(n.op_type == "MatMul" for n in graph.node)
    if architecture == "modernbert":  # and those of its rotary positions, as many as its transformers version makes
        assert products >= 4
    else:
        assert products == 4
    # No matrix has stayed in fp32.
    assert not [t.name for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) == 2]


def test_int8_is_close_to_fp32(exported):
    _, folder, _ = exported
    texts = make_texts(30)
    fp32, int8 = (Predictor(folder / "onnx" / f).logits(texts) for f in ("model.onnx", "model_quantized.onnx"))
    assert np.corrcoef(fp32.ravel(), int8.ravel())[0, 1] > 0.95
    assert np.abs(fp32 - int8).max() > PARITY_TOLERANCE


def test_bytes_add_up_and_each_part_has_some(exported):
    _, folder, result = exported
    for name in ("model.onnx", "model_quantized.onnx"):
        path = folder / "onnx" / name
        parts = bytes_by_part(path)
        assert tuple(parts) == PARTS
        assert sum(parts.values()) == path.stat().st_size
        assert min(parts.values()) > 0
    assert result.bytes_by_part == bytes_by_part(folder / "onnx/model_quantized.onnx")


def test_bytes_of_the_parts_of_bert(made, tmp_path):
    from safetensors.torch import load_file

    expected = dict.fromkeys(PARTS, 0)
    for name, tensor in load_file(made / "student/model.safetensors").items():
        in_layer = "attention" if ".attention." in name else "feed_forward"
        outside = "embeddings" if "embeddings" in name else "head"
        expected[in_layer if ".layer." in name else outside] += 4 * tensor.numel()
    own = TorchBackend(made / "student", device="cpu")
    trace_to_onnx(own.model, own.input_names, tmp_path / "model.onnx")
    found = bytes_by_part(tmp_path / "model.onnx")
    for part in ("embeddings", "attention", "feed_forward", "head"):
        # Each tensor's entry has a name and a shape beside its numbers; small equal ones are stored once.
        assert found[part] == pytest.approx(expected[part], rel=0.1)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("/model/bert/embeddings/word_embeddings/Gather", "embeddings"),
        ("model.electra.embeddings_project.bias", "embeddings"),
        ("/model/bert/encoder/layer.10/attention/output/dense/MatMul", "attention"),
        ("/model/bert/encoder/layer.10/output/dense/MatMul_quant", "feed_forward"),
        ("model.distilbert.transformer.layer.0.sa_layer_norm.weight", "attention"),
        ("model.distilbert.transformer.layer.0.output_layer_norm.weight", "feed_forward"),
        ("/model/model/layers.0/attn/Wqkv/MatMul", "attention"),
        ("/model/model/layers.0/mlp/Wi/MatMul", "feed_forward"),
        ("/model/pre_classifier/Gemm", "head"),
        ("/model/head/dense/MatMul", "head"),
        ("onnx::MatMul_320", "other"),
    ],
)
def test_part_of(name, part):
    assert model_part(name) == part


def test_probes_cover_batches_lengths_and_padding(made):
    own = TorchBackend(made / "student", device="cpu")
    shapes = [arrays["input_ids"].shape for arrays in random_inputs(own)]
    assert sorted(set(shapes)) == [
        (b, t) for b in PARITY_BATCH_SIZES for t in (2, 7, 24)
    ]  # 24 is this student's own length
    for arrays in random_inputs(own):
        assert (arrays["input_ids"][arrays["attention_mask"] == 0] == own.tokenizer.pad_id).all()
        assert arrays["attention_mask"].sum(axis=1).min() >= 1
        if len(arrays["input_ids"]) > 1:
            assert (arrays["attention_mask"] == 0).any()


def test_tracing_leaves_the_model_as_it_was(made, tmp_path):
    own = TorchBackend(made / "student", device="cpu")
    before = own.logits(["a good book"])
    trace_to_onnx(own.model, own.input_names, tmp_path / "model.onnx")
    assert not own.model.training
    assert own.model.config._attn_implementation == "sdpa"
    np.testing.assert_array_equal(own.logits(["a good book"]), before)


def test_what_cannot_be_quantized(made, tmp_path):
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)])
    onnx.save(model, tmp_path / "model.onnx")
    recipe = FORMATS[OnnxFormat.INT8].tiers[0][0]

    def quantize():
        inputs = QuantizerInputs(weight_format_for(Target.AVX512_VNNI))
        apply_recipe(tmp_path / "model.onnx", tmp_path / "int8.onnx", OnnxFormat.INT8, recipe, inputs)

    with pytest.raises(ModelError, match="nothing in the graph was quantized"):
        quantize()
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelError, match="cannot be read"):
        quantize()
    assert not (tmp_path / "int8.onnx").exists()
