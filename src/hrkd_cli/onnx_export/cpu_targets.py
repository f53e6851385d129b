"""The int8 weight format that is correct and fast on each target CPU."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from hrkd_cli.choices import Target
from hrkd_cli.machine import cpu_flags


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """How the weights of dense layers are stored for a CPU.

    Attributes:
        target: the CPU; never ``auto``.
        bits: 8, or 7 where the sum of two 8-bit products could saturate: 255 * 64 + 255 * 64 fits into 16 bits.
        reason: why, for messages.
    """

    target: Target
    bits: int
    reason: str


WEIGHT_FORMATS = {
    entry.target: entry
    for entry in (
        WeightFormat(Target.AVX2, 7, "AVX2 adds pairs of products in 16 bits, which saturate above 7-bit weights"),
        WeightFormat(Target.AVX512_VNNI, 8, "VNNI adds products in 32 bits, so all 8 bits can be used"),
        WeightFormat(Target.ARM64, 8, "ARM's dot products add in 32 bits, so all 8 bits can be used"),
        WeightFormat(
            Target.WASM, 7, "a browser may add pairs of products in 16 bits, which saturate above 7-bit weights"
        ),
    )
}


def weight_format_for(target: Target) -> WeightFormat:
    """Return the weight format for a CPU; ``auto`` is this machine's."""
    if target is Target.AUTO:
        target = detect_target(platform.machine(), cpu_flags())
    return WEIGHT_FORMATS[target]


def detect_target(machine: str, flags: frozenset[str]) -> Target:
    """Return the target of a machine; ``avx2`` if unsure, because its files are correct on every CPU."""
    if machine.lower() in ("arm64", "aarch64"):
        return Target.ARM64
    return Target.AVX512_VNNI if flags & {"avx512_vnni", "avx_vnni"} else Target.AVX2
