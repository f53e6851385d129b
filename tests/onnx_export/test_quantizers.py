import platform

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hrkd_cli.choices import Target
from hrkd_cli.machine import cpu_flags
from hrkd_cli.onnx_export.cpu_targets import detect_target, weight_format_for
from hrkd_cli.onnx_export.quantizers import QuantizerInputs, write_int8_dynamic

LARGEST_ACTIVATION = 255


def saturating_product(activations, weights):
    """What VPMADDUBSW does with unsigned activations [.., K] and signed weights [K, N]: pairs added in 16 bits."""
    wide = activations[..., :, None].astype(np.int64) * weights[None].astype(np.int64)
    pairs = wide[:, 0::2] + wide[:, 1::2]
    return np.clip(pairs, -(2**15), 2**15 - 1).sum(axis=1)


@pytest.fixture
def weight():
    """A weight whose columns hold many values near their extremes."""
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
def test_weights_for_pairs_in_16_bits_cannot_saturate(weight, tmp_path, target, per_channel):
    numbers, scale, zero = rounded(weight, tmp_path, target, per_channel=per_channel)
    assert numbers.dtype == np.int8
    assert np.abs(numbers).max() == 64
    assert not zero.any()
    activations = np.full((1, 64), LARGEST_ACTIVATION, dtype=np.uint8)
    exact = activations.astype(np.int64) @ numbers.astype(np.int64)
    np.testing.assert_array_equal(saturating_product(activations, numbers), exact)
    assert np.abs(numbers * scale - weight).max() <= scale.max() / 2 + 1e-7


def test_weights_of_8_bits_would_saturate_there(weight, tmp_path):
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


@pytest.mark.parametrize(
    ("machine", "flags", "target"),
    [
        ("x86_64", {"avx2", "avx512_vnni"}, Target.AVX512_VNNI),
        ("AMD64", {"avx2", "avx_vnni"}, Target.AVX512_VNNI),
        ("x86_64", {"avx2", "avx512f"}, Target.AVX2),
        ("x86_64", set(), Target.AVX2),
        ("aarch64", set(), Target.ARM64),
        ("arm64", set(), Target.ARM64),
        ("riscv64", set(), Target.AVX2),
    ],
)
def test_this_machines_target(machine, flags, target):
    assert detect_target(machine, frozenset(flags)) is target


def test_auto_is_this_machine():
    assert weight_format_for(Target.AUTO).target is detect_target(platform.machine(), cpu_flags())
    assert {t: weight_format_for(t).bits for t in Target if t is not Target.AUTO} == {
        Target.AVX2: 7,
        Target.AVX512_VNNI: 8,
        Target.ARM64: 8,
        Target.WASM: 7,
    }
