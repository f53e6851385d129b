"""The export stage: writes ONNX files, compares them with torch, quantizes them, and checks their dev accuracy."""

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
from hrkd_cli.events import ExportStarted, Note, OnEvent, Progress, ignore
from hrkd_cli.json_files import read_json
from hrkd_cli.layout import PREDICTOR_ARCHIVE, STUDENT_OUT, ModelFiles, OnnxFiles, partial_folder
from hrkd_cli.machine import machine_name, usable_cpus
from hrkd_cli.models.fingerprint import with_calibration
from hrkd_cli.models.model_folder import write_json
from hrkd_cli.models.model_source import check_student
from hrkd_cli.models.torch_backend import TorchBackend
from hrkd_cli.onnx_export.cpu_targets import weight_format_for
from hrkd_cli.onnx_export.export_record import (
    FileEntry,
    describe_file,
    describe_slowdown,
    read_card,
    read_record,
    write_card,
)
from hrkd_cli.onnx_export.export_result import ExportedFile, ExportResult, Gate, Trial, best_trial
from hrkd_cli.onnx_export.gate import AccuracyGate, load_gate_data
from hrkd_cli.onnx_export.graph_editor import OnnxFormat, bytes_by_part
from hrkd_cli.onnx_export.recipe_search import RecipeSearch, estimate_seconds
from hrkd_cli.onnx_export.recipes import FILE_NAMES, FORMATS
from hrkd_cli.onnx_export.self_check_cases import write_cases
from hrkd_cli.onnx_export.trace import check_parity, write_fp32
from hrkd_cli.onnx_export.trimming import TrimReport
from hrkd_cli.onnx_export.variant import config_files, copy_config_files, make_variant, variant_card, variant_folder
from hrkd_cli.outputs import atomic_folder, check_disk_space, clear_leftover, explain_write_errors, locked_folder
from hrkd_cli.predict.backend import OnnxBackend
from hrkd_cli.predict.bundle import write_bundle

Trials = Mapping[OnnxFormat, list[Trial]]
Latencies = Mapping[str, tuple[Latency, ...]]


def export(student: str | Path = STUDENT_OUT, *, on_event: OnEvent = ignore, **options: Any) -> ExportResult:
    """Write a student's ONNX files into its ``onnx`` folder: fp32, and the smaller formats in ``options``.

    The fp32 file must have torch's logits. A smaller file may lose at most ``max_drop`` points of average dev accuracy;
    if it loses more, safer recipes are tried. A fresh process repeats stored predictions. Files appear only after all
    checks have passed. Other files in ``onnx/`` stay, also an existing fp32 file with the student's logits. With
    ``domain`` or a trimmed vocabulary, the output is a separate model folder.

    After an export, ``runtime`` alone only adds the single-file runtime.

    Args:
        student: local model folder.
        on_event: called with every event.
        **options: fields of ``hrkd_cli.command_settings.ExportSettings``.

    Raises:
        UsageError: invalid value of an option.
        ModelError: not a classifier's folder, or an ONNX file that differs from it.
        OutputError: a file exists, or cannot be written.
        DataError: no data for the gate, or data that does not fit the model.
        GateError: every recipe of a format loses too much accuracy; nothing was written.
    """
    settings = ExportSettings(student=Path(student), **options)
    folder = settings.student
    check_student(folder)
    smaller_formats = _smaller_formats(settings)
    is_variant = settings.domain is not None or settings.trims
    if is_variant:
        root = variant_folder(settings)
    else:
        root = settings.out or folder
        if settings.runtime and not (smaller_formats or settings.force):
            read_json(root / ModelFiles.onnx / OnnxFiles.export_record, missing_ok=True)  # an error if it is damaged
            if read_record(root / ModelFiles.onnx):
                on_event(ExportStarted({}))
                return _add_runtime(root)
        file_names = [FILE_NAMES[onnx_format] for onnx_format in smaller_formats or [OnnxFormat.FP32]]
        _check_output(folder, root, file_names, force=settings.force)
    on_event(Progress("loading the student"))
    model = TorchBackend(folder, device="cpu")
    data = load_gate_data(settings, required=bool(smaller_formats) or settings.trims, on_event=on_event)
    if not is_variant:
        gate = AccuracyGate(settings, model, *data, on_event=on_event) if data is not None else None
        return _Export(settings, folder, root, model, gate, on_event).run()
    with atomic_folder(root) as work:
        model, gate, vocabulary = make_variant(settings, model, data, work, root, on_event=on_event)
        return _Export(settings, work, work, model, gate, on_event, vocabulary=vocabulary, out=root).run()


