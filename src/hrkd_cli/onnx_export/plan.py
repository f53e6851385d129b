"""What one export writes, decided and refused before anything slow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hrkd_cli.choices import Target
from hrkd_cli.errors import ModelError, OutputError, UsageError
from hrkd_cli.layout import MODEL, ONNX
from hrkd_cli.onnx_export.folder import refuse_existing, refuse_other_model
from hrkd_cli.onnx_export.recipes import FILES, Precision
from hrkd_cli.onnx_export.targets import Weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one export writes.

    Attributes:
        student: the model folder.
        root: folder that gets ``onnx/``; the student itself unless told otherwise.
        smaller: the precisions asked for beside fp32.
        weights: how int8 weights are stored.
        keep_fp32: whether an fp32 file is there that must be kept.
        max_drop: points of average dev accuracy that a smaller precision may lose.
        latency: whether the files are timed.
        runtime: whether the runtime is written beside the folder's configuration.
    """

    student: Path
    root: Path
    smaller: tuple[Precision, ...]
    weights: Weights
    keep_fp32: bool
    max_drop: float
    latency: bool
    runtime: bool

    @property
    def onnx(self) -> Path:
        """The folder of the graphs."""
        return self.root / MODEL.onnx

    @property
    def elsewhere(self) -> bool:
        """Whether the graphs are to lie in another folder than the student's."""
        return self.root.resolve() != self.student.resolve()

    @property
    def target(self) -> str:
        """The CPU that files are for, where one of them depends on it."""
        return str(self.weights.target) if set(self.smaller) - {Precision.FP16} else ""


def parse_target(target: Target | str) -> Target:
    """Return the target of that name.

    Raises:
        UsageError: there is none.
    """
    try:
        return Target(target)
    except ValueError:
        raise UsageError(f"--target: {target!r} is not one of {', '.join(Target)}") from None


def check_max_drop(max_drop: float) -> None:
    """Check the gate's limit.

    Raises:
        UsageError: it is not a number of points of at least 0.
    """
    if not (math.isfinite(max_drop) and max_drop >= 0):
        raise UsageError(f"--max-drop: {max_drop} is not a number of points of at least 0")


def make_plan(
    student: str | Path,
    out: str | Path | None,
    *,
    smaller: Sequence[Precision],
    weights: Weights,
    max_drop: float,
    latency: bool,
    runtime: bool,
    force: bool,
) -> Plan:
    """Decide what is written where.

    Raises:
        ModelError: there is no such student.
        OutputError: a file is in the way.
    """
    student = Path(student)
    if not student.is_dir():
        raise ModelError(f"{student}: no such folder; name a student's folder, or run hrkd distill first")
    root = Path(out) if out is not None else student
    if root.exists() and not root.is_dir():
        raise OutputError(f"{root}: is a file; give --out a folder")
    onnx = root / MODEL.onnx
    fp32 = onnx / ONNX.fp32
    refuse_existing([onnx / FILES[precision] for precision in smaller] or [fp32], force=force)
    refuse_other_model(student, root, force=force)
    return Plan(
        student=student,
        root=root,
        smaller=tuple(smaller),
        weights=weights,
        keep_fp32=bool(smaller) and fp32.exists() and not force,
        max_drop=max_drop,
        latency=latency,
        runtime=runtime,
    )
