"""The ways to make a file of each precision, from the smallest and fastest to the safest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from hrkd_cli.layout import ONNX


class Precision(StrEnum):
    """What an exported file's weights and products are."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"
    INT8_STATIC = "int8-static"
    INT4 = "int4"


FILES = {
    Precision.FP32: ONNX.fp32,
    Precision.FP16: ONNX.fp16,
    Precision.INT8: ONNX.int8,
    Precision.INT8_STATIC: ONNX.int8_static,
    Precision.INT4: ONNX.int4,
}


class Tables(StrEnum):
    """Scales of an embedding table."""

    TABLE = "table"
    ROW = "row"
    KEPT = "kept"


class Ranges(StrEnum):
    """What of the calibration's extremes a static activation's range spans."""

    EXTREMES = "extremes"
    MEAN = "mean"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One way to make a file.

    Attributes:
        precision: of the file.
        per_channel: a scale a column of a dense weight; else one a matrix (int8).
        unsigned: unsigned weights of 8 bits, slower but never saturating (int8).
        tables: see Tables.
        attention: whether the dense layers of attention are quantised.
        ranges: see Ranges (int8-static).
        block: weights that share a scale (int4).
        dense_bits: bits of dense weights; 8 quantises activations when the graph runs, as int8 does (int4).
    """

    precision: Precision
    per_channel: bool = True
    unsigned: bool = False
    tables: Tables = Tables.TABLE
    attention: bool = True
    ranges: Ranges = Ranges.EXTREMES
    block: int = 128
    dense_bits: int = 4

    @property
    def for_target(self) -> bool:
        """Whether the file depends on the CPU that it is for."""
        integers = self.precision in (Precision.INT8, Precision.INT8_STATIC)
        return (integers and not self.unsigned) or (self.precision is Precision.INT4 and self.dense_bits == 8)

    @property
    def text(self) -> str:
        """The recipe in words."""
        if self.precision is Precision.FP16:
            return "weights in fp16, arithmetic in fp32"
        if self.precision is Precision.INT4:
            parts = [f"a scale for {self.block} weights"] if self.dense_bits == 4 else ["dense layers in 8 bits"]
        else:
            parts = [f"a scale a {'column' if self.per_channel else 'matrix'}"]
            parts += ["unsigned weights"] if self.unsigned else []
            parts += ["mean ranges"] if self.ranges is Ranges.MEAN else []
            parts += ["a scale a token"] if self.tables is Tables.ROW else []
        parts += [] if self.attention else ["attention in fp32"]
        parts += ["embeddings in fp32"] if self.tables is Tables.KEPT else []
        return ", ".join(parts)


def ladder(precision: Precision, *, reduced: bool = False) -> tuple[tuple[Recipe, ...], ...]:
    """Return the recipes of a precision in rungs: of each rung the most accurate is taken, the next where none passes.

    Args:
        precision: any but fp32.
        reduced: whether the target takes 7-bit weights only, so that unsigned ones of 8 bits are worth a try.
    """
    first = Recipe(precision=precision)
    if precision is Precision.FP16:
        return ((first,),)
    if precision is Precision.INT4:
        finer = replace(first, block=32)
        eight = replace(first, dense_bits=8)
        return ((first,), (finer,), (eight,), (replace(eight, attention=False),))
    rows = replace(first, tables=Tables.ROW)
    apart = replace(rows, attention=False)
    last = replace(apart, tables=Tables.KEPT)
    if precision is Precision.INT8_STATIC:
        mean = replace(rows, ranges=Ranges.MEAN)
        return ((first, replace(first, ranges=Ranges.MEAN)), (rows, mean), (apart,), (last,))
    unsigned = ((replace(rows, unsigned=True),),) if reduced else ()
    return ((first, replace(first, per_channel=False)), (rows,), *unsigned, (apart,), (last,))
