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
from hrkd_cli.errors import GateError, UsageError
from hrkd_cli.evaluation.graph import count_parameters, precision
from hrkd_cli.events import Note
from hrkd_cli.onnx_export import trying
from hrkd_cli.onnx_export.calibrate import Extremes, activation_extremes
from hrkd_cli.onnx_export.quantize import write_smaller
from hrkd_cli.onnx_export.recipes import FILES, Precision, Ranges, Recipe, Tables, ladder
from hrkd_cli.onnx_export.tables import blocks_of_4_bits, pack, round_table
from hrkd_cli.onnx_export.targets import weights_for
from tiny_folder import make_texts, write_model

export = functools.partial(hrkd_cli.export, latency=False)

OPTIONS = {"fp16": "fp16", "int8": "int8", "int8-static": "int8_static", "int4": "int4"}
SMALLER = [Precision(name) for name in OPTIONS]


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


def logits(folder, name, texts, **options):
    from hrkd_cli.predict.backend import OnnxBackend

    return OnnxBackend(folder, folder / "onnx" / name).logits(texts, **options)


def test_a_file_of_each_precision(all_files):
    folder, result = all_files
    assert [file.precision for file in result.files] == ["fp32", *OPTIONS]
    assert {file.name for file in (folder / "onnx").glob("*.onnx")} == set(FILES.values())
    fp32 = onnx.load(folder / "onnx/model.onnx")
    reference = logits(folder, "model.onnx", make_texts(20))
    for file in result.files:
        model = onnx.load(file.path)
        onnx.checker.check_model(model)
        assert precision(model) == file.precision
        assert count_parameters(model) == count_parameters(fp32)
        found = logits(folder, FILES[Precision(file.precision)], make_texts(20))
        assert np.corrcoef(reference.ravel(), found.ravel())[0, 1] > 0.8
        if file.precision in ("fp16", "int4"):
            assert file.bytes < result.files[0].bytes
    assert {m["precision"] for m in evaluate_files(folder)} == {"fp32", *OPTIONS}


def evaluate_files(folder):
    files = [folder / "onnx" / name for name in FILES.values()]
    data = write_dev(folder)
    return evaluate(files, data=data, split="dev").to_json()["models"]


def write_dev(folder):
    path = folder.parent / "few.csv"
    path.write_text("text,label,domain\ngood book,positive,books\nbad book,negative,books\n")
    return path


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
    recipe = Recipe(precision=Precision.FP16)
    write_smaller(tmp_path / "large.onnx", tmp_path / "fp16.onnx", recipe, weights=weights_for(Target.AVX2))
    kept = [t for t in onnx.load(tmp_path / "fp16.onnx").graph.initializer if t.name == weight.name]
    assert [t.data_type for t in kept] == [TensorProto.FLOAT]


@pytest.mark.parametrize("mode", [Tables.TABLE, Tables.ROW])
def test_a_table_is_rounded_to_the_nearest_step(mode):
    table = np.random.default_rng(0).normal(0.5, 1, size=(30, 7)).astype(np.float32)
    table[4] = 0
    numbers, scale, zero = round_table(table, mode)
    assert (np.abs((numbers.astype(float) - zero) * scale - table) <= 0.51 * scale).all()
    assert not ((numbers - zero)[4]).any()
    assert scale.shape == zero.shape == (() if mode is Tables.TABLE else (30, 1))


def test_no_activation_is_quantised_twice(all_files):
    folder, _ = all_files
    for name, operator in (
        ("model_quantized.onnx", "DynamicQuantizeLinear"),
        ("model_int8_static.onnx", "QuantizeLinear"),
    ):
        nodes = [n for n in onnx.load(folder / "onnx" / name).graph.node if n.op_type == operator]
        read = [n.input[0] for n in nodes]
        # 11 products, of which none shares its input once queries, keys and values are one.
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


