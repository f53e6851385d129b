"""A student's ONNX files: written, compared with torch, made smaller, and checked on dev data before they appear."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from hrkd_cli.choices import Target
from hrkd_cli.errors import GateError, ModelError, OutputError
from hrkd_cli.events import Note, OnEvent, ignore
from hrkd_cli.layout import ONNX, STUDENT_OUT
from hrkd_cli.machine import machine_name
from hrkd_cli.models.backend import TorchBackend
from hrkd_cli.onnx_export.card import write_card
from hrkd_cli.onnx_export.cases import write_cases
from hrkd_cli.onnx_export.folder import copy_description, move_in, working_folder
from hrkd_cli.onnx_export.gate import AccuracyGate, load_gate_data
from hrkd_cli.onnx_export.parts import bytes_by_part
from hrkd_cli.onnx_export.plain import write_fp32
from hrkd_cli.onnx_export.plan import Plan, check_max_drop, make_plan, parse_target
from hrkd_cli.onnx_export.recipes import FILES, Precision
from hrkd_cli.onnx_export.record import Record, file_entry
from hrkd_cli.onnx_export.result import ExportedFile, ExportResult, Gate
from hrkd_cli.onnx_export.targets import weights_for
from hrkd_cli.onnx_export.timing import Figures, time_files
from hrkd_cli.onnx_export.trying import Made, Maker
from hrkd_cli.onnx_export.verify import TOLERANCE, largest_difference
from hrkd_cli.predict.bundle import RUNTIME_FILE, write_bundle

DEFAULT_MAX_DROP = 0.5


def export(
    student: str | Path = STUDENT_OUT,
    *,
    int8: bool = False,
    int8_static: bool = False,
    fp16: bool = False,
    int4: bool = False,
    target: Target | str = Target.AUTO,
    max_drop: float = DEFAULT_MAX_DROP,
    latency: bool = True,
    data: str | Path | None = None,
    domain: str | None = None,
    trim_vocabulary: bool = False,
    vocabulary_size: int | None = None,
    runtime: bool = False,
    out: str | Path | None = None,
    force: bool = False,
    on_event: OnEvent = ignore,
) -> ExportResult:
    """Write a student's ONNX graph, and smaller ones of the precisions asked for, into its ``onnx`` folder.

    The fp32 graph must give torch's logits; a smaller one may lose at most ``max_drop`` points of average dev accuracy,
    else the next safer recipe is tried. A fresh process repeats stored predictions. Files appear only when everything
    has passed; other files in ``onnx/`` are left alone, an fp32 file too if it gives the student's logits. With
    ``domain`` or a trimmed vocabulary, a folder of its own is written.

    Args:
        student: model folder, whole and local.
        int8: ``model_quantized.onnx``, activations quantised when it runs.
        int8_static: ``model_int8_static.onnx``, activations quantised with ranges measured on dev.
        fp16: ``model_fp16.onnx``, weights in half precision.
        int4: ``model_q4.onnx``, weights in 4 bits.
        target: CPU that int8 files are for.
        max_drop: points of average dev accuracy that a smaller precision may lose, a trimmed vocabulary included.
        latency: time the files.
        data: prepared dataset or raw source for gate and calibration (dev) and trimming (train); None for the data the
            student was made from.
        domain: bake this domain's head: plain labels, in a folder of its own.
        trim_vocabulary: drop the tokens that the train split does not use, in a folder of its own.
        vocabulary_size: trim to this many tokens, the most used ones; None for all that are used.
        runtime: write ``hrkd_runtime.pyz`` too, the runtime as one file.
        out: folder that gets ``onnx/`` and a copy of configuration and tokenizer; None for the student's own, or, for a
            folder of its own, one beside it.
        force: replace files of the precisions asked for.
        on_event: told what is being done.

    Raises:
        UsageError: ``max_drop`` is not a number of at least 0, or ``target`` is unknown.
        ModelError: not a classifier's folder, or a graph that differs from it.
        OutputError: a file exists, or cannot be written.
        DataError: no data for the gate, or data that does not fit.
        GateError: a precision lost too much accuracy with every recipe; nothing was written.
    """
    check_max_drop(max_drop)
    target = parse_target(target)
    if domain is not None or trim_vocabulary or vocabulary_size is not None:
        from hrkd_cli.onnx_export.derived import DerivedOptions, export_derived

        trim = trim_vocabulary or vocabulary_size is not None
        cut = DerivedOptions(domain=domain, trim=trim, vocabulary_size=vocabulary_size, max_drop=max_drop)
        write = partial(export, int8=int8, int8_static=int8_static, fp16=fp16, int4=int4)
        write = partial(write, target=target, latency=latency, runtime=runtime)
        return export_derived(Path(student), cut, write, data=data, out=out, force=force, on_event=on_event)
    asked = {Precision.FP16: fp16, Precision.INT8: int8, Precision.INT8_STATIC: int8_static, Precision.INT4: int4}
    plan = make_plan(
        student,
        out,
        smaller=[precision for precision, wanted in asked.items() if wanted],
        weights=weights_for(target),
        max_drop=max_drop,
        latency=latency,
        runtime=runtime,
        force=force,
    )
    return _export(plan, data, on_event)


def _export(plan: Plan, data: str | Path | None, on_event: OnEvent) -> ExportResult:
    torch_model = TorchBackend(plan.student, device="cpu")
    gate = None
    if plan.smaller:
        dataset, name = load_gate_data(plan.student, data, on_event=on_event)
        gate = AccuracyGate(torch_model, dataset, model=str(plan.student), data=name, on_event=on_event)
    if plan.keep_fp32:
        _check_kept(torch_model, plan.onnx / ONNX.fp32)
    with working_folder(plan.onnx) as folder:
        return _write(plan, torch_model, gate, folder, on_event)


def _check_kept(torch_model: TorchBackend, graph: Path) -> None:
    """Refuse to put smaller files beside an fp32 file of another model.

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
    plan: Plan, torch_model: TorchBackend, gate: AccuracyGate | None, folder: Path, on_event: OnEvent
) -> ExportResult:
    """Make all files in ``folder``, and move them in when they have passed."""
    write_fp32(torch_model, folder / ONNX.fp32, on_event=on_event)
    if plan.keep_fp32:
        kept = plan.onnx / ONNX.fp32
        on_event(Note(f"{kept} gives the student's logits and is kept"))
        if kept.stat().st_size != (folder / ONNX.fp32).stat().st_size:
            text = f"{kept}: written by another version, so slower perhaps; replace it with --force"
            on_event(Note(text, warning=True))
    made: list[Made] = []
    if gate is not None:
        if plan.target:
            bits = f"int8 for {plan.weights.target}: {plan.weights.bits}-bit signed weights ({plan.weights.why})"
            on_event(Note(bits))
        maker = Maker(plan.student, folder, gate, plan.weights, plan.max_drop, on_event)
        made = [maker.make(precision) for precision in plan.smaller]
        _refuse_failed(plan, made, folder)
    new = [FILES[precision] for precision in (Precision.FP32, *plan.smaller)]
    # Files of an earlier export are this student's for certain only where the fp32 file is.
    record = Record.read(plan.onnx) if plan.keep_fp32 else Record()
    figures = {}
    if plan.latency:
        # Those too, in the same turns: times of another hour compare the machine's load.
        earlier = {name: plan.onnx / name for name in record.files if name not in new}
        figures = time_files({name: folder / name for name in new} | earlier, plan.student, on_event=on_event)
        record.retime({name: figures[name] for name in earlier}, machine_name())
    result = _result(plan, made, folder, figures)
    _move_in(plan, made, gate, new, folder, result, record, on_event)
    return result