def _smaller_formats(settings: ExportSettings) -> list[OnnxFormat]:
    """Return the requested formats except fp32, which is always written and has no option."""
    return [onnx_format for onnx_format in FORMATS if getattr(settings, onnx_format.replace("-", "_"), False)]


@dataclass
class _Export:
    """One export: makes all files in a working folder and moves them into ``root/onnx`` after all checks.

    Attributes:
        student: folder of ``model``.
        root: folder that gets ``onnx/``.
        gate: scores smaller files and a trimmed vocabulary; None if there are none.
        vocabulary: what was trimmed.
        out: final location of ``root`` for a single-domain or trimmed export; None for the student itself.
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
        self.onnx_folder = self.root / ModelFiles.onnx
        self.smaller_formats = _smaller_formats(self.settings)
        self.formats = (OnnxFormat.FP32, *self.smaller_formats)
        self.file_names = [FILE_NAMES[onnx_format] for onnx_format in self.formats]
        self.weight_format = weight_format_for(self.settings.target)
        fp32 = self.onnx_folder / OnnxFiles.fp32
        self.existing_fp32 = fp32 if self.smaller_formats and fp32.exists() and not self.settings.force else None
        tiers = chain.from_iterable(FORMATS[onnx_format].tiers for onnx_format in self.smaller_formats)
        target_specific = any(recipe.target_specific for tier in tiers for recipe in tier)
        # The CPU that the files are for; empty if no file depends on it.
        self.target = str(self.weight_format.target) if target_specific else ""

    def run(self) -> ExportResult:
        """Write the files and return what was written."""
        self._check_trimming()
        entries = _read_earlier_record(self)
        _estimate_cost(self)
        with _working_folder(self.onnx_folder) as folder:
            write_fp32(self.model, folder / OnnxFiles.fp32, on_event=self.on_event)
            trials = self._quantize(folder)
            if self.existing_fp32 is not None:
                shutil.copy2(self.existing_fp32, folder / OnnxFiles.fp32)
                self.on_event(Note(f"{self.existing_fp32} gives the student's logits and is kept"))
            calibration = self._calibrations(trials, entries)
            latencies: Latencies = {}
            if self.settings.latency:
                # New and earlier files together, because the load of the machine changes over time.
                timed = {name: self.onnx_folder / name for name in entries}
                timed |= {name: folder / name for name in self.file_names}
                openers = {name: partial(OnnxBackend, self.student, path) for name, path in timed.items()}
                latencies = measure_forward(openers, threads=sorted({1, usable_cpus()}), on_event=self.on_event)
            files = self._describe_files(folder, trials, latencies, entries)
            smallest = min(folder.glob("*.onnx"), key=lambda path: path.stat().st_size)
            result = self._result(
                trials,
                files=files,
                quantized_ops=count_quantized_ops(load_onnx(smallest)),
                bytes_by_part=bytes_by_part(smallest),
                machine=machine_name() if latencies else "",
                out=str(self.out or ""),
            )
            self._publish(folder, entries, calibration, result.gate)
        return result

    def _check_trimming(self) -> None:
        """Raise GateError if the trimmed vocabulary loses too much accuracy."""
        result = self._result({})
        if result.gate is not None and not result.gate.passed:
            remedy = "keep more tokens (--vocabulary-size), or " if self.settings.vocabulary_size is not None else ""
            raise GateError(
                f"the trimmed vocabulary loses {result.trim_drop:.2f} points of average dev accuracy, more than "
                f"--max-drop {self.settings.max_drop:g}: nothing was written; {remedy}allow more with --max-drop",
                result=result.to_json(),
            )

    def _quantize(self, folder: Path) -> Trials:
        """Write the smaller files into ``folder``; raise GateError if no recipe of a format passes."""
        if self.gate is None:
            return {}
        if self.target:
            weights = self.weight_format
            self.on_event(Note(f"int8 for {weights.target}: {weights.bits}-bit signed weights ({weights.reason})"))
        search = RecipeSearch(self.student, folder, self.gate, self.weight_format)
        trials = {onnx_format: search.find(onnx_format) for onnx_format in self.smaller_formats}
        for format_trials in trials.values():
            if not best_trial(format_trials).kept:
                raise self._gate_error(trials, format_trials)
        return trials

    def _gate_error(self, trials: Trials, failed: Sequence[Trial]) -> GateError:
        """Return the error for a format whose trials all failed."""
        best = best_trial(failed)
        recipes = "its one recipe" if len(failed) == 1 else f"the best of {len(failed)} recipes ({best.recipe})"
        fp32 = self.existing_fp32
        files = (ExportedFile(str(fp32), OnnxFormat.FP32, fp32.stat().st_size),) if fp32 is not None else ()
        result = self._result(trials, files=files)
        return GateError(
            f"{best.precision} loses {best.drop:.2f} points of average dev accuracy with {recipes}, "
            + (f"{result.trim_drop:.2f} of them by trimming, " if result.trim_drop > 0 else "")
            + f"more than --max-drop {self.settings.max_drop:g}: nothing was written; allow more with --max-drop, "
            f"or export without --{best.precision}",
            result=result.to_json(),
        )

    def _calibrations(self, trials: Trials, earlier: Iterable[str]) -> dict[str, Any]:
        """Return the calibration of each file, also of ``earlier`` ones that stay.

        Without dev data, a single-domain export has the student's temperature, but no thresholds.
        """
        config = read_json(self.root / ModelFiles.config, missing_ok=True)
        stored = (config.get("hrkd") or {}).get("calibration") or {}
        entries = {name: stored[name] for name in stored if name in earlier}
        if self.gate is not None:
            entries[OnnxFiles.fp32] = self.gate.calibrate(self.gate.logits)
        elif self.out is not None and OnnxFiles.fp32 in stored:
            entries[OnnxFiles.fp32] = stored[OnnxFiles.fp32] | {"thresholds": {}}
        elif not entries:
            self.on_event(Note("no dev rows, so probabilities are not calibrated; name the student's data with --data"))
        return entries | {FILE_NAMES[name]: best_trial(tried).calibration for name, tried in trials.items()}

    def _describe_files(
        self, folder: Path, trials: Trials, latencies: Latencies, entries: dict[str, FileEntry]
    ) -> tuple[ExportedFile, ...]:
        """Return the requested files, and add them and all latencies to ``entries``."""
        files = []
        scores = self.gate.scores if self.gate is not None else None
        for onnx_format, name in zip(self.formats, self.file_names, strict=True):
            tried = trials.get(onnx_format, ())
            entry = describe_file(folder / name, onnx_format, tried, scores, self.settings.max_drop)
            if onnx_format is OnnxFormat.FP32 and self.existing_fp32 is not None:
                entry = entries.get(name, {}) | entry  # facts that were not measured again stay
            entries[name] = entry
            path = str((self.out or self.root) / ModelFiles.onnx / name)
            recipe, latency = entry.get("recipe", ""), latencies.get(name, ())
            files.append(ExportedFile(path, onnx_format, entry["bytes"], recipe, latency))
        for name, latency in latencies.items():
            entries[name] |= {"latency": [cell.to_json() for cell in latency], "machine": machine_name()}
            if where := describe_slowdown(entries[name], entries[OnnxFiles.fp32]):
                self.on_event(Note(f"{name} is slower than fp32 here at {where}", warning=True))
        return tuple(files)

    def _result(self, trials: Trials, **fields: Any) -> ExportResult:
        """Return ``fields`` with the trials and the result of the gate."""
        drops = [best_trial(format_trials).drop for format_trials in trials.values()]
        if not drops and self.vocabulary is not None:
            drops = [self.vocabulary.accuracy_drop]
        max_drop = self.settings.max_drop
        return ExportResult(
            gate=Gate(max_drop, max(drops), max(drops) <= max_drop) if drops else None,
            tries=tuple(chain.from_iterable(trials.values())),
            target=self.target,
            domain=self.settings.domain,
            vocabulary=self.vocabulary,
            **fields,
        )

    def _publish(
        self, folder: Path, entries: dict[str, FileEntry], calibration: Mapping[str, Any], gate: Gate | None
    ) -> None:
        """Write configuration, export.json, self-check cases and card, and move all finished files into place."""
        write_json(folder / OnnxFiles.export_record, {"format": 1, "files": dict(sorted(entries.items()))})
        # The fresh process, and the checksums, need the final configuration.
        root_files = copy_config_files(self.student, folder)
        config = folder / ModelFiles.config
        config.write_bytes(with_calibration(config, calibration))
        if self.root.resolve() == self.student.resolve():
            root_files = [ModelFiles.config]
        root_files.append(ModelFiles.readme)
        write_bundle(folder / PREDICTOR_ARCHIVE)
        if self.settings.runtime:
            root_files.append(PREDICTOR_ARCHIVE)
        self.on_event(Progress("repeating the stored predictions in a fresh process"))
        unclear = write_cases(folder, self.file_names, earlier=self.onnx_folder, kept=entries)
        listed = read_json(folder / OnnxFiles.self_check)["files"]
        if stale := sorted({file.name for file in self.onnx_folder.glob("[!.]*.onnx")} - {*listed}):
            text = f"{', '.join(stale)} in {self.onnx_folder}: left from an earlier export, unchanged"
            self.on_event(Note(f"{text}; until deleted, the self-check fails", warning=True))
        if unclear:
            text = f"{', '.join(unclear)}: the logits of all labels are almost equal, so the self-check cannot pass"
            self.on_event(Note(text, warning=True))
        if self.out is None:
            card = read_card(self.root, self.student)
        else:
            card = variant_card(
                self.settings, self.model, self.gate, self.vocabulary, title=self.out.name, gate_result=gate
            )
        write_card(folder, card, entries)
        _move_files(folder, root_files, self.root)
        _move_files(folder, [*self.file_names, OnnxFiles.export_record, OnnxFiles.self_check], self.onnx_folder)


def _read_earlier_record(export: _Export) -> dict[str, FileEntry]:
    """Return the record of this student's earlier export; raise OutputError if another's fp32 file would stay."""
    fp32 = export.onnx_folder / OnnxFiles.fp32
    if not fp32.exists():
        return {}
    try:
        check_parity(export.model, fp32)
    except ModelError as error:
        if export.existing_fp32 is not None:
            raise OutputError(f"{fp32} is not this student's: {error}; replace it with --force") from None
        return {}
    return read_record(export.onnx_folder)


def _estimate_cost(export: _Export) -> None:
    """Emit what the export will write and what it takes; raise OutputError if the disk is too small."""
    sizes = {name: FORMATS[name].estimate_bytes(export.model.network) for name in export.formats}
    out = export.out or export.root
    files = {str(out / ModelFiles.onnx / FILE_NAMES[name]): size for name, size in sizes.items()}
    if export.existing_fp32 is not None:
        del files[str(export.existing_fp32)]
    if export.out is not None:
        files |= {str(out / path.name): path.stat().st_size for path in export.root.glob("*.safetensors")}
    tiers = {name: FORMATS[name].tiers_for(export.weight_format) for name in export.smaller_formats}
    recipes = {str(name): sum(map(len, each)) for name, each in tiers.items()}
    timed = len(sizes) * export.settings.latency
    # In the working folder: all files, and the one that is tried.
    disk = sum(sizes.values()) + max([sizes[name] for name in tiers], default=0)
    check_disk_space(out, disk)
    dev_rows, scoring = (export.gate.row_count, export.gate.seconds) if export.gate is not None else (0, 0.0)
    first, last = (
        estimate_seconds(sizes[OnnxFormat.FP32], scoring, len(tiers), trials, timed)
        for trials in (sum(len(each[0]) for each in tiers.values()), sum(recipes.values()))
    )
    export.on_event(ExportStarted(files, recipes, dev_rows, first, last, disk, export.model.parameters or 0))


def _add_runtime(root: Path) -> ExportResult:
    """Write the single-file runtime next to the files of an earlier export."""
    onnx_folder = root / ModelFiles.onnx
    with _working_folder(onnx_folder) as work:
        write_bundle(work / PREDICTOR_ARCHIVE)
        _move_files(work, [PREDICTOR_ARCHIVE], root)
    entries = read_record(onnx_folder).items()
    return ExportResult(
        tuple(ExportedFile(str(onnx_folder / name), entry["precision"], entry["bytes"]) for name, entry in entries)
    )


def _check_output(student: Path, root: Path, file_names: Sequence[str], *, force: bool) -> None:
    """Raise OutputError if ``root`` holds another model or other files, or one of ``file_names`` already."""
    if root.exists() and not root.is_dir():
        raise OutputError(f"{root}: is a file; give --out a folder")
    config, existing = student / ModelFiles.config, root / ModelFiles.config
    differs = existing.is_file() and with_calibration(existing, {}) != with_calibration(config, {})
    if differs and any(root.glob("*.safetensors")):
        raise OutputError(f"{root}: holds another model ({ModelFiles.config} differs); write elsewhere with --out")
    if force:
        return
    files = [root / ModelFiles.onnx / name for name in file_names]
    if not existing.is_file():
        names = [*config_files(student), ModelFiles.readme, PREDICTOR_ARCHIVE]
        files += [root / name for name in names]
    for file in files:
        if file.exists():
            raise OutputError(f"{file}: exists already; replace it with --force, or write elsewhere with --out")
    if differs:
        raise OutputError(
            f"{root}: holds the {ModelFiles.config} of another model; write elsewhere with --out, or replace it with "
            "--force"
        )


@contextlib.contextmanager
def _working_folder(target: Path) -> Iterator[Path]:
    """Yield a new, empty folder next to ``target``, and remove it afterwards."""
    folder = partial_folder(target)
    with explain_write_errors(target, folder):
        clear_leftover(folder)
        with locked_folder(folder):
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)


def _move_files(folder: Path, names: Sequence[str], target: Path) -> None:
    """Move files into ``target``; files of the same names are replaced, others stay."""
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        os.replace(folder / name, target / name)  # noqa: PTH105 - replaces atomically
