import functools
import json
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

import hrkd_cli
from hrkd_cli import Predictor, evaluate
from hrkd_cli.choices import Target
from hrkd_cli.errors import GateError
from hrkd_cli.evaluation.onnx_inspect import count_parameters, weight_precision
from hrkd_cli.events import Note
from hrkd_cli.onnx_export import recipe_search
from hrkd_cli.onnx_export.cpu_targets import weight_format_for
from hrkd_cli.onnx_export.graph_editor import OPSET, OnnxFormat
from hrkd_cli.onnx_export.quantizers import QuantizerInputs
from hrkd_cli.onnx_export.recipes import FILE_NAMES, FORMATS, apply_recipe
from tiny_folder import make_texts

export = functools.partial(hrkd_cli.export, latency=False)

OPTIONS = {"fp16": "fp16", "int8": "int8", "int8-static": "int8_static", "int4": "int4"}
SMALLER = [OnnxFormat(name) for name in OPTIONS]


@pytest.fixture(scope="module")
def all_files(made, tmp_path_factory):
    """A student's folder with a file of each precision, and the result of its export."""
    root = tmp_path_factory.mktemp("all")
    shutil.copytree(made / "student", root / "student")
    result = export(
        root / "student",
        **dict.fromkeys(OPTIONS.values(), True),
        data=made / "dev.csv",
        max_drop=100,
        target="avx512-vnni",
    )
    return root / "student", result


def write_recipe(source, target, smaller, text, calibration=()):
    """Write a file by the recipe of that text, for AVX2."""
    recipe = next(r for tier in FORMATS[smaller].tiers for r in tier if r.description == text)
    inputs = QuantizerInputs(weight_format_for(Target.AVX2), lambda: iter(calibration))
    apply_recipe(source, target, smaller, recipe, inputs)


def logits(folder, name, texts, **options):
    from hrkd_cli.predict.backend import OnnxBackend

    return OnnxBackend(folder, folder / "onnx" / name).logits(texts, **options)


def test_a_file_of_each_precision(all_files, tmp_path):
    folder, result = all_files
    assert [file.precision for file in result.files] == ["fp32", *OPTIONS]
    assert {file.name for file in (folder / "onnx").glob("*.onnx")} == set(FILE_NAMES.values())
    fp32 = onnx.load(folder / "onnx/model.onnx")
    reference = logits(folder, "model.onnx", make_texts(20))
    for file in result.files:
        model = onnx.load(file.path)
        onnx.checker.check_model(model)
        assert weight_precision(model) == file.precision
        assert count_parameters(model) == count_parameters(fp32)
        found = logits(folder, FILE_NAMES[OnnxFormat(file.precision)], make_texts(20))
        assert np.corrcoef(reference.ravel(), found.ravel())[0, 1] > 0.8
        if file.precision in ("fp16", "int4"):
            assert file.bytes < result.files[0].bytes
        assert Predictor(file.path).predict(["a good book"], domain="books")[0].label in ("negative", "positive")
    (tmp_path / "few.csv").write_text("text,label,domain\ngood book,positive,books\nbad book,negative,books\n")
    found = evaluate([file.path for file in result.files], data=tmp_path / "few.csv", split="dev")
    assert [model.precision for model in found.models] == ["fp32", *OPTIONS]