def test_static_ranges_come_from_the_dev_texts(all_files, made):
    folder, _ = all_files
    source = folder / "onnx/model.onnx"
    ids = np.array([[2, 5, 9, 3]])
    arrays = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    found = activation_extremes(source, [arrays, {**arrays, "input_ids": ids[:, ::-1].copy()}])
    assert len(found) == 11
    name = next(iter(found))
    model = onnx.load(source)
    model.graph.output.append(onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    value = session.run([name], arrays)[0]
    assert (found[name].low[0], found[name].high[0]) == pytest.approx((value.min(), value.max()))
    extremes = Extremes([-1.0, -3.0], [2.0, 6.0])
    assert extremes.span(Ranges.EXTREMES) == (-3.0, 6.0)
    assert extremes.span(Ranges.MEAN) == (-2.0, 4.0)


def test_int4_holds_four_bits_a_weight(all_files):
    folder, result = all_files
    operators = {n.op_type for n in onnx.load(folder / "onnx/model_q4.onnx").graph.node}
    assert {"MatMulNBits", "GatherBlockQuantized"} <= operators
    assert result.quantized_ops  # of the smallest file
    random = np.random.default_rng(0)
    rows = random.normal(size=(5, 70)).astype(np.float32)
    numbers, scales, zeros = blocks_of_4_bits(rows, 32)
    assert scales.shape == zeros.shape == (5, 3)
    assert numbers.max() <= 15
    wide = [np.repeat(a, 32, axis=1)[:, :70] for a in (scales, zeros.astype(np.float32))]
    assert (np.abs((numbers - wide[1]) * wide[0] - rows) <= wide[0] * 1.01).all()
    assert pack(np.array([[1, 2], [3, 4], [15, 0]], dtype=np.uint8)) == bytes([0x21, 0x43, 0x0F])
    assert pack(np.array([7, 8, 9], dtype=np.uint8)) == bytes([0x87, 0x09])


@pytest.mark.parametrize("smaller", SMALLER)
def test_each_gate_trips_and_leaves_nothing(student, tmp_path, monkeypatch, smaller):
    other = write_model(tmp_path / "other", seed=9)
    export(other)

    def worse(source, target, recipe, **_):
        shutil.copy(other / "onnx/model.onnx", target)
        return {"MatMul": 1}

    monkeypatch.setattr(trying, "write_smaller", worse)
    before = sorted(student.rglob("*"))
    with pytest.raises(GateError, match=f"{smaller} loses .* export without --{smaller}$") as caught:
        export(student, **{OPTIONS[smaller]: True}, max_drop=5)
    assert sorted(student.rglob("*")) == before
    found = caught.value.result
    rungs = ladder(smaller, reduced=weights_for(Target.AUTO).bits < 8)
    assert [entry["recipe"] for entry in found["tries"]] == [recipe.text for rung in rungs for recipe in rung]
    assert not any(entry["passed"] or entry["kept"] for entry in found["tries"])
    assert found["gate"]["passed"] is False
    assert found["gate"]["drop"] > 5
    assert found["files"] == []


def test_one_precision_that_fails_keeps_the_others_away(student, monkeypatch):
    def fails_int4(source, target, recipe, **options):
        if recipe.precision is Precision.INT4:
            shutil.copy(worse / "onnx/model.onnx", target)
            return {"MatMulNBits": 1}
        return write_smaller(source, target, recipe, **options)

    worse = write_model(student.parent / "other", seed=9)
    export(worse)
    monkeypatch.setattr(trying, "write_smaller", fails_int4)
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
        assert (numpy_helper.to_array(tables[0]).min(), numpy_helper.to_array(tables[0]).max()) == (-128, 127)
        facts = {p.key: p.value for p in model.metadata_props}
        assert (facts["hrkd.target"], facts["hrkd.weight_bits"]) == (target, bits)
    assert any(f"int8 for {target}: {bits}-bit" in e.text for e in seen if isinstance(e, Note))
    assert result.to_json()["target"] == target
    record = json.loads((student / "onnx/export.json").read_text())["files"]["model_quantized.onnx"]
    assert (record["target"], record["weight_bits"]) == (target, int(bits))


def test_an_unknown_target(student):
    with pytest.raises(UsageError, match="--target: 'sparc' is not one of auto, avx2"):
        export(student, int8=True, target="sparc")


def test_ladders_go_from_fast_to_safe():
    for smaller in SMALLER:
        rungs = ladder(smaller)
        assert all(recipe.precision is smaller for rung in rungs for recipe in rung)
        texts = [recipe.text for rung in rungs for recipe in rung]
        assert len(set(texts)) == len(texts)
        if smaller in (Precision.INT8, Precision.INT8_STATIC):
            assert rungs[-1][0].tables is Tables.KEPT
    reduced = [recipe for rung in ladder(Precision.INT8, reduced=True) for recipe in rung]
    assert sum(recipe.unsigned for recipe in reduced) == 1


@pytest.mark.parametrize("smaller", [Precision.INT8, Precision.INT8_STATIC, Precision.INT4])
def test_every_recipe_makes_a_graph_that_runs(all_files, tmp_path, smaller):
    folder, _ = all_files
    source = folder / "onnx/model.onnx"
    ids = np.array([[2, 5, 9, 7, 3]])
    arrays = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    extremes = activation_extremes(source, [arrays])
    fp32 = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"]).run(None, arrays)[0]
    for rung in ladder(smaller, reduced=True):
        for recipe in rung:
            path = tmp_path / "model.onnx"
            write_smaller(source, path, recipe, weights=weights_for(Target.AVX2), extremes=extremes)
            found = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, arrays)[0]
            # Random weights do not take 4 bits well.
            allowed = 2 if smaller is Precision.INT4 else 0.5
            facts = {p.key: p.value for p in onnx.load(path).metadata_props}
            assert facts["hrkd.recipe"] == recipe.text
            assert ("hrkd.target" in facts) is recipe.for_target
            assert precision(onnx.load(path)) == smaller
            assert 0 < np.abs(found - fp32).max() < allowed * np.abs(fp32).max(), recipe.text
            kept = [t for t in onnx.load(path).graph.initializer if "word_embeddings" in t.name]
            assert any(t.data_type == TensorProto.FLOAT and "scale" not in t.name for t in kept) == (
                recipe.tables is Tables.KEPT
            )


def test_predict_reads_each_file(all_files):
    for file in all_files[1].files:
        assert Predictor(file.path).predict(["a good book"], domain="books")[0].label in ("negative", "positive")
