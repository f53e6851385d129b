"""A student's ONNX files: written, compared with torch, made smaller, and checked on dev data before they appear."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from hrkd_cli.command_settings import ExportSettings
from hrkd_cli.errors import GateError, ModelError, OutputError
from hrkd_cli.evaluation.latency import Latency, measure_forward
from hrkd_cli.evaluation.onnx_inspect import count_quantized_ops, load_onnx
from hrkd_cli.events import Note, OnEvent, ignore
from hrkd_cli.layout import PREDICTOR_ARCHIVE, STUDENT_OUT, ModelFiles, OnnxFiles, partial_folder
from hrkd_cli.machine import machine_name, usable_cpus
from hrkd_cli.models.torch_backend import TorchBackend
from hrkd_cli.onnx_export.gate import AccuracyGate, RecipeSearch, load_gate_data
from hrkd_cli.onnx_export.graph_editor import bytes_by_part
from hrkd_cli.onnx_export.quantizers import weights_for
from hrkd_cli.onnx_export.recipes import FILES, FORMATS, Precision
from hrkd_cli.onnx_export.record import (
    ExportedFile,
    ExportResult,
    Gate,
    Try,
    best_try,
    file_entry,
    find_card,
    onnx_section,
    place_section,
    read_record,
    slower_than,
    write_record,
)
from hrkd_cli.onnx_export.self_check_cases import write_cases
from hrkd_cli.onnx_export.trace import check_equal, write_fp32
from hrkd_cli.onnx_export.trimming import TrimReport
from hrkd_cli.onnx_export.variant import copy_description, make_variant, variant_card, variant_folder
from hrkd_cli.outputs import atomic_folder, explain_write_errors
from hrkd_cli.predict.backend import OnnxBackend
from hrkd_cli.predict.bundle import write_bundle

Tries = Mapping[Precision, list[Try]]
Times = Mapping[str, tuple[Latency, ...]]


def export(student: str | Path = STUDENT_OUT, *, on_event: OnEvent = ignore, **options: Any) -> ExportResult:
    """Write a student's ONNX graph, and smaller ones of the precisions asked for, into its ``onnx`` folder.

    The fp32 graph must give torch's logits; a smaller one may lose at most ``max_drop`` points of average dev accuracy,
    else the next safer recipe is tried. A fresh process repeats stored predictions. Files appear only when everything
    has passed; other files in ``onnx/`` are left alone, an fp32 file too if it gives the student's logits. With
    ``domain`` or a trimmed vocabulary, a folder of its own is written.

    Args:
        student: model folder, whole and local.
        on_event: told what is being done.
        **options: fields of ``hrkd_cli.command_settings.ExportSettings``.

    Raises:
        UsageError: an option has a value that it cannot have.
        ModelError: not a classifier's folder, or a graph that differs from it.
        OutputError: a file exists, or cannot be written.
        DataError: no data for the gate, or data that does not fit.
        GateError: a precision lost too much accuracy with every recipe; nothing was written.
    """
    settings = ExportSettings(student=Path(student), **options)
    folder = settings.student
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such folder; name a student's folder, or run hrkd distill first")
    smaller = _smaller(settings)
    is_variant = settings.domain is not None or settings.trims
    if is_variant:
        root = variant_folder(settings)
    else:
        root = settings.out or folder
        _check_graphs(folder, root, [FILES[p] for p in smaller or [Precision.FP32]], force=settings.force)
    model = TorchBackend(folder, device="cpu")
    data = load_gate_data(settings, on_event=on_event) if smaller or settings.trims else None
    if not is_variant:
        gate = AccuracyGate(settings, model, *data, on_event=on_event) if data is not None else None
        return _Export(settings, folder, root, model, gate, on_event).run()
    with atomic_folder(root) as work:
        model, gate, vocabulary = make_variant(settings, model, data, work, root, on_event=on_event)
        return _Export(settings, work, work, model, gate, on_event, vocabulary=vocabulary, out=root).run()


def _smaller(settings: ExportSettings) -> list[Precision]:
    """Return the precisions asked for beside fp32, which has no option."""
    return [precision for precision in FORMATS if getattr(settings, precision.replace("-", "_"), False)]


@dataclass
class _Export:
    """One export: all files are made in a working folder, and moved into ``root/onnx`` when they have passed.

    Attributes:
        student: the folder of ``model``.
        root: folder that gets ``onnx/``.
        gate: scores the smaller files, and a trimmed vocabulary; None where there are none.
        out: where ``root`` will lie, of a baked head or a trimmed vocabulary; None for the student itself.
    """

    settings: ExportSettings
    student: Path
    root: Path
    model: TorchBackend
    gate: AccuracyGate | None
    on_event: OnEvent
    vocabulary: TrimReport | None = None
    out: Path | None = None

    def __post_init__(self) -> None:
        self.onnx = self.root / ModelFiles.onnx
        self.smaller = _smaller(self.settings)
        self.weights = weights_for(self.settings.target)
        kept = self.onnx / OnnxFiles.fp32
        self.kept = kept if self.smaller and kept.exists() and not self.settings.force else None
        recipes = [recipe for precision in self.smaller for rung in FORMATS[precision].rungs for recipe in rung]
        # The CPU that files are for, where one of them may depend on it.
        self.target = str(self.weights.target) if any(recipe.for_target for recipe in recipes) else ""

    def run(self) -> ExportResult:
        """Write everything."""
        self._check_trimming()
        if self.kept is not None:
            try:
                check_equal(self.model, self.kept)
            except ModelError as error:
                raise OutputError(f"{self.kept} is not this student's: {error}; replace it with --force") from None
        with _working_folder(self.onnx) as folder:
            write_fp32(self.model, folder / OnnxFiles.fp32, on_event=self.on_event)
            if self.kept is not None:
                self.on_event(Note(f"{self.kept} gives the student's logits and is kept"))
            tries = self._quantize(folder)
            # Files of an earlier export are this student's for certain only where the fp32 file is.
            entries = read_record(self.onnx) if self.kept is not None else {}
            paths = {precision: folder / FILES[precision] for precision in (Precision.FP32, *self.smaller)}
            times = self._time(paths, entries) if self.settings.latency else {}
            if self.kept is not None:
                paths[Precision.FP32] = self.kept
            files = []
            scores = self.gate.scores if self.gate is not None else None
            for precision, path in paths.items():
                entry = file_entry(path, precision, tries.get(precision, ()), scores, self.settings.max_drop)
                # What is known of a kept file and is not measured again stays.
                entries[path.name] = entries.get(path.name, {}) | entry
                shown = str((self.out or self.root) / ModelFiles.onnx / path.name)
                latency = times.get(path.name, ())
                files.append(ExportedFile(shown, precision, entry["bytes"], entry.get("recipe", ""), latency))
            for name, found in times.items():
                entries[name] |= {"latency": [cell.to_json() for cell in found], "machine": machine_name()}
                if text := slower_than(entries[name], entries[OnnxFiles.fp32]):
                    self.on_event(Note(f"{name} is slower than fp32 here at {text}", warning=True))
            smallest = min(folder.glob("*.onnx"), key=lambda path: path.stat().st_size)
            result = self._result(
                tries,
                files=tuple(files),
                quantized_ops=count_quantized_ops(load_onnx(smallest)),
                bytes_by_part=bytes_by_part(smallest),
                machine=machine_name() if times else "",
                out=str(self.out or ""),
            )
            self._keep(folder, entries, result.gate)
        return result

    def _check_trimming(self) -> None:
        """Refuse a vocabulary that costs too much."""
        result = self._result({})
        if result.gate is not None and not result.gate.passed:
            remedy = "keep more tokens (--vocabulary-size), or " if self.settings.vocabulary_size is not None else ""
            raise GateError(
                f"the trimmed vocabulary loses {result.trim_drop:.2f} points of average dev accuracy, more than "
                f"--max-drop {self.settings.max_drop:g}: nothing was written; {remedy}allow more with --max-drop",
                result=result.to_json(),
            )

    def _quantize(self, folder: Path) -> Tries:
        """Find a recipe for each smaller precision, or raise GateError for the first that has none."""
        if self.gate is None:
            return {}
        if self.target:
            weights = self.weights
            self.on_event(Note(f"int8 for {weights.target}: {weights.bits}-bit signed weights ({weights.why})"))
        search = RecipeSearch(self.student, folder, self.gate, self.weights)
        tries = {precision: search.find(precision) for precision in self.smaller}
        failed = next((found for found in tries.values() if not best_try(found).kept), None)
        if failed is not None:
            best = best_try(failed)
            recipes = "its one recipe" if len(failed) == 1 else f"the best of {len(failed)} recipes ({best.recipe})"
            trimming = self.vocabulary.accuracy_drop if self.vocabulary is not None else 0.0
            kept = self.kept
            files = (ExportedFile(str(kept), Precision.FP32, kept.stat().st_size),) if kept is not None else ()
            raise GateError(
                f"{best.precision} loses {best.drop:.2f} points of average dev accuracy with {recipes}, "
                + (f"{trimming:.2f} of them by trimming, " if trimming > 0 else "")
                + f"more than --max-drop {self.settings.max_drop:g}: nothing was written; allow more with --max-drop, "
                f"or export without --{best.precision}",
                result=self._result(tries, files=files).to_json(),
            )
        return tries

    def _time(self, new: Mapping[Precision, Path], earlier: Iterable[str]) -> Times:
        """Time the new files, and earlier ones in the same turns: times of another hour compare the machine's load."""
        files = {path.name: path for path in new.values()}
        files |= {name: self.onnx / name for name in earlier if name not in files}
        openers = {name: partial(OnnxBackend, self.student, path) for name, path in files.items()}
        return measure_forward(openers, threads=sorted({1, usable_cpus()}), on_event=self.on_event)

    def _result(self, tries: Tries, **facts: Any) -> ExportResult:
        """Return ``facts`` with what the tries and trimming cost."""
        drops = [best_try(found).drop for found in tries.values()]
        if not drops and self.vocabulary is not None:
            drops = [self.vocabulary.accuracy_drop]
        most = self.settings.max_drop
        return ExportResult(
            gate=Gate(most, max(drops), max(drops) <= most) if drops else None,
            tries=tuple(chain.from_iterable(tries.values())),
            target=self.target,
            domain=self.settings.domain,
            vocabulary=self.vocabulary,
            **facts,
        )

    def _keep(self, folder: Path, entries: dict[str, Any], gate: Gate | None) -> None:
        """Put finished files in their places, with their record, stored predictions and card."""
        # The fp32 file made here is one of them even where an earlier one is kept: the others are measured by it.
        graphs = [FILES[precision] for precision in (Precision.FP32, *self.smaller)]
        new = graphs if self.kept is None else graphs[1:]
        stale = sorted(file.name for file in self.onnx.glob("*.onnx") if file.name not in graphs)
        if stale and self.kept is None:
            text = f"{', '.join(stale)} in {self.onnx}: of an earlier export, left as it is"
            self.on_event(Note(text, warning=True))
        write_record(folder, entries)
        described = [ModelFiles.readme]
        if self.root.resolve() != self.student.resolve():
            described += copy_description(self.student, folder)
        write_bundle(folder / PREDICTOR_ARCHIVE)
        if self.settings.runtime:
            described.append(PREDICTOR_ARCHIVE)
        write_cases(self.student, folder, graphs, earlier=self.onnx)
        self.on_event(Note("a fresh process repeated the stored predictions"))
        if self.out is None:
            card = find_card(self.root, self.student)
        else:
            card = variant_card(self.settings, self.model, self.gate, self.vocabulary, title=self.out.name, lost=gate)
        (folder / ModelFiles.readme).write_text(place_section(card, onnx_section(entries)), encoding="utf-8")
        _move_in(folder, described, self.root)
        _move_in(folder, [*new, OnnxFiles.export_record, OnnxFiles.self_check], self.onnx)