def test_fp16_halves_the_weights_and_computes_in_fp32(all_files):
    folder, _ = all_files
    model = onnx.load(folder / "onnx/model_fp16.onnx")
    large = [t for t in model.graph.initializer if np.prod(t.dims) > 1 and t.data_type != TensorProto.INT64]
    assert {t.data_type for t in large} == {TensorProto.FLOAT16}
    casts = [n for n in model.graph.node if n.op_type == "Cast" and n.input[0].endswith("_fp16")]
    assert len(casts) == len(large)
    texts = make_texts(20)
    np.testing.assert_allclose(
        logits(folder, "model_fp16.onnx", texts), logits(folder, "model.onnx", texts), atol=0.05, rtol=0.01
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
def test_a_table_is_rounded_to_the_nearest_step(all_files, tmp_path, text):
    source = all_files[0] / "onnx/model.onnx"
    write_recipe(source, tmp_path / "int8.onnx", OnnxFormat.INT8, text)
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
    assert (np.abs((numbers - zero) * scale - table) <= 0.51 * scale).all()


def test_no_activation_is_quantized_twice(all_files):
    folder, _ = all_files
    for name, operator in (
        ("model_quantized.onnx", "DynamicQuantizeLinear"),
        ("model_int8_static.onnx", "QuantizeLinear"),
    ):
        nodes = [n for n in onnx.load(folder / "onnx" / name).graph.node if n.op_type == operator]
        read = [n.input[0] for n in nodes]
        # 14 products; queries, keys and values share an input, but for the queries of the last layer.
        assert len(read) == len(set(read)) == 11


def test_static_answers_do_not_depend_on_padding_or_batch(all_files):
    folder, _ = all_files
    texts = make_texts(60, seed=5)
    alone = logits(folder, "model_int8_static.onnx", texts)
    for options in ({"batch_size": 7}, {"batch_size": 60}, {"batch_size": 8, "pad_to": 24}, {"pad_to": 20}):
        other = logits(folder, "model_int8_static.onnx", texts, **options)
        # One step of one activation may fall to the other side when sums are added in another order.
        assert np.abs(alone - other).max() < 0.05
        np.testing.assert_array_equal(alone[:, :2].argmax(axis=1), other[:, :2].argmax(axis=1))
    # Ranges taken from the batch, as in dynamic int8, do change the answer.
    dynamic = [logits(folder, "model_quantized.onnx", texts, **o) for o in ({}, {"batch_size": 60})]
    assert np.abs(dynamic[0] - dynamic[1]).max() > 2 * np.abs(alone - other).max()


def test_static_ranges_are_measured_on_the_texts(all_files, tmp_path):
    source = all_files[0] / "onnx/model.onnx"
    ids = np.array([[2, 5, 9, 3]])
    arrays = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    rows = [arrays, {**arrays, "input_ids": ids[:, ::-1].copy()}]
    write_recipe(source, tmp_path / "static.onnx", OnnxFormat.INT8_STATIC, "per-channel scales", rows)
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


def test_what_a_dense_layer_reads_rounded_stays_exact_for_others(all_files):
    """Residual additions and the first token's slice read the activation itself, in static int8."""
    nodes = onnx.load(all_files[0] / "onnx/model_int8_static.onnx").graph.node
    stored = {n.output[0] for n in nodes if n.op_type == "QuantizeLinear"}
    rounded = {n.output[0] for n in nodes if n.op_type == "DequantizeLinear" and n.input[0] in stored}
    readers = {n.op_type for n in nodes if rounded & set(n.input)}
    assert rounded
    assert readers == {"MatMul"}


def test_int4_holds_four_bits_a_weight(all_files):
    folder, result = all_files
    operators = {n.op_type for n in onnx.load(folder / "onnx/model_q4.onnx").graph.node}
    assert {"MatMulNBits", "GatherBlockQuantized"} <= operators
    assert result.quantized_ops  # of the smallest file
    model = onnx.load(folder / "onnx/model_q4.onnx")
    types = [t.data_type for t in model.graph.initializer if "embeddings.weight_Q4" in t.name]
    assert types == [TensorProto.UINT4] * 3
    assert {(o.domain, o.version) for o in model.opset_import} == {("", OPSET), ("com.microsoft", 1)}


@pytest.mark.parametrize("smaller", SMALLER)
def test_each_gate_trips_and_leaves_nothing(student, other_weights, smaller):
    before = sorted(student.rglob("*"))
    with pytest.raises(GateError, match=f"{smaller} loses .* export without --{smaller}$") as caught:
        export(student, **{OPTIONS[smaller]: True}, max_drop=5)
    assert sorted(student.rglob("*")) == before
    found = caught.value.result
    rungs = FORMATS[smaller].tiers_for(weight_format_for(Target.AUTO))
    assert [entry["recipe"] for entry in found["tries"]] == [recipe.description for tier in rungs for recipe in tier]
    assert not any(entry["passed"] or entry["kept"] for entry in found["tries"])
    assert found["gate"]["passed"] is False
    assert found["gate"]["drop"] > 5
    assert found["files"] == []


def test_one_precision_that_fails_keeps_the_others_away(student, other_weights, monkeypatch):
    worse = recipe_search.apply_recipe

    def fails_int4(source, target, precision, recipe, inputs):
        make = worse if precision is OnnxFormat.INT4 else apply_recipe
        make(source, target, precision, recipe, inputs)

    monkeypatch.setattr(recipe_search, "apply_recipe", fails_int4)
    with pytest.raises(GateError, match="int4 loses"):
        export(student, fp16=True, int4=True, max_drop=2)
    assert not (student / "onnx").exists()


def test_a_precision_is_added_beside_the_others(student):
    export(student, int8=True, max_drop=100)
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in (student / "onnx").glob("*.onnx")}
    export(student, fp16=True, int4=True, max_drop=100)
    for name, state in before.items():
        path = student / "onnx" / name
        assert (path.read_bytes(), path.stat().st_mtime_ns) == state
    record = json.loads((student / "onnx/export.json").read_text())["files"]
    assert set(record) == {"model.onnx", "model_quantized.onnx", "model_fp16.onnx", "model_q4.onnx"}
    assert record["model_quantized.onnx"]["tries"]
    card = (student / "README.md").read_text()
    assert card.count("## ONNX files") == 1
    assert all(f"`onnx/{name}`" in card for name in record)


