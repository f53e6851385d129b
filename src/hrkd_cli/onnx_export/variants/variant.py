"""A student with one head baked in, with a trimmed vocabulary, or both: a model folder of its own."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from hrkd_cli.choices import Truncate
from hrkd_cli.data.dataset import Dataset
from hrkd_cli.errors import DataError, GateError, ModelError, UsageError
from hrkd_cli.evaluation.inputs import common_rows
from hrkd_cli.evaluation.metrics import DomainScores
from hrkd_cli.events import Note, OnEvent
from hrkd_cli.layout import MODEL
from hrkd_cli.models.backend import TorchBackend, load_encoder_parts
from hrkd_cli.models.folder import is_stage_folder, model_card
from hrkd_cli.onnx_export.gate import SPLIT, AccuracyGate, points_lost
from hrkd_cli.onnx_export.result import Gate
from hrkd_cli.onnx_export.variants.folder import STAGE, write_model, write_record
from hrkd_cli.onnx_export.variants.head import bake_head
from hrkd_cli.onnx_export.variants.trimming import TrimReport, trim_embeddings, trim_tokenizer
from hrkd_cli.onnx_export.verify import probes
from hrkd_cli.outputs import check_apart, check_output
from hrkd_cli.predict.folder import read_json_or_empty

TOLERANCE = 1e-4
"""Largest difference of logits between the student and the smaller model: the same numbers, added up in another
order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """What is cut; nothing where the first two are not set.

    Attributes:
        domain: bake this domain's head; None keeps all heads.
        trim: drop tokens that the data does not use.
        vocabulary_size: most tokens to keep; None for all that are used.
    """

    domain: str | None
    trim: bool
    vocabulary_size: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """The smaller model, in a folder that is not in its place yet.

    Attributes:
        student: the folder that it was made from.
        out: where it will lie.
        model: the smaller model.
        domain: the baked domain; None for all heads.
        gate: scores its graphs, counting from the student; None where no data was loaded.
        report: what trimming kept and dropped; None without it.
        trim_gate: what trimming cost; None without it.
        before: the student's dev scores by domain, where trimming scored them.
    """

    student: Path
    out: Path
    model: TorchBackend
    domain: str | None
    gate: AccuracyGate | None = None
    report: TrimReport | None = None
    trim_gate: Gate | None = None
    before: Mapping[str, DomainScores] = field(default_factory=dict)

    @property
    def trim_drop(self) -> float:
        """Points of average dev accuracy that trimming cost; 0 without it."""
        return self.trim_gate.drop if self.trim_gate is not None else 0.0

    def card(self, lost: Gate | None) -> str:
        """Write the README.md.

        Args:
            lost: what trimming and quantizing cost together.
        """
        spec = self.model.spec
        what = [f"Made from the student `{self.student.resolve().name}` with hrkd-cli."]
        if self.domain is not None:
            labels = ", ".join(spec.all_heads.labels[self.domain])
            what.append(f"The head of the domain `{self.domain}` alone: one output for each of its labels ({labels}).")
            what += ["It gives the student's own logits."] if self.report is None else []
        if self.report is not None:
            what.append(f"Vocabulary trimmed from {self.report.before:,} to {self.report.after:,} tokens.")
        trimmed = self.report is not None and self.gate is not None
        return model_card(
            title=self.out.name,
            what=" ".join(what),
            heads=spec.all_heads,
            scores=_plain(self.gate.scores) if trimmed and self.gate is not None else self._recorded_scores(),
            max_length=spec.max_length,
            truncate=Truncate(spec.truncate),
            baked=self.domain,
            before=_plain(self.before) if trimmed else None,
            lost=lost.to_json() if lost is not None and trimmed else None,
            vocabulary=self.report.to_json() if self.report is not None else None,
        )

    def _recorded_scores(self) -> dict[str, Any]:
        """Return the student's dev scores as its record has them; empty where it has none."""
        results = read_json_or_empty(self.student / MODEL.run).get("results") or {}
        domains = ((results.get("best") or {}).get("dev") or {}).get("domains") or {}
        return {name: one for name, one in domains.items() if self.domain in (None, name)}


def check_cut(student: Path, cut: Cut, out: str | Path | None, *, force: bool) -> Path:
    """Refuse what no run could do, and return the folder to write.

    Raises:
        UsageError: a vocabulary without tokens, or a folder that would replace the student.
        ModelError: no such student.
        OutputError: the folder exists.
    """
    if cut.vocabulary_size is not None and cut.vocabulary_size < 1:
        raise UsageError(f"--vocabulary-size: {cut.vocabulary_size} is not a number of tokens of at least 1")
    if not student.is_dir():
        raise ModelError(f"{student}: no such folder; name a student's folder, or run hrkd distill first")
    folder = student if student.name not in ("", "..") else student.resolve()
    name = "-".join(
        [folder.name, *([cut.domain] if cut.domain is not None else []), *(["trimmed"] if cut.trim else [])]
    )
    root = Path(out) if out is not None else folder.with_name(name)
    check_apart(root, {"student": student})
    check_output(root, kind="model", is_ours=lambda folder: is_stage_folder(folder, STAGE), force=force)
    return root


