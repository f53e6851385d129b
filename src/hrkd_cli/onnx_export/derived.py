"""Folders of their own: a student with one head baked in, with a trimmed vocabulary, or both."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from hrkd_cli.data.dataset import Dataset
from hrkd_cli.errors import DataError, GateError, ModelError, UsageError
from hrkd_cli.evaluation.metrics import DomainScores
from hrkd_cli.evaluation.scoring import fit_heads, mean_accuracy, predict_labels, score_labels
from hrkd_cli.events import Event, Note, OnEvent, ignore
from hrkd_cli.models.backend import TorchBackend, load_encoder_parts
from hrkd_cli.models.folder import is_stage_folder
from hrkd_cli.onnx_export.baking import bake_head, check_domain
from hrkd_cli.onnx_export.derived_folder import Derived, default_out, write_card, write_model, write_record
from hrkd_cli.onnx_export.gate import SPLIT, load_gate_data
from hrkd_cli.onnx_export.result import ExportResult, Gate
from hrkd_cli.onnx_export.trimming import Trimmed, TrimReport, apply_trim, plan_trim
from hrkd_cli.outputs import check_apart, check_output, whole_folder
from hrkd_cli.predict.backend import Backend

TOLERANCE = 1e-4
"""Largest difference of logits between the student and what was cut from it: the same numbers, added up in another
order."""

_PROBE_ROWS, _PROBE_TOKENS = 8, 32


@dataclass(frozen=True, slots=True, kw_only=True)
class DerivedOptions:
    """What is cut; at least one of the first two.

    Attributes:
        domain: bake this domain's head; None keeps all heads.
        trim: drop tokens that the data does not use.
        vocabulary_size: most tokens to keep; None for all that are used.
        max_drop: points of average dev accuracy that trimming and quantising may lose together.
    """

    domain: str | None
    trim: bool
    vocabulary_size: int | None
    max_drop: float


@dataclass(frozen=True, slots=True)
class DerivedResult(ExportResult):
    """An export into a folder of its own.

    Attributes:
        out: the folder.
        domain: the baked domain; None for all heads.
        vocabulary: what trimming kept and dropped; None without it.
        trim_drop: points of average dev accuracy that trimming cost; 0 without it.
    """

    out: str = ""
    domain: str | None = None
    vocabulary: TrimReport | None = None
    trim_drop: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain values."""
        found = ExportResult.to_json(self) | {"out": self.out, "domain": self.domain}
        if self.vocabulary is not None:
            found["vocabulary"] = {**self.vocabulary.to_json(), "accuracy_drop": self.trim_drop}
        return found


def export_derived(
    student: Path,
    options: DerivedOptions,
    write_files: Callable[..., ExportResult],
    *,
    data: str | Path | None = None,
    out: str | Path | None = None,
    force: bool = False,
    on_event: OnEvent = ignore,
) -> DerivedResult:
    """Cut a student, check that it still answers the same, and export it into a folder of its own.

    Args:
        student: the model folder.
        options: what is cut.
        write_files: writes and gates the ONNX files of a model folder; called with the folder, ``max_drop``, ``data``
            and ``on_event``.
        data: data of the gate and, for trimming, of the tokens; None for what the student was made from.
        out: the folder to write; None for one beside the student.
        force: replace an earlier export there.
        on_event: told what is being done.

    Raises:
        UsageError: an option that no run could use.
        ModelError: a student without that domain, or that cannot be cut.
        DataError: no data, or data that does not fit.
        OutputError: the folder exists, or cannot be written.
        GateError: too much accuracy was lost; nothing was written.
    """
    if options.vocabulary_size is not None and options.vocabulary_size < 1:
        raise UsageError(f"--vocabulary-size: {options.vocabulary_size} is not a number of tokens of at least 1")
    if not student.is_dir():
        raise ModelError(f"{student}: no such folder; name a student's folder, or run hrkd distill first")
    root = Path(out) if out is not None else default_out(student, options.domain, trim=options.trim)
    check_apart(root, {"student": student})
    check_output(root, kind="model", is_ours=lambda folder: is_stage_folder(folder, "export"), force=force)
    own = TorchBackend(student, device="cpu")
    if options.domain is not None:
        check_domain(own.spec, options.domain, str(student))
    on_event = _once(on_event)
    dataset, name = _load(student, options, data, on_event) if options.trim else (None, data)
    with whole_folder(root) as work:
        derived = _cut(own, student, options, dataset, work, on_event)
        if dataset is not None:
            derived = _gate(derived, own, dataset, str(name), options, work, on_event)
        write_record(derived, work, root)
        write_card(derived, work, root)
        result = _files(derived, write_files, options, name, work, on_event)
        found = _finished(result, derived, options, work, root)
        if found.gate is not None and derived.report is not None:
            write_card(derived, work, root, found.gate)
    return found