@pytest.mark.parametrize(("target", "largest"), [("avx2", 64), ("wasm", 64), ("avx512-vnni", 127), ("arm64", 127)])
def test_a_targets_weights(student, target, largest):
    seen = []
    result = export(student, int8=True, int8_static=True, max_drop=100, target=target, on_event=seen.append)
    bits = {64: "7", 127: "8"}[largest]
    for name in ("model_quantized.onnx", "model_int8_static.onnx"):
        model = onnx.load(student / "onnx" / name)
        dense = [
            numpy_helper.to_array(t)
            for t in model.graph.initializer
            if t.data_type == TensorProto.INT8 and len(t.dims) == 2 and "embeddings" not in t.name
        ]
        assert max(np.abs(w).max() for w in dense) == largest
        tables = [t for t in model.graph.initializer if "word_embeddings" in t.name and "quantized" in t.name]
        # A table is never multiplied, so it has all 256 values.
        assert np.ptp(numpy_helper.to_array(tables[0]).astype(int)) == 255
        facts = {p.key: p.value for p in model.metadata_props}
        assert (facts["hrkd.target"], facts["hrkd.weight_bits"]) == (target, bits)
    assert any(f"int8 for {target}: {bits}-bit" in e.text for e in seen if isinstance(e, Note))
    assert result.to_json()["target"] == target
    record = json.loads((student / "onnx/export.json").read_text())["files"]["model_quantized.onnx"]
    assert (record["target"], record["weight_bits"]) == (target, int(bits))


def test_ladders_go_from_fast_to_safe():
    for smaller in SMALLER:
        texts = [
            recipe.description for tier in FORMATS[smaller].tiers_for(weight_format_for(Target.AVX2)) for recipe in tier
        ]
        assert len(set(texts)) == len(texts)
        if smaller in (OnnxFormat.INT8, OnnxFormat.INT8_STATIC):
            assert texts[-1].endswith("embeddings in fp32")
    for target, expected in ((Target.AVX2, 1), (Target.AVX512_VNNI, 0)):
        recipes = [recipe for tier in FORMATS[OnnxFormat.INT8].tiers_for(weight_format_for(target)) for recipe in tier]
        assert sum("unsigned" in recipe.description for recipe in recipes) == expected


@pytest.mark.parametrize("smaller", [OnnxFormat.INT8, OnnxFormat.INT8_STATIC, OnnxFormat.INT4])
def test_every_recipe_makes_a_graph_that_runs(all_files, tmp_path, smaller):
    folder, _ = all_files
    source, path = folder / "onnx/model.onnx", tmp_path / "model.onnx"
    ids = np.array([[2, 5, 9, 7, 3]])
    arrays = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    fp32 = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"]).run(None, arrays)[0]
    for recipe in [recipe for tier in FORMATS[smaller].tiers_for(weight_format_for(Target.AVX2)) for recipe in tier]:
        write_recipe(source, path, smaller, recipe.description, [arrays])
        found = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, arrays)[0]
        # Random weights do not take 4 bits well.
        allowed = 2 if smaller is OnnxFormat.INT4 else 0.5
        model = onnx.load(path)
        facts = {p.key: p.value for p in model.metadata_props}
        assert facts["hrkd.recipe"] == recipe.description
        assert ("hrkd.target" in facts) is recipe.target_specific
        assert weight_precision(model) == smaller
        assert 0 < np.abs(found - fp32).max() < allowed * np.abs(fp32).max(), recipe.description
        tables = [t for t in model.graph.initializer if t.name.endswith("word_embeddings.weight")]
        assert bool(tables) is recipe.description.endswith("embeddings in fp32")
        attention = [n for n in model.graph.node if n.op_type == "MatMul" and "query" in n.name]
        in_fp32 = [n for n in attention if not n.input[1].endswith("_DequantizeLinear_Output")]
        assert bool(in_fp32) is ("attention in fp32" in recipe.description)