def make_variant(
    own: TorchBackend,
    student: Path,
    cut: Cut,
    loaded: tuple[Dataset, str] | None,
    work: Path,
    out: Path,
    *,
    max_drop: float,
    on_event: OnEvent,
) -> Variant:
    """Write the smaller model into ``work``, check that it answers as the student does, and score it.

    Args:
        own: the student.
        student: its folder.
        cut: what is cut.
        loaded: data of the gate and, for trimming, of the tokens, and what it is called; None where none is needed.
        work: the folder to write.
        out: where it will lie.
        max_drop: points of average dev accuracy that trimming may lose.
        on_event: told what is being done.

    Raises:
        ModelError: a student without that domain, or that cannot be cut.
        DataError: data that does not fit.
        GateError: trimming lost too much accuracy.
    """
    model = copy.deepcopy(own.model)
    columns = list(range(int(model.config.num_labels)))
    if cut.domain is not None:
        columns = bake_head(model, own.spec, cut.domain, str(student))
        on_event(Note(f"keeping the head of {cut.domain}"))
    trimmed = None
    if cut.trim and loaded is not None:
        _check_rows(*loaded, cut.domain)
        on_event(Note("counting the tokens of the train split"))
        _, tokenizer = load_encoder_parts(student)
        config = model.config.to_dict()
        trimmed = trim_tokenizer(tokenizer, config, loaded[0], cut.vocabulary_size, domain=cut.domain)
        trim_embeddings(model, trimmed.rows)
        on_event(Note(f"keeping {trimmed.report.after:,} of {trimmed.report.before:,} tokens"))
    write_model(model, trimmed, student, work, max_length=own.spec.max_length)
    new = TorchBackend(work, device="cpu")
    _check_same(own, new, columns, trimmed.rows if trimmed else None)
    report = trimmed.report if trimmed else None
    data = loaded[0] if loaded is not None and trimmed else None
    write_record(student, cut.domain, report, data, work, out)
    variant = Variant(student=student, out=out, model=new, domain=cut.domain, report=report)
    return _gated(variant, own, *loaded, max_drop=max_drop, cut=cut, on_event=on_event) if loaded else variant


def _check_rows(dataset: Dataset, name: str, domain: str | None) -> None:
    """Make sure that there is a train split, which names the tokens, and a dev split, the unseen text."""
    if domain is not None and domain not in dataset.labels:
        raise DataError(f"{name}: no domain {domain!r}; it has {', '.join(dataset.domains)}")
    scored = dataset.only(domain) if domain is not None else dataset
    for split, rows in (("train", dataset), (SPLIT, scored)):
        if not any(len(rows.split(one, split)) for one in rows.domains):
            raise DataError(
                f"{name}: no {split} rows; trimming keeps the tokens of the train split and is judged on the dev "
                "split: divide the data with hrkd prepare, and name that folder with --data"
            )


def _check_same(own: TorchBackend, new: TorchBackend, columns: list[int], rows: tuple[int, ...] | None) -> None:
    """Compare logits on random tokens of the smaller vocabulary.

    Raises:
        ModelError: they differ.
    """
    old_ids = np.array(rows) if rows is not None else np.arange(int(own.model.config.vocab_size))
    for arrays in probes(new):
        mask, ids = arrays["attention_mask"], arrays["input_ids"]
        same = {"attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        expected = own.forward({**same, "input_ids": np.where(mask, old_ids[ids], own.encoder.pad_id)})[:, columns]
        difference = float(np.abs(expected - new.forward({**same, "input_ids": ids})).max())
        if not difference <= TOLERANCE:  # nan too
            raise ModelError(
                f"the smaller model's logits differ from the student's by {difference:.2g}; nothing was written"
            )


def _gated(
    variant: Variant, own: TorchBackend, dataset: Dataset, name: str, *, max_drop: float, cut: Cut, on_event: OnEvent
) -> Variant:
    """Add the gate of its graphs; a trimmed model is scored against the student first.

    Raises:
        GateError: too much was lost.
    """
    scored = common_rows([variant.model.where], dataset, name)
    student = str(variant.student)
    if variant.report is None:
        gate = AccuracyGate(variant.model, scored, model=student, data=name, on_event=on_event)
        return replace(variant, gate=gate)
    before = AccuracyGate(own, scored, model=student, data=name, on_event=on_event)
    gate = AccuracyGate(variant.model, scored, model=student, data=name, reference=before.before, on_event=on_event)
    drop = points_lost(before.before, gate.before)
    trim_gate = Gate(max_drop, drop, drop <= max_drop)
    if not trim_gate.passed:
        remedy = "keep more tokens (--vocabulary-size), or " if cut.vocabulary_size is not None else ""
        raise GateError(
            f"the trimmed vocabulary loses {drop:.2f} points of average dev accuracy, more than --max-drop "
            f"{max_drop:g}: nothing was written; {remedy}allow more with --max-drop",
            result={
                "files": [],
                "gate": trim_gate.to_json(),
                "vocabulary": {**variant.report.to_json(), "accuracy_drop": drop},
            },
        )
    return replace(variant, gate=gate, trim_gate=trim_gate, before=before.scores)


def _plain(scores: Mapping[str, DomainScores]) -> dict[str, Any]:
    return {name: one.to_json() for name, one in scores.items()}