def _once(on_event: OnEvent) -> OnEvent:
    """Pass each sentence on once: the data is opened for trimming, and again for the gate of the files."""
    told: set[str] = set()

    def tell(event: Event) -> None:
        if isinstance(event, Note):
            if event.text in told:
                return
            told.add(event.text)
        on_event(event)

    return tell


def _load(
    student: Path, options: DerivedOptions, data: str | Path | None, on_event: OnEvent
) -> tuple[Dataset, str | Path]:
    """Open the data whose train split names the tokens and whose dev split is the unseen text."""
    dataset, name = load_gate_data(student, data, on_event=on_event)
    if options.domain is not None and options.domain not in dataset.labels:
        raise DataError(f"{name}: no domain {options.domain!r}; it has {', '.join(dataset.domains)}")
    scored = dataset.only(options.domain) if options.domain is not None else dataset
    for split, rows in (("train", dataset), (SPLIT, scored)):
        if not any(len(rows.split(domain, split)) for domain in rows.domains):
            raise DataError(
                f"{name}: no {split} rows; trimming keeps the tokens of the train split and is judged on the dev "
                "split: divide the data with hrkd prepare, and name that folder with --data"
            )
    return dataset, name


def _cut(
    own: TorchBackend, student: Path, options: DerivedOptions, dataset: Dataset | None, work: Path, on_event: OnEvent
) -> Derived:
    """Write the smaller model into ``work``, and make sure that it answers as the student does."""
    model = copy.deepcopy(own.model)
    columns = list(range(int(model.config.num_labels)))
    if options.domain is not None and own.spec.heads is not None:
        on_event(Note(f"keeping the head of {options.domain}"))
        columns = list(own.spec.heads.columns[options.domain])
        bake_head(model, own.spec, options.domain)
    trimmed: Trimmed | None = None
    if dataset is not None:
        on_event(Note("counting the tokens of the train split"))
        _, tokenizer = load_encoder_parts(student)
        trimmed = plan_trim(tokenizer, model.config.to_dict(), dataset, options.vocabulary_size, domain=options.domain)
        apply_trim(model, trimmed.rows)
        on_event(Note(f"keeping {trimmed.report.after:,} of {trimmed.report.before:,} tokens"))
    write_model(model, trimmed, student, work, max_length=own.spec.max_length)
    _check_same(own, TorchBackend(work, device="cpu"), columns, trimmed.rows if trimmed else None)
    return Derived(student=student, spec=own.spec, domain=options.domain, report=trimmed.report if trimmed else None)


def _check_same(own: TorchBackend, cut: TorchBackend, columns: list[int], rows: tuple[int, ...] | None) -> None:
    """Compare logits on random tokens of the smaller vocabulary, in rows of several lengths.

    Raises:
        ModelError: they differ.
    """
    random = np.random.default_rng(0)
    size = int(cut.model.config.vocab_size)
    tokens = min(_PROBE_TOKENS, cut.encoder.max_length)
    ids = random.integers(0, size, size=(_PROBE_ROWS, tokens))
    # The padding id inside a text would make a row that no tokenizer gives.
    ids = np.where(ids == cut.encoder.pad_id, (cut.encoder.pad_id + 1) % size, ids)
    mask = (np.arange(tokens) < np.linspace(tokens, 1, _PROBE_ROWS).astype(int)[:, None]).astype(np.int64)
    new = np.where(mask, ids, cut.encoder.pad_id)
    old = new if rows is None else np.where(mask, np.array(rows)[ids], own.encoder.pad_id)
    types = np.zeros_like(new)
    arrays = ({"input_ids": i, "attention_mask": mask, "token_type_ids": types} for i in (old, new))
    expected, found = (backend.forward(a) for backend, a in zip((own, cut), arrays, strict=True))
    difference = float(np.abs(expected[:, columns] - found).max())
    if not difference <= TOLERANCE:  # nan too
        raise ModelError(
            f"the smaller model's logits differ from the student's by {difference:.2g}; nothing was written"
        )


