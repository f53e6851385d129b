"""A student's ONNX files: written, compared with torch, quantised, and checked on dev data before they appear."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hrkd_cli.errors import GateError, ModelError, OutputError, UsageError
from hrkd_cli.events import Note, OnEvent, ignore
from hrkd_cli.exporting.cases import write_cases
from hrkd_cli.exporting.folder import copy_description, move_in, refuse_existing, refuse_other_model, working_folder
from hrkd_cli.exporting.gate import AccuracyGate, load_gate_data
from hrkd_cli.exporting.graph import write_graph
from hrkd_cli.exporting.parts import bytes_by_part
from hrkd_cli.exporting.quantize import write_int8
from hrkd_cli.exporting.result import ExportedFile, ExportResult, Gate
from hrkd_cli.exporting.verify import TOLERANCE, check_equal, largest_difference
from hrkd_cli.layout import MODEL, ONNX, STUDENT_OUT
from hrkd_cli.model.backend import TorchBackend
from hrkd_cli.runtime.bundle import RUNTIME_FILE, bundle
from hrkd_cli.runtime.onnx_backend import OnnxBackend

DEFAULT_MAX_DROP = 0.5


@dataclass(frozen=True, slots=True)
class _Plan:
    """What one export writes.

    Attributes:
        student: the model folder.
        root: folder that gets ``onnx/``; the student itself unless told otherwise.
        int8: whether an int8 file is asked for.
        keep_fp32: whether an fp32 file is there that must be kept.
        runtime: whether the runtime is written beside the folder's configuration.
    """

    student: Path
    root: Path
    int8: bool
    keep_fp32: bool
    runtime: bool = False

    @property
    def onnx(self) -> Path:
        return self.root / MODEL.onnx

    @property
    def elsewhere(self) -> bool:
        return self.root.resolve() != self.student.resolve()


def export(
    student: str | Path = STUDENT_OUT,
    *,
    int8: bool = False,
    max_drop: float = DEFAULT_MAX_DROP,
    data: str | Path | None = None,
    domain: str | None = None,
    trim_vocabulary: bool = False,
    vocabulary_size: int | None = None,
    runtime: bool = False,
    out: str | Path | None = None,
    force: bool = False,
    on_event: OnEvent = ignore,
) -> ExportResult:
    """Write a student's ONNX graph, and with ``int8`` a quantised one, into its ``onnx`` folder.

    The fp32 graph must give torch's logits; the int8 graph may lose at most ``max_drop`` points of average dev
    accuracy. A fresh process repeats stored predictions. Files appear only when everything has passed; other files in
    ``onnx/`` are left alone. With ``domain`` or a trimmed vocabulary, a folder of its own is written.

    Args:
        student: model folder, whole and local.
        int8: write ``model_quantized.onnx`` too; an fp32 file that is there already is kept if it equals the student.
        max_drop: points of average dev accuracy that int8 may lose.
        data: prepared dataset or raw source for the gate; None for the data the student was made from.
        domain: bake this domain's head: plain labels, in a folder of its own.
        trim_vocabulary: drop the tokens that the train split does not use, in a folder of its own.
        vocabulary_size: trim to this many tokens, the most used ones; None for all that are used.
        runtime: write ``hrkd_runtime.py`` too, the runtime as one file.
        out: folder that gets ``onnx/`` and a copy of configuration and tokenizer; None for the student's own, or, for a
            folder of its own, one beside it.
        force: replace files of the precisions asked for.
        on_event: told what is being done.

    Raises:
        UsageError: ``max_drop`` is not a number of at least 0.
        ModelError: not a classifier's folder, or a graph that differs from it.
        OutputError: a file exists, or cannot be written.
        DataError: no data for the gate, or data that does not fit.
        GateError: int8 lost too much accuracy; nothing was written.
    """
    if not (math.isfinite(max_drop) and max_drop >= 0):
        raise UsageError(f"--max-drop: {max_drop} is not a number of points of at least 0")
    if domain is not None or trim_vocabulary or vocabulary_size is not None:
        from hrkd_cli.exporting.derived import DerivedOptions, export_derived

        trim = trim_vocabulary or vocabulary_size is not None
        cut = DerivedOptions(domain=domain, trim=trim, vocabulary_size=vocabulary_size, max_drop=max_drop)
        write = partial(export, int8=int8, runtime=runtime)
        return export_derived(Path(student), cut, write, data=data, out=out, force=force, on_event=on_event)
    plan = _make_plan(Path(student), Path(out) if out is not None else None, int8=int8, runtime=runtime, force=force)
    torch_model = TorchBackend(plan.student, device="cpu")
    gate = None
    if int8:
        dataset, name = load_gate_data(plan.student, data, on_event=on_event)
        gate = AccuracyGate(torch_model, dataset, model=str(plan.student), data=name, on_event=on_event)
    if plan.keep_fp32:
        _check_kept(torch_model, plan.onnx / ONNX.fp32)
    with working_folder(plan.onnx) as folder:
        return _write(plan, torch_model, gate, max_drop, folder, on_event)


def _make_plan(student: Path, out: Path | None, *, int8: bool, runtime: bool, force: bool) -> _Plan:
    """Decide what is written where, and refuse what can be refused before anything slow."""
    if not student.is_dir():
        raise ModelError(f"{student}: no such folder; name a student's folder, or run hrkd distill first")
    root = out if out is not None else student
    if root.exists() and not root.is_dir():
        raise OutputError(f"{root}: is a file; give --out a folder")
    fp32, quantized = root / MODEL.onnx / ONNX.fp32, root / MODEL.onnx / ONNX.int8
    refuse_existing([quantized] if int8 else [fp32], force=force)
    refuse_other_model(student, root, force=force)
    return _Plan(student, root, int8=int8, keep_fp32=int8 and fp32.exists() and not force, runtime=runtime)


def _check_kept(torch_model: TorchBackend, graph: Path) -> None:
    """Refuse to quantise beside an fp32 file of another model.

    Raises:
        OutputError: the file does not give the student's logits.
    """
    try:
        difference = largest_difference(torch_model, graph)
    except ModelError as error:
        raise OutputError(f"{error}; replace it with --force") from None
    if difference > TOLERANCE:
        raise OutputError(
            f"{graph}: is not this student's (its logits differ by {difference:.2g}); replace it with --force"
        )


def _write(
    plan: _Plan,
    torch_model: TorchBackend,
    gate: AccuracyGate | None,
    max_drop: float,
    folder: Path,
    on_event: OnEvent,
) -> ExportResult:
    """Make all files in ``folder``, and move them in when they have passed."""
    fp32, int8 = folder / ONNX.fp32, folder / ONNX.int8
    _write_fp32(plan, torch_model, fp32, on_event)
    if gate is None:
        result = _result(plan, {fp32: "fp32"}, {}, None)
    else:
        operators, outcome = _write_int8(plan, gate, max_drop, folder, on_event)
        result = _result(plan, {fp32: "fp32", int8: "int8"}, operators, outcome)
        if not outcome.passed:
            raise GateError(
                f"int8 loses {outcome.drop:.2f} points of average dev accuracy, more than --max-drop {max_drop:g}: "
                "nothing was written; allow more with --max-drop, or export without --int8",
                result=result.to_json(),
            )
    new = [name for name in (ONNX.fp32, ONNX.int8) if (folder / name).is_file()]
    if plan.keep_fp32:
        new.remove(ONNX.fp32)
    elif stale := sorted(file.name for file in plan.onnx.glob("*.onnx") if file.name not in new):
        on_event(Note(f"{', '.join(stale)} in {plan.onnx}: of an earlier export, left as it is", warning=True))
    described = copy_description(plan.student, folder) if plan.elsewhere else []
    graphs = [name for name in (ONNX.fp32, ONNX.int8) if (folder / name).is_file()]
    new.append(write_cases(plan.student, folder, graphs, earlier=plan.onnx))
    on_event(Note("a fresh process repeats the stored predictions"))
    if plan.runtime:
        (folder / RUNTIME_FILE).write_text(bundle(), encoding="utf-8")
        described.append(RUNTIME_FILE)
    move_in(folder, described, plan.root)
    move_in(folder, new, plan.onnx)
    return result


def _write_int8(
    plan: _Plan, gate: AccuracyGate, max_drop: float, folder: Path, on_event: OnEvent
) -> tuple[dict[str, int], Gate]:
    """Quantise with one scale a column, and with one a matrix where that fails the gate; return the last try."""
    fp32, int8 = folder / ONNX.fp32, folder / ONNX.int8
    for per_channel in (True, False):
        scales = "column" if per_channel else "matrix"
        on_event(Note(f"quantising weights to int8, one scale a {scales}"))
        operators = write_int8(fp32, int8, per_channel=per_channel)
        backend = OnnxBackend(plan.student, int8)
        outcome = gate.check(backend, max_drop)
        if outcome.passed:
            padded = gate.padded_drop(backend)
            if padded > max_drop:
                text = f"int8 loses {padded:.2f} points in padded batches of dev texts; run it one text at a time"
                on_event(Note(text, warning=True))
            return operators, outcome
        on_event(Note(f"one scale a {scales} loses {outcome.drop:.2f} points of average dev accuracy"))
    return operators, outcome


def _write_fp32(plan: _Plan, torch_model: TorchBackend, path: Path, on_event: OnEvent) -> None:
    """Make the fp32 file, or copy the one that is kept: the quantiser writes beside what it reads."""
    if plan.keep_fp32:
        shutil.copyfile(plan.onnx / ONNX.fp32, path)
        on_event(Note(f"{plan.onnx / ONNX.fp32} gives the student's logits and is kept"))
        return
    on_event(Note("tracing the student into an ONNX graph"))
    write_graph(torch_model.model, torch_model.inputs, path)
    difference = check_equal(torch_model, path)
    on_event(Note(f"{ONNX.fp32} gives the student's logits (largest difference {difference:.1g})"))


def _result(plan: _Plan, made: dict[Path, str], operators: dict[str, int], gate: Gate | None) -> ExportResult:
    """Describe the files; after a failed gate only the one that was there before."""
    files = [ExportedFile(str(plan.onnx / f.name), precision, f.stat().st_size) for f, precision in made.items()]
    if gate is not None and not gate.passed:
        files = files[:1] if plan.keep_fp32 else []
    return ExportResult(tuple(files), operators, bytes_by_part(list(made)[-1]), gate)
