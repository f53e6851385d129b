import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from exporting import export, onnx_logits, write_with_recipe
from hrkd_cli import Predictor
from hrkd_cli.choices import Target
from hrkd_cli.onnx_export.cpu_targets import weight_format_for
from hrkd_cli.onnx_export.graph_editor import OPSET, OnnxFormat
from hrkd_cli.onnx_export.quantizers import QuantizerInputs, write_int8_dynamic
from hrkd_cli.onnx_export.recipes import FORMATS, apply_recipe
from hrkd_cli.onnx_export.trace import PARITY_TOLERANCE
from tiny_folder import make_texts

LARGEST_ACTIVATION = 255


def saturating_product(activations, weights):
    """Multiply unsigned activations [.., K] and signed weights [K, N] like VPMADDUBSW, adding pairs in 16 bits."""
    wide = activations[..., :, None].astype(np.int64) * weights[None].astype(np.int64)
    pairs = wide[:, 0::2] + wide[:, 1::2]
    return np.clip(pairs, -(2**15), 2**15 - 1).sum(axis=1)


@pytest.fixture
def weight():
    """A weight with many values near the extremes of its columns."""
    random = np.random.default_rng(0)
    return (np.sign(random.normal(size=(64, 8))) * random.uniform(0.9, 1, size=(64, 8))).astype(np.float32)


