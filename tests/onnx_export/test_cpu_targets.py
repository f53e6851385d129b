import json
import platform

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from exporting import export
from hrkd_cli.choices import Target
from hrkd_cli.errors import UsageError
from hrkd_cli.events import Note
from hrkd_cli.machine import cpu_flags
from hrkd_cli.onnx_export.cpu_targets import detect_target, weight_format_for


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
def test_the_target_is_detected_from_architecture_and_flags(machine, flags, target):
    assert detect_target(machine, frozenset(flags)) is target


def test_auto_is_this_machine():
    assert weight_format_for(Target.AUTO).target is detect_target(platform.machine(), cpu_flags())
    assert {t: weight_format_for(t).bits for t in Target if t is not Target.AUTO} == {
        Target.AVX2: 7,
        Target.AVX512_VNNI: 8,
        Target.ARM64: 8,
        Target.WASM: 7,
    }


@pytest.mark.parametrize(("target", "largest"), [("avx2", 64), ("wasm", 64), ("avx512-vnni", 127), ("arm64", 127)])
def test_each_target_gets_its_number_of_bits(student, target, largest):
    events = []
    result = export(student, int8=True, int8_static=True, max_drop=100, target=target, on_event=events.append)
    bits = {64: "7", 127: "8"}[largest]
    for name in ("model_quantized.onnx", "model_int8_static.onnx"):
        model = onnx.load(student / "onnx" / name)
        dense = [
            numpy_helper.to_array(t)
            for t in model.graph.initializer
            if t.data_type == TensorProto.INT8 and len(t.dims) == 2 and "embeddings" not in t.name
        ]
        assert max(np.abs(w).max() for w in dense) == largest
        embeddings = [t for t in model.graph.initializer if "word_embeddings" in t.name and "quantized" in t.name]
        # Embeddings are never multiplied, so they use all 256 values.
        assert np.ptp(numpy_helper.to_array(embeddings[0]).astype(int)) == 255
        metadata = {p.key: p.value for p in model.metadata_props}
        assert (metadata["hrkd.target"], metadata["hrkd.weight_bits"]) == (target, bits)
    assert any(f"int8 for {target}: {bits}-bit" in e.text for e in events if isinstance(e, Note))
    assert result.to_json()["target"] == target
    record = json.loads((student / "onnx/export.json").read_text())["files"]["model_quantized.onnx"]
    assert (record["target"], record["weight_bits"]) == (target, int(bits))


def test_an_unknown_target_is_refused_before_anything_is_written(student, split_data):
    with pytest.raises(UsageError, match="--target: 'sparc' is not one of auto, avx2"):
        export(student, domain="dvd", int8=True, target="sparc", data=split_data)
    assert not student.with_name("student-dvd").exists()