def _gate(
    derived: Derived,
    own: TorchBackend,
    dataset: Dataset,
    name: str,
    options: DerivedOptions,
    work: Path,
    on_event: OnEvent,
) -> Derived:
    """Score student and trimmed student on dev.

    Raises:
        GateError: too much was lost.
    """
    scored = dataset.only(options.domain) if options.domain is not None else dataset
    before = _scores(own, scored, str(derived.student), name, "scoring the student on dev", on_event)
    cut = TorchBackend(work, device="cpu")
    after = _scores(cut, scored, str(derived.student), name, "scoring the trimmed student on dev", on_event)
    drop = round(100 * (mean_accuracy(before) - mean_accuracy(after)), 6)
    derived = replace(derived, before=before, after=after, trim_drop=drop, dataset=dataset, data=name)
    if drop > options.max_drop:
        report = derived.report.to_json() if derived.report else {}
        remedy = "keep more tokens (--vocabulary-size), or " if options.vocabulary_size is not None else ""
        raise GateError(
            f"the trimmed vocabulary loses {drop:.2f} points of average dev accuracy, more than --max-drop "
            f"{options.max_drop:g}: nothing was written; {remedy}allow more with --max-drop",
            result={
                "files": [],
                "gate": Gate(options.max_drop, drop, False).to_json(),
                "vocabulary": {**report, "accuracy_drop": drop},
            },
        )
    return derived


def _scores(
    backend: Backend, dataset: Dataset, model: str, data: str, task: str, on_event: OnEvent
) -> dict[str, DomainScores]:
    heads = fit_heads(backend, dataset, SPLIT, model, data)
    labels = predict_labels(backend, heads, dataset, SPLIT, task=task, on_event=on_event)
    return score_labels(labels, heads, dataset, SPLIT)


def _files(
    derived: Derived,
    write_files: Callable[..., ExportResult],
    options: DerivedOptions,
    data: str | Path | None,
    work: Path,
    on_event: OnEvent,
) -> ExportResult:
    """Export the smaller model; quantising may lose what trimming left of ``max_drop``."""
    left = round(max(options.max_drop - derived.trim_drop, 0.0), 6)
    try:
        # What is named as data by default is found through the folder's record, as it is later.
        return write_files(work, max_drop=left, data=data, on_event=on_event)
    except GateError as error:
        result = dict(error.result or {})
        if isinstance(result.get("gate"), dict):
            gate = result["gate"]
            drop = round(gate["drop"] + derived.trim_drop, 6)
            result["gate"] = {**gate, "max_drop": options.max_drop, "drop": drop}
        if isinstance(result.get("tries"), list):
            result["tries"] = [{**one, "drop": round(one["drop"] + derived.trim_drop, 6)} for one in result["tries"]]
        cost = f"trimming lost {derived.trim_drop:.2f} points already, and then " if derived.trim_drop > 0 else ""
        raise GateError(f"{cost}{error}", result=result) from None


def _finished(result: ExportResult, derived: Derived, options: DerivedOptions, work: Path, root: Path) -> DerivedResult:
    """Describe the files at the place where they will lie, and what was lost altogether, from the student on."""

    def whole(gate: Gate) -> Gate:
        return replace(gate, max_drop=options.max_drop, drop=round(gate.drop + derived.trim_drop, 6))

    gate = whole(result.gate) if result.gate is not None else None
    if gate is None and derived.report is not None:
        gate = Gate(options.max_drop, derived.trim_drop, True)
    changed = {
        "files": tuple(
            replace(f, path=str(root / Path(f.path).resolve().relative_to(work.resolve()))) for f in result.files
        ),
        "gate": gate,
        "tries": tuple(replace(one, gate=whole(one.gate)) for one in result.tries),
    }
    return DerivedResult(
        **{field.name: getattr(result, field.name) for field in fields(result)} | changed,
        out=str(root),
        domain=derived.domain,
        vocabulary=derived.report,
        trim_drop=derived.trim_drop,
    )