def rounded(weight, folder, target, **options):
    """Return the integers, scales and zero points of a dense layer's weight in an int8 file."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 8])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "fp32.onnx")
    write_int8_dynamic(
        folder / "fp32.onnx", folder / "int8.onnx", QuantizerInputs(weight_format_for(target)), **options
    )
    tensors = {t.name: numpy_helper.to_array(t) for t in onnx.load(folder / "int8.onnx").graph.initializer}
    return tensors["w_quantized"], tensors["w_scale"], tensors["w_zero_point"]


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("target", [Target.AVX2, Target.WASM])
def test_7_bit_weights_cannot_saturate_16_bit_sums(weight, tmp_path, target, per_channel):
    numbers, scale, zero = rounded(weight, tmp_path, target, per_channel=per_channel)
    assert numbers.dtype == np.int8
    assert np.abs(numbers).max() == 64
    assert not zero.any()
    activations = np.full((1, 64), LARGEST_ACTIVATION, dtype=np.uint8)
    exact = activations.astype(np.int64) @ numbers.astype(np.int64)
    np.testing.assert_array_equal(saturating_product(activations, numbers), exact)
    assert np.abs(numbers * scale - weight).max() <= scale.max() / 2 + 1e-7


def test_8_bit_weights_would_saturate_16_bit_sums(weight, tmp_path):
    numbers, *_ = rounded(weight, tmp_path, Target.AVX512_VNNI)
    assert np.abs(numbers).max() == 127
    activations = np.full((1, 64), LARGEST_ACTIVATION, dtype=np.uint8)
    exact = activations.astype(np.int64) @ numbers.astype(np.int64)
    assert (saturating_product(activations, numbers) != exact).any()


def test_unsigned_weights_keep_8_bits_on_every_target(weight, tmp_path):
    numbers, scale, zero = rounded(weight, tmp_path, Target.AVX2, unsigned=True)
    assert numbers.dtype == zero.dtype == np.uint8
    assert np.abs((numbers.astype(int) - zero) * scale - weight).max() <= scale.max() / 2 + 1e-7
    assert np.ptp(numbers.astype(int)) > 240


def test_fp16_halves_the_weights_and_computes_in_fp32(all_formats):
    folder, _ = all_formats
    model = onnx.load(folder / "onnx/model_fp16.onnx")
    large = [t for t in model.graph.initializer if np.prod(t.dims) > 1 and t.data_type != TensorProto.INT64]
    assert {t.data_type for t in large} == {TensorProto.FLOAT16}
    casts = [n for n in model.graph.node if n.op_type == "Cast" and n.input[0].endswith("_fp16")]
    assert len(casts) == len(large)
    texts = make_texts(20)
    np.testing.assert_allclose(
        onnx_logits(folder, "model_fp16.onnx", texts), onnx_logits(folder, "model.onnx", texts), atol=0.05, rtol=0.01
    )


def test_a_weight_beyond_fp16_stays_in_fp32(made, tmp_path):
    export(made / "student", out=tmp_path)
    model = onnx.load(tmp_path / "onnx/model.onnx")
    weight = next(t for t in model.graph.initializer if "word_embeddings" in t.name)
    table = numpy_helper.to_array(weight).copy()
    table[3] = 1e5
    weight.CopyFrom(numpy_helper.from_array(table, weight.name))
    onnx.save(model, tmp_path / "large.onnx")
    recipe = FORMATS[OnnxFormat.FP16].tiers[0][0]
    inputs = QuantizerInputs(weight_format_for(Target.AVX2))
    apply_recipe(tmp_path / "large.onnx", tmp_path / "fp16.onnx", OnnxFormat.FP16, recipe, inputs)
    kept = [t for t in onnx.load(tmp_path / "fp16.onnx").graph.initializer if t.name == weight.name]
    assert [t.data_type for t in kept] == [TensorProto.FLOAT]


@pytest.mark.parametrize("text", ["per-channel scales", "per-channel scales, per-row embedding scales"])
def test_embeddings_are_rounded_to_the_nearest_step(all_formats, tmp_path, text):
    source = all_formats[0] / "onnx/model.onnx"
    write_with_recipe(source, tmp_path / "int8.onnx", OnnxFormat.INT8, text)
    tensors = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "int8.onnx").graph.initializer}
    name = next(
        name.removesuffix("_quantized") for name in tensors if name.endswith("word_embeddings.weight_quantized")
    )
    table = {t.name: numpy_helper.to_array(t) for t in onnx.load(source).graph.initializer}[name]
    numbers, scale = tensors[f"{name}_quantized"].astype(float), tensors[f"{name}_scale"]
    zero = float(tensors.get(f"{name}_zero_point", 0))
    assert numbers.min() >= -128
    assert numbers.max() - numbers.min() > 200
    assert scale.shape == ((len(table), 1) if "per-row" in text else ())
    if "per-row" in text:
        largest = np.abs(table).max(axis=1)
        np.testing.assert_allclose(scale[:, 0], np.where(largest > 0, largest, 1) / 127, rtol=1e-6)
    assert (np.abs((numbers - zero) * scale - table) <= 0.51 * scale).all()


def test_no_activation_is_quantized_twice(all_formats):
    folder, _ = all_formats
    for name, operator in (
        ("model_quantized.onnx", "DynamicQuantizeLinear"),
        ("model_int8_static.onnx", "QuantizeLinear"),
    ):
        nodes = [n for n in onnx.load(folder / "onnx" / name).graph.node if n.op_type == operator]
        read = [n.input[0] for n in nodes]
        # 14 products; queries, keys and values share an input, except in the last layer, whose queries have their own.
        assert len(read) == len(set(read)) == 11


def test_static_int8_does_not_depend_on_padding_or_batch(all_formats):
    folder, _ = all_formats
    texts = make_texts(60, seed=5)
    alone = onnx_logits(folder, "model_int8_static.onnx", texts)
    for options in ({"batch_size": 7}, {"batch_size": 60}, {"batch_size": 8, "pad_to": 24}, {"pad_to": 20}):
        other = onnx_logits(folder, "model_int8_static.onnx", texts, **options)
        # Adding in another order can round an activation to the neighboring step.
        assert np.abs(alone - other).max() < 0.05
        np.testing.assert_array_equal(alone[:, :2].argmax(axis=1), other[:, :2].argmax(axis=1))
    # Dynamic int8 takes ranges from the batch, so its output does change.
    dynamic = [onnx_logits(folder, "model_quantized.onnx", texts, **o) for o in ({}, {"batch_size": 60})]
    assert np.abs(dynamic[0] - dynamic[1]).max() > 2 * np.abs(alone - other).max()


def test_static_ranges_are_measured_on_the_calibration_texts(all_formats, tmp_path):
    source = all_formats[0] / "onnx/model.onnx"
    ids = np.array([[2, 5, 9, 3]])
    arrays = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    rows = [arrays, {**arrays, "input_ids": ids[:, ::-1].copy()}]
    write_with_recipe(source, tmp_path / "static.onnx", OnnxFormat.INT8_STATIC, "per-channel scales", rows)
    model = onnx.load(tmp_path / "static.onnx")
    tensors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    copies = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "Identity"}
    scales = {copies[n.input[0]]: tensors[n.input[1]] for n in model.graph.node if n.op_type == "QuantizeLinear"}
    name, scale = next(iter(scales.items()))
    fp32 = onnx.load(source)
    fp32.graph.output.append(onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(fp32.SerializeToString(), providers=["CPUExecutionProvider"])
    values = [session.run([name], row)[0] for row in rows]
    low, high = (
        float(f(values[0], values[1])) for f in (lambda *v: min(map(np.min, v)), lambda *v: max(map(np.max, v)))
    )
    assert scale == pytest.approx((max(high, 0) - min(low, 0)) / 255)


def test_static_rounding_reaches_only_dense_layers(all_formats):
    """Residual additions and the slice of the first token read the exact activation."""
    nodes = onnx.load(all_formats[0] / "onnx/model_int8_static.onnx").graph.node
    stored = {n.output[0] for n in nodes if n.op_type == "QuantizeLinear"}
    rounded = {n.output[0] for n in nodes if n.op_type == "DequantizeLinear" and n.input[0] in stored}
    readers = {n.op_type for n in nodes if rounded & set(n.input)}
    assert rounded
    assert readers == {"MatMul"}


def test_int4_stores_weights_in_4_bits(all_formats):
    folder, result = all_formats
    operators = {n.op_type for n in onnx.load(folder / "onnx/model_q4.onnx").graph.node}
    assert {"MatMulNBits", "GatherBlockQuantized"} <= operators
    assert result.quantized_ops  # of the smallest file
    model = onnx.load(folder / "onnx/model_q4.onnx")
    types = [t.data_type for t in model.graph.initializer if "embeddings.weight_Q4" in t.name]
    assert types == [TensorProto.UINT4] * 3
    assert {(o.domain, o.version) for o in model.opset_import} == {("", OPSET), ("com.microsoft", 1)}


def test_every_dense_layer_and_embedding_is_quantized(exported):
    architecture, folder, result = exported
    graph = onnx.load(folder / "onnx/model_quantized.onnx").graph
    # A layer has three projections (one in ModernBERT), output and feed-forward; the head has two.
    dense = {"bert": 14, "distilbert": 14, "roberta": 14, "xlm-roberta": 14, "electra": 15, "modernbert": 14}[
        architecture
    ]
    embeddings = {"bert": 3, "distilbert": 2, "roberta": 3, "xlm-roberta": 3, "electra": 3, "modernbert": 1}[
        architecture
    ]
    assert result.quantized_ops == {"MatMulInteger": dense, "Gather": embeddings}
    # Scores and context are products of two activations, without weights: two per layer.
    products = sum(n.op_type == "MatMul" for n in graph.node)
    if architecture == "modernbert":  # its rotary positions add some, depending on the transformers version
        assert products >= 4
    else:
        assert products == 4
    # No matrix stays in fp32.
    assert not [t.name for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) == 2]


def test_int8_is_close_to_fp32(exported):
    _, folder, _ = exported
    texts = make_texts(30)
    fp32, int8 = (Predictor(folder / "onnx" / f).logits(texts) for f in ("model.onnx", "model_quantized.onnx"))
    assert np.corrcoef(fp32.ravel(), int8.ravel())[0, 1] > 0.95
    assert np.abs(fp32 - int8).max() > PARITY_TOLERANCE
