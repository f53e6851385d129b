import pytest

from hrkd_cli.models.torch_backend import TorchBackend
from hrkd_cli.onnx_export.graph_editor import PARTS, bytes_by_part, model_part
from hrkd_cli.onnx_export.trace import trace_to_onnx


def test_bytes_by_part_add_up_to_the_file(exported):
    _, folder, result = exported
    for name in ("model.onnx", "model_quantized.onnx"):
        path = folder / "onnx" / name
        parts = bytes_by_part(path)
        assert tuple(parts) == PARTS
        assert sum(parts.values()) == path.stat().st_size
        assert min(parts.values()) > 0
    assert result.bytes_by_part == bytes_by_part(folder / "onnx/model_quantized.onnx")


def test_bytes_by_part_match_berts_weights(made, tmp_path):
    from safetensors.torch import load_file

    expected = dict.fromkeys(PARTS, 0)
    for name, tensor in load_file(made / "student/model.safetensors").items():
        in_layer = "attention" if ".attention." in name else "feed_forward"
        outside = "embeddings" if "embeddings" in name else "head"
        expected[in_layer if ".layer." in name else outside] += 4 * tensor.numel()
    torch_model = TorchBackend(made / "student", device="cpu")
    trace_to_onnx(torch_model, tmp_path / "model.onnx")
    sizes = bytes_by_part(tmp_path / "model.onnx")
    for part in ("embeddings", "attention", "feed_forward", "head"):
        # A tensor also has a name and a shape; equal small tensors are stored once.
        assert sizes[part] == pytest.approx(expected[part], rel=0.1)


@pytest.mark.parametrize(("name", "share"), [("model_fp16.onnx", 1 / 2), ("model_int8_static.onnx", 1 / 4)])
def test_weights_stored_in_fewer_bits_keep_their_part(all_formats, name, share):
    fp32, smaller = (bytes_by_part(all_formats[0] / "onnx" / each) for each in ("model.onnx", name))
    for part in ("attention", "feed_forward"):
        # Of weights as small as these, names, scales and biases are a large part.
        assert smaller[part] == pytest.approx(share * fp32[part], rel=0.3)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("/bert/embeddings/word_embeddings/Gather", "embeddings"),
        ("electra.embeddings_project.bias", "embeddings"),
        ("/bert/encoder/layer.10/attention/output/dense/MatMul", "attention"),
        ("/bert/encoder/layer.10/output/dense/MatMul_quant", "feed_forward"),
        ("distilbert.transformer.layer.0.sa_layer_norm.weight", "attention"),
        ("distilbert.transformer.layer.0.output_layer_norm.weight", "feed_forward"),
        ("/model/layers.0/attn/Wqkv/MatMul", "attention"),
        ("/model/layers.0/mlp/Wi/MatMul", "feed_forward"),
        ("/pre_classifier/Gemm", "head"),
        ("/head/dense/MatMul", "head"),
        ("classifier.weight", "head"),
        ("onnx::MatMul_320", "other"),
    ],
)
def test_model_part_is_read_from_the_name(name, part):
    assert model_part(name) == part
