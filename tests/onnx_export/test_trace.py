import json

import numpy as np
import onnx
import pytest

from exporting import export
from hrkd_cli import Predictor
from hrkd_cli.evaluation.onnx_inspect import INT8_TYPES
from hrkd_cli.models.torch_backend import TorchBackend
from hrkd_cli.onnx_export.graph_editor import OPSET
from hrkd_cli.onnx_export.trace import PARITY_BATCH_SIZES, PARITY_TOLERANCE, check_parity, random_inputs, trace_to_onnx
from tiny_folder import MAX_LENGTH, make_texts, with_wide_branch, write_model

SEGMENTS = {
    "bert",
    "electra",
    "roberta",
}  # RoBERTa has them in its default configuration, but not in its released models


def test_logits_are_torchs_at_many_shapes(exported):
    architecture, folder, _ = exported
    torch_model = TorchBackend(folder, device="cpu")
    assert check_parity(torch_model, folder / "onnx/model.onnx") < PARITY_TOLERANCE
    # Through Predictor, with real padding.
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


@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert"])
def test_a_wide_branch_is_part_of_the_graph(tmp_path, split_data, architecture):
    student = with_wide_branch(write_model(tmp_path / "plain", architecture=architecture), tmp_path / "student")
    export(student, int8=True, data=split_data, max_drop=100)
    texts = [*make_texts(5), *(" ".join(make_texts(6, seed)) for seed in range(3))]
    assert max(len(one) for one in Predictor(student)._backend.tokenizer.encode(texts)) > 2 * MAX_LENGTH
    expected = Predictor(student).logits(texts)
    for batch_size in (1, 8):
        logits = Predictor(student / "onnx/model.onnx").logits(texts, batch_size=batch_size)
        np.testing.assert_allclose(logits, expected, atol=PARITY_TOLERANCE)
    # The table of weights is quantized like the embeddings.
    int8 = Predictor(student / "onnx/model_quantized.onnx").logits(texts)
    assert np.corrcoef(int8.ravel(), expected.ravel())[0, 1] > 0.99
    graph = onnx.load(student / "onnx/model_quantized.onnx").graph
    assert (96, 4) in {tuple(t.dims) for t in graph.initializer if t.data_type in INT8_TYPES}


def test_random_inputs_cover_batch_sizes_lengths_and_padding(made):
    torch_model = TorchBackend(made / "student", device="cpu")
    shapes = [arrays["input_ids"].shape for arrays in random_inputs(torch_model)]
    # 24 is this student's maximum length.
    assert sorted(set(shapes)) == [(b, t) for b in PARITY_BATCH_SIZES for t in (2, 7, 24)]
    torch_model.tokenizer.max_length = 200
    longer = {arrays["input_ids"].shape[1] for arrays in random_inputs(torch_model)}
    assert longer == {2, 7, 33, 128, 200}
    for arrays in random_inputs(torch_model):
        assert (arrays["input_ids"][arrays["attention_mask"] == 0] == torch_model.tokenizer.pad_id).all()
        assert arrays["attention_mask"].sum(axis=1).min() >= 1
        if len(arrays["input_ids"]) > 1:
            assert (arrays["attention_mask"] == 0).any()


@pytest.mark.parametrize("entry", [{"output_hidden_states": True}, {"return_dict": False}])
def test_logits_are_the_only_output_whatever_the_configuration_says(tmp_path, entry):
    folder = write_model(tmp_path / "student")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | entry))
    export(folder)
    assert [output.name for output in onnx.load(folder / "onnx/model.onnx").graph.output] == ["logits"]


def test_tracing_does_not_change_the_model(made, tmp_path):
    torch_model = TorchBackend(made / "student", device="cpu")
    before = torch_model.logits(["a good book"])
    trace_to_onnx(torch_model, tmp_path / "model.onnx")
    assert not torch_model.model.training
    assert torch_model.model.config._attn_implementation == "sdpa"
    np.testing.assert_array_equal(torch_model.logits(["a good book"]), before)