def _refuse_failed(plan: Plan, made: Sequence[Made], folder: Path) -> None:
    """Stop when a precision passed with no recipe.

    Raises:
        GateError: with the figures of all tries.
    """
    failed = [entry for entry in made if not entry.best.kept]
    if not failed:
        return
    best, count = failed[0].best, len(failed[0].tries)
    recipes = "its one recipe" if count == 1 else f"the best of {count} recipes ({best.recipe})"
    raise GateError(
        f"{best.precision} loses {best.gate.drop:.2f} points of average dev accuracy with {recipes}, more than "
        f"--max-drop {plan.max_drop:g}: nothing was written; allow more with --max-drop, or export without "
        f"--{best.precision}",
        result=_result(plan, made, folder, {}, failed=True).to_json(),
    )


def _move_in(
    plan: Plan,
    made: Sequence[Made],
    gate: AccuracyGate | None,
    new: list[str],
    folder: Path,
    result: ExportResult,
    record: Record,
    on_event: OnEvent,
) -> None:
    """Put finished files in their places, with their record, stored predictions and model card."""
    # The fp32 file made here is one of them even where an earlier one is kept: the others are measured by it.
    graphs = list(new)
    stale = sorted(file.name for file in plan.onnx.glob("*.onnx") if file.name not in new)
    for file in result.files:
        name = Path(file.path).name
        entry = next((m for m in made if m.precision == file.precision), None)
        facts = file_entry(file, folder / name, plan.weights, entry, gate, result.machine)
        record.add(facts, kept=plan.keep_fp32 and name == ONNX.fp32)
    if plan.keep_fp32:
        new.remove(ONNX.fp32)
    elif stale:
        on_event(Note(f"{', '.join(stale)} in {plan.onnx}: of an earlier export, left as it is", warning=True))
    record.write(folder)
    described = copy_description(plan.student, folder) if plan.elsewhere else []
    stored = write_cases(plan.student, folder, graphs, earlier=plan.onnx)
    on_event(Note("a fresh process repeated the stored predictions"))
    if plan.runtime:
        write_bundle(folder / RUNTIME_FILE)
        described.append(RUNTIME_FILE)
    described.append(write_card(plan.student, plan.root, folder, record))
    move_in(folder, described, plan.root)
    move_in(folder, [*new, ONNX.record, stored], plan.onnx)


