"""What the weights of an int8 file must look like on the CPU that runs it."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from hrkd_cli.choices import Target
from hrkd_cli.machine import cpu_flags


@dataclass(frozen=True, slots=True)
class Weights:
    """How dense weights are stored.

    Attributes:
        target: the CPU they are for; never ``auto``.
        bits: 8, or 7 where a product of 8 bits each could saturate.
        why: the reason, in words for people.
    """

    target: Target
    bits: int
    why: str

    @property
    def largest(self) -> int:
        """The largest absolute value of a weight: with 64, 255 * 64 + 255 * 64 still fits 16 bits."""
        return 127 if self.bits == 8 else 64


_WHY = {
    Target.AVX2: (7, "AVX2 adds pairs of products in 16 bits, which saturate above 7-bit weights"),
    Target.AVX512_VNNI: (8, "VNNI adds products in 32 bits, so all 8 bits can be used"),
    Target.ARM64: (8, "ARM's dot products add in 32 bits, so all 8 bits can be used"),
    Target.WASM: (7, "a browser may add pairs of products in 16 bits, which saturate above 7-bit weights"),
}


def weights_for(target: Target) -> Weights:
    """Return how weights are stored for a CPU; ``auto`` is this machine's."""
    known = detect() if target is Target.AUTO else target
    bits, why = _WHY[known]
    return Weights(known, bits, why)


def detect(machine: str | None = None, flags: frozenset[str] | None = None) -> Target:
    """Return this machine's target; what is not known for certain is ``avx2``, whose files are right everywhere.

    Args:
        machine: as ``platform.machine()`` names it.
        flags: what /proc/cpuinfo lists; None to read it.
    """
    machine = platform.machine() if machine is None else machine
    if machine.lower() in ("arm64", "aarch64"):
        return Target.ARM64
    flags = cpu_flags() if flags is None else flags
    return Target.AVX512_VNNI if flags & {"avx512_vnni", "avx_vnni"} else Target.AVX2
