import platform

import numpy as np
import pytest

from hrkd_cli.choices import Target
from hrkd_cli.onnx_export.int8 import round_weight
from hrkd_cli.onnx_export.recipes import Precision, Recipe
from hrkd_cli.onnx_export.targets import detect, weights_for

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


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("target", [Target.AVX2, Target.WASM])
def test_weights_for_pairs_in_16_bits_cannot_saturate(weight, target, per_channel):
    recipe = Recipe(precision=Precision.INT8, per_channel=per_channel)
    numbers, scale, zero = round_weight(weight, recipe, weights_for(target))
    assert numbers.dtype == np.int8
    assert np.abs(numbers).max() == 64
    assert not zero.any()
    activations = np.full((1, 64), LARGEST_ACTIVATION, dtype=np.uint8)
    exact = activations.astype(np.int64) @ numbers.astype(np.int64)
    np.testing.assert_array_equal(saturating_product(activations, numbers), exact)
    assert np.abs(numbers * scale - weight).max() <= scale.max() / 2 + 1e-7


def test_weights_of_8_bits_would_saturate_there(weight):
    numbers, *_ = round_weight(weight, Recipe(precision=Precision.INT8), weights_for(Target.AVX512_VNNI))
    assert np.abs(numbers).max() == 127
    activations = np.full((1, 64), LARGEST_ACTIVATION, dtype=np.uint8)
    exact = activations.astype(np.int64) @ numbers.astype(np.int64)
    assert (saturating_product(activations, numbers) != exact).any()


def test_unsigned_weights_keep_8_bits_on_every_target(weight):
    recipe = Recipe(precision=Precision.INT8, unsigned=True)
    numbers, scale, zero = round_weight(weight, recipe, weights_for(Target.AVX2))
    assert numbers.dtype == np.uint8
    assert (zero == 128).all()
    assert np.abs((numbers.astype(int) - 128) * scale - weight).max() <= scale.max() / 2 + 1e-7
    assert numbers.min() <= 128 - 127 + 20


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
    assert detect(machine, frozenset(flags)) is target


def test_auto_is_this_machine():
    assert weights_for(Target.AUTO).target is detect(platform.machine())
    assert {t: weights_for(t).bits for t in Target if t is not Target.AUTO} == {
        Target.AVX2: 7,
        Target.AVX512_VNNI: 8,
        Target.ARM64: 8,
        Target.WASM: 7,
    }