def _result(
    plan: Plan, made: Sequence[Made], folder: Path, figures: dict[str, Figures], *, failed: bool = False
) -> ExportResult:
    """Describe the files; after a failed gate only the one that was there before."""
    recipes = {FILES[entry.precision]: entry.best.recipe for entry in made if entry.best.kept}
    precisions = (Precision.FP32, *plan.smaller) if not failed else (Precision.FP32,) if plan.keep_fp32 else ()
    files = []
    for precision in precisions:
        name = FILES[precision]
        path = plan.onnx / name if precision is Precision.FP32 and plan.keep_fp32 else folder / name
        size = path.stat().st_size
        files.append(ExportedFile(str(plan.onnx / name), precision, size, recipes.get(name, ""), figures.get(name, ())))
    there = [folder / FILES[p] for p in (Precision.FP32, *plan.smaller) if (folder / FILES[p]).is_file()]
    smallest = min(there, key=lambda path: path.stat().st_size)
    operators = next((m.operators for m in made if FILES[m.precision] == smallest.name), {})
    drops = [entry.best.gate for entry in made]
    gate = None
    if drops:
        worst = max(outcome.drop for outcome in drops)
        gate = Gate(plan.max_drop, worst, all(outcome.passed for outcome in drops))
    return ExportResult(
        tuple(files),
        operators or next((m.operators for m in made if m.operators), {}),
        bytes_by_part(smallest),
        gate,
        tries=tuple(entry for m in made for entry in m.tries),
        target=plan.target,
        machine=machine_name() if figures else "",
    )
