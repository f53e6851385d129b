import numpy as np
import onnx
import onnxruntime
import pytest

from exporting import FORMAT_OPTIONS, SMALLER_FORMATS, onnx_logits, write_with_recipe
from hrkd_cli import Predictor, evaluate
from hrkd_cli.choices import Target
from hrkd_cli.errors import ModelError
from hrkd_cli.evaluation.onnx_inspect import count_parameters, weight_precision
from hrkd_cli.onnx_export.cpu_targets import weight_format_for
from hrkd_cli.onnx_export.graph_editor import OPSET, OnnxFormat
from hrkd_cli.onnx_export.quantizers import QuantizerInputs
from hrkd_cli.onnx_export.recipes import FILE_NAMES, FORMATS, apply_recipe
from tiny_folder import make_texts


def recipes_for(onnx_format, target):
    return [recipe for tier in FORMATS[onnx_format].tiers_for(weight_format_for(target)) for recipe in tier]


def test_each_format_has_its_file_precision_and_logits(all_formats, tmp_path):
    folder, result = all_formats
    assert [file.precision for file in result.files] == ["fp32", *FORMAT_OPTIONS]
    assert {file.name for file in (folder / "onnx").glob("*.onnx")} == set(FILE_NAMES.values())
    fp32 = onnx.load(folder / "onnx/model.onnx")
    reference = onnx_logits(folder, "model.onnx", make_texts(20))
    for file in result.files:
        model = onnx.load(file.path)
        onnx.checker.check_model(model)
        assert weight_precision(model) == file.precision
        assert count_parameters(model) == count_parameters(fp32)
        found = onnx_logits(folder, FILE_NAMES[OnnxFormat(file.precision)], make_texts(20))
        assert np.corrcoef(reference.ravel(), found.ravel())[0, 1] > 0.8
        if file.precision in ("fp16", "int4"):
            assert file.bytes < result.files[0].bytes
        assert Predictor(file.path).predict(["a good book"], domain="books")[0].label in ("negative", "positive")
    (tmp_path / "few.csv").write_text("text,label,domain\ngood book,positive,books\nbad book,negative,books\n")
    found = evaluate([file.path for file in result.files], data=tmp_path / "few.csv", split="dev")
    assert [model.precision for model in found.models] == ["fp32", *FORMAT_OPTIONS]


def test_tiers_go_from_fast_to_accurate():
    for onnx_format in SMALLER_FORMATS:
        descriptions = [recipe.description for recipe in recipes_for(onnx_format, Target.AVX2)]
        assert len(set(descriptions)) == len(descriptions)
        if onnx_format in (OnnxFormat.INT8, OnnxFormat.INT8_STATIC):
            assert descriptions[-1].endswith("embeddings in fp32")
    for target, expected in ((Target.AVX2, 1), (Target.AVX512_VNNI, 0)):
        recipes = recipes_for(OnnxFormat.INT8, target)
        assert sum("unsigned" in recipe.description for recipe in recipes) == expected


@pytest.mark.parametrize("onnx_format", [OnnxFormat.INT8, OnnxFormat.INT8_STATIC, OnnxFormat.INT4])
def test_every_recipe_makes_a_graph_that_runs(all_formats, tmp_path, onnx_format):
    folder, _ = all_formats
    source, path = folder / "onnx/model.onnx", tmp_path / "model.onnx"
    ids = np.array([[2, 5, 9, 7, 3]])
    arrays = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    fp32 = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"]).run(None, arrays)[0]
    for recipe in recipes_for(onnx_format, Target.AVX2):
        write_with_recipe(source, path, onnx_format, recipe.description, [arrays])
        logits = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, arrays)[0]
        # Random weights lose more in 4 bits.
        allowed = 2 if onnx_format is OnnxFormat.INT4 else 0.5
        model = onnx.load(path)
        metadata = {p.key: p.value for p in model.metadata_props}
        assert metadata["hrkd.recipe"] == recipe.description
        assert ("hrkd.target" in metadata) is recipe.target_specific
        assert weight_precision(model) == onnx_format
        assert 0 < np.abs(logits - fp32).max() < allowed * np.abs(fp32).max(), recipe.description
        embeddings = [t for t in model.graph.initializer if t.name.endswith("word_embeddings.weight")]
        assert bool(embeddings) is recipe.description.endswith("embeddings in fp32")
        attention = [n for n in model.graph.node if n.op_type == "MatMul" and "query" in n.name]
        in_fp32 = [n for n in attention if not n.input[1].endswith("_DequantizeLinear_Output")]
        assert bool(in_fp32) is ("attention in fp32" in recipe.description)


def test_a_graph_without_dense_layers_or_a_damaged_file_is_refused(made, tmp_path):
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