def _check_graphs(student: Path, root: Path, names: Sequence[str], *, force: bool) -> None:
    """Refuse to replace a graph of ``root/onnx``, or to put graphs beside the configuration of another model."""
    if root.exists() and not root.is_dir():
        raise OutputError(f"{root}: is a file; give --out a folder")
    if force:
        return
    for file in (root / ModelFiles.onnx / name for name in names):
        if file.exists():
            raise OutputError(f"{file}: exists already; replace it with --force, or write elsewhere with --out")
    own, there = student / ModelFiles.config, root / ModelFiles.config
    if root.resolve() != student.resolve() and there.is_file() and there.read_bytes() != own.read_bytes():
        raise OutputError(
            f"{root}: holds another model ({ModelFiles.config} differs); write elsewhere with --out, or --force"
        )


@contextlib.contextmanager
def _working_folder(target: Path) -> Iterator[Path]:
    """Give a fresh folder beside ``target`` and remove it afterwards, whatever happened."""
    folder = partial_folder(target)
    with explain_write_errors(target, folder):
        try:
            # Left by a run that was killed.
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _move_in(folder: Path, names: Sequence[str], target: Path) -> None:
    """Move finished files into ``target``, replacing those of the same names and no others."""
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        os.replace(folder / name, target / name)  # noqa: PTH105 - atomic, and its name says that it replaces
