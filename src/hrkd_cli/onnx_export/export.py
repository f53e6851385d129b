"""A student's ONNX files: written, compared with torch, made smaller, and checked on dev data before they appear."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from hrkd_cli.choices import Target
from hrkd_cli.errors import GateError, ModelError, OutputError
from hrkd_cli.evaluation.inputs import common_rows
from hrkd_cli.events import Note, OnEvent, ignore
from hrkd_cli.layout import MODEL, ONNX, STUDENT_OUT
from hrkd_cli.machine import machine_name
from hrkd_cli.models.backend import TorchBackend
from hrkd_cli.onnx_export.card import find_card, onnx_section, place_section
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
from hrkd_cli.onnx_export.variants.variant import Cut, Variant, check_cut, make_variant
from hrkd_cli.onnx_export.verify import TOLERANCE, largest_difference
from hrkd_cli.outputs import whole_folder
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
        int8: ``model_quantized.onnx``, activations quantized when it runs.
        int8_static: ``model_int8_static.onnx``, activations quantized with ranges measured on dev.
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
    asked = {Precision.FP16: fp16, Precision.INT8: int8, Precision.INT8_STATIC: int8_static, Precision.INT4: int4}
    smaller = [precision for precision, wanted in asked.items() if wanted]
    plan_for = partial(make_plan, smaller=smaller, weights=weights_for(parse_target(target)), max_drop=max_drop)
    plan_for = partial(plan_for, latency=latency, runtime=runtime)
    student = Path(student)
    cut = Cut(domain=domain, trim=trim_vocabulary or vocabulary_size is not None, vocabulary_size=vocabulary_size)
    if not (cut.domain is not None or cut.trim):
        plan = plan_for(student, out, force=force)
        model = TorchBackend(student, device="cpu")
        gate = None
        if smaller:
            dataset, name = load_gate_data(student, data, on_event=on_event)
            dataset = common_rows([student], dataset, name)
            gate = AccuracyGate(model, dataset, model=str(student), data=name, on_event=on_event)
        return _Export(plan, model, gate, None, on_event).run()
    root = check_cut(student, cut, out, force=force)
    model = TorchBackend(student, device="cpu")
    loaded = load_gate_data(student, data, on_event=on_event) if smaller or cut.trim else None
    with whole_folder(root) as work:
        variant = make_variant(model, student, cut, loaded, work, root, max_drop=max_drop, on_event=on_event)
        return _Export(plan_for(work, None, force=False), variant.model, variant.gate, variant, on_event).run()


class _Export:
    """One export: all files are made in a working folder, and moved into their places when they have passed."""

    def __init__(
        self, plan: Plan, model: TorchBackend, gate: AccuracyGate | None, variant: Variant | None, on_event: OnEvent
    ) -> None:
        self.plan = plan
        self.model = model
        self.gate = gate
        self.variant = variant
        self.on_event = on_event

    def run(self) -> ExportResult:
        plan, on_event = self.plan, self.on_event
        if plan.keep_fp32:
            self._check_kept()
        with working_folder(plan.onnx) as folder:
            write_fp32(self.model, folder / ONNX.fp32, on_event=on_event)
            if plan.keep_fp32:
                self._compare_kept(folder / ONNX.fp32)
            made = self._quantize(folder)
            new = [FILES[precision] for precision in (Precision.FP32, *plan.smaller)]
            # Files of an earlier export are this student's for certain only where the fp32 file is.
            record = Record.read(plan.onnx) if plan.keep_fp32 else Record()
            figures: dict[str, Figures] = {}
            if plan.latency:
                # Those too, in the same turns: times of another hour compare the machine's load.
                earlier = {name: plan.onnx / name for name in record.files if name not in new}
                figures = time_files({name: folder / name for name in new} | earlier, plan.student, on_event=on_event)
                record.retime({name: figures[name] for name in earlier}, machine_name())
            result = self._result(made, folder, figures)
            for file, name in zip(result.files, new, strict=True):
                own = next((m for m in made if m.precision == file.precision), None)
                entry = file_entry(file, folder / name, plan.weights, own, self.gate, result.machine)
                record.add(name, entry, kept=plan.keep_fp32 and name == ONNX.fp32)
            self._keep(new, folder, result, record)
        return result

    def _check_kept(self) -> None:
        """Refuse to put smaller files beside an fp32 file of another model."""
        graph = self.plan.onnx / ONNX.fp32
        try:
            difference = largest_difference(self.model, graph)
        except ModelError as error:
            raise OutputError(f"{error}; replace it with --force") from None
        if difference > TOLERANCE:
            raise OutputError(
                f"{graph}: is not this student's (its logits differ by {difference:.2g}); replace it with --force"
            )

    def _compare_kept(self, new: Path) -> None:
        kept = self.plan.onnx / ONNX.fp32
        self.on_event(Note(f"{kept} gives the student's logits and is kept"))
        if kept.stat().st_size != new.stat().st_size:
            text = f"{kept}: written by another version, so slower perhaps; replace it with --force"
            self.on_event(Note(text, warning=True))

    def _quantize(self, folder: Path) -> list[Made]:
        """Make the smaller files.

        Raises:
            GateError: a precision passed with no recipe; with the figures of all tries.
        """
        plan = self.plan
        if self.gate is None or not plan.smaller:
            return []
        if plan.target:
            bits = f"int8 for {plan.weights.target}: {plan.weights.bits}-bit signed weights ({plan.weights.why})"
            self.on_event(Note(bits))
        maker = Maker(plan.student, folder, self.gate, plan.weights, plan.max_drop, self.on_event)
        made = [maker.make(precision) for precision in plan.smaller]
        failed = next((entry for entry in made if not entry.best.kept), None)
        if failed is not None:
            best, count = failed.best, len(failed.tries)
            recipes = "its one recipe" if count == 1 else f"the best of {count} recipes ({best.recipe})"
            trimming = self.variant.trim_drop if self.variant is not None else 0.0
            raise GateError(
                f"{best.precision} loses {best.gate.drop:.2f} points of average dev accuracy with {recipes}, "
                + (f"{trimming:.2f} of them by trimming, " if trimming > 0 else "")
                + f"more than --max-drop {plan.max_drop:g}: nothing was written; allow more with --max-drop, or export "
                f"without --{best.precision}",
                result=self._result(made, folder, {}, failed=True).to_json(),
            )
        return made

    def _result(
        self, made: list[Made], folder: Path, figures: dict[str, Figures], *, failed: bool = False
    ) -> ExportResult:
        """Describe the files; after a failed gate only the one that was there before."""
        plan, variant = self.plan, self.variant
        recipes = {FILES[entry.precision]: entry.best.recipe for entry in made if entry.best.kept}
        there = {precision: folder / FILES[precision] for precision in (Precision.FP32, *plan.smaller)}
        there = {precision: path for precision, path in there.items() if path.is_file()}
        shown = (variant.out if variant is not None else plan.root) / MODEL.onnx
        files = []
        for precision, path in there.items():
            kept = plan.keep_fp32 and precision is Precision.FP32
            if not failed or kept:
                size = (plan.onnx / path.name if kept else path).stat().st_size
                recipe, figure = recipes.get(path.name, ""), figures.get(path.name, ())
                files.append(ExportedFile(str(shown / path.name), precision, size, recipe, figure))
        smallest = min(there.values(), key=lambda path: path.stat().st_size)
        operators = next((m.operators for m in made if FILES[m.precision] == smallest.name), {})
        gate = variant.trim_gate if variant is not None else None
        if made:
            worst = max(entry.best.gate.drop for entry in made)
            gate = Gate(plan.max_drop, worst, all(entry.best.gate.passed for entry in made))
        return ExportResult(
            tuple(files),
            operators or next((m.operators for m in made if m.operators), {}),
            bytes_by_part(smallest),
            gate,
            tries=tuple(entry for m in made for entry in m.tries),
            target=plan.target,
            machine=machine_name() if figures else "",
            out=str(variant.out) if variant is not None and not failed else "",
            domain=variant.domain if variant is not None else None,
            vocabulary=variant.report if variant is not None else None,
            trim_drop=variant.trim_drop if variant is not None else 0.0,
        )

    def _keep(self, new: list[str], folder: Path, result: ExportResult, record: Record) -> None:
        """Put finished files in their places, with their record, stored predictions and card."""
        plan = self.plan
        # The fp32 file made here is one of them even where an earlier one is kept: the others are measured by it.
        graphs = list(new)
        stale = sorted(file.name for file in plan.onnx.glob("*.onnx") if file.name not in new)
        if plan.keep_fp32:
            new = [name for name in new if name != ONNX.fp32]
        elif stale:
            text = f"{', '.join(stale)} in {plan.onnx}: of an earlier export, left as it is"
            self.on_event(Note(text, warning=True))
        record.write(folder)
        described = copy_description(plan.student, folder) if plan.elsewhere else []
        stored = write_cases(plan.student, folder, graphs, earlier=plan.onnx)
        self.on_event(Note("a fresh process repeated the stored predictions"))
        if plan.runtime:
            write_bundle(folder / RUNTIME_FILE)
            described.append(RUNTIME_FILE)
        card = self.variant.card(result.gate) if self.variant is not None else find_card((plan.root, plan.student))
        (folder / MODEL.readme).write_text(place_section(card, onnx_section(record.files)), encoding="utf-8")
        move_in(folder, [*described, MODEL.readme], plan.root)
        move_in(folder, [*new, ONNX.record, stored], plan.onnx)
