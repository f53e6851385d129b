"""What lies in a folder that was cut from a student: model, tokenizer, record and card."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hrkd_cli.choices import Truncate
from hrkd_cli.data.dataset import Dataset
from hrkd_cli.evaluation.inputs import recorded_data
from hrkd_cli.evaluation.metrics import DomainScores
from hrkd_cli.layout import MODEL
from hrkd_cli.models.backend import input_names
from hrkd_cli.models.folder import PORTABLE_TOKENIZER, model_fingerprint, write_json
from hrkd_cli.models.loading import load_tokenizer, quiet_transformers
from hrkd_cli.onnx_export.card import BEGIN
from hrkd_cli.onnx_export.derived_card import derived_card
from hrkd_cli.onnx_export.folder import copy_description
from hrkd_cli.onnx_export.result import Gate
from hrkd_cli.onnx_export.trimming import Trimmed, TrimReport
from hrkd_cli.predict.folder import Spec, read_json_or_empty

RECORD_FORMAT = 1
STAGE = "export"
# Vocabularies that older tokenizers read: after trimming, tokenizer.json alone is right.
_OLD_VOCABULARIES = frozenset(
    {"vocab.txt", "vocab.json", "merges.txt", "added_tokens.json", "spm.model", "spiece.model", "tokenizer.model",
     "sentencepiece.bpe.model"}
)  # fmt: skip
_SPECIAL = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token", "bos_token", "eos_token")
_PACKAGES = ("hrkd-cli", "torch", "transformers", "tokenizers", "onnx", "onnxruntime", "numpy")


@dataclass(frozen=True, slots=True)
class Derived:
    """What was cut from a student.

    Attributes:
        student: the student's folder.
        spec: the student's configuration.
        domain: the baked domain; None for all heads.
        report: what trimming kept and dropped; None without it.
        before: the student's dev scores by domain, where trimming scored them.
        after: the trimmed student's.
        trim_drop: points of average dev accuracy that trimming cost.
        dataset: the rows that trimming was judged on.
        data: what they are called.
    """

    student: Path
    spec: Spec
    domain: str | None
    report: TrimReport | None
    before: Mapping[str, DomainScores] = field(default_factory=dict)
    after: Mapping[str, DomainScores] = field(default_factory=dict)
    trim_drop: float = 0.0
    dataset: Dataset | None = None
    data: str | None = None


def default_out(student: Path, domain: str | None, *, trim: bool) -> Path:
    """Return the folder beside the student that says in its name what was done."""
    folder = student if student.name not in ("", "..") else student.resolve()
    name = "-".join([folder.name, *([domain] if domain is not None else []), *(["trimmed"] if trim else [])])
    return folder.with_name(name)


def write_model(model: Any, trimmed: Trimmed | None, student: Path, work: Path, *, max_length: int) -> None:
    """Write configuration, weights and tokenizer.

    The tokenizer's own length becomes the one that the student was trained with, so that pipelines of other tools,
    which cut there, give the student's answers on long texts too.

    Args:
        model: the classifier.
        trimmed: its new vocabulary; None for the student's.
        student: the folder whose tokenizer files are taken.
        work: the folder to write.
        max_length: tokens that texts are cut to.
    """
    copy_description(student, work)
    with quiet_transformers():
        model.save_pretrained(work)
    path = work / MODEL.tokenizer_config
    settings = read_json_or_empty(path)
    tokenizer = load_tokenizer(student)
    if trimmed is None:
        if not (work / MODEL.tokenizer).is_file():
            tokenizer.backend_tokenizer.save(str(work / MODEL.tokenizer))
    else:
        for name in _OLD_VOCABULARIES:
            (work / name).unlink(missing_ok=True)
        trimmed.tokenizer.save(str(work / MODEL.tokenizer))
        # Classes with a name of their own may build the tokenizer anew from what they think its parts are.
        settings["tokenizer_class"] = PORTABLE_TOKENIZER
        for name in _SPECIAL:
            if getattr(tokenizer, name, None) is not None:
                settings[name] = str(getattr(tokenizer, name))
        if isinstance(old := settings.get("added_tokens_decoder"), dict):
            numbers = {str(old_id): str(new_id) for new_id, old_id in enumerate(trimmed.rows)}
            settings["added_tokens_decoder"] = {numbers[key]: entry for key, entry in old.items()}
    settings["model_max_length"] = max_length
    # Said outright, since pipelines hand a model all that its tokenizer gives.
    settings["model_input_names"] = list(input_names(model, {"model_input_names": list(tokenizer.model_input_names)}))
    write_json(path, settings)


def write_record(derived: Derived, work: Path, out: Path) -> None:
    """Write ``hrkd.json``: what the folder was made from, and where the data lies that it can be scored on."""
    record: dict[str, Any] = {
        "format": RECORD_FORMAT,
        "stage": STAGE,
        "models": {"student": {"name": str(derived.student), "fingerprint": model_fingerprint(derived.student)}},
        "domain": derived.domain,
        "vocabulary": derived.report.to_json() if derived.report else None,
    }
    if (data := _data(derived, out)) is not None:
        record["data"] = data
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    write_json(work / MODEL.run, {**record, "versions": versions})


def _data(derived: Derived, out: Path) -> dict[str, Any] | None:
    """Return the data's place as seen from the new folder."""
    if derived.dataset is not None and derived.dataset.path is not None:
        path, fingerprint = derived.dataset.path, derived.dataset.fingerprint
    elif (recorded := recorded_data(derived.student)) is not None and recorded.fingerprint is not None:
        path, fingerprint = recorded.path, recorded.fingerprint
    else:
        return None
    try:
        place = Path(os.path.relpath(path.absolute(), out.absolute())).as_posix()
    except ValueError:  # another drive
        place = str(path.absolute())
    return {"path": place, "fingerprint": fingerprint}


def write_card(derived: Derived, work: Path, out: Path, lost: Gate | None = None) -> None:
    """Write ``README.md``, and leave the section of the exported files in it as it is.

    Args:
        derived: what was cut.
        work: the folder to write.
        out: what it will be called.
        lost: what trimming and quantising cost together; None before that is known, or without trimming.
    """
    config = read_json_or_empty(work / MODEL.config)
    card = derived_card(
        title=out.name,
        student=derived.student.resolve().name,
        domain=derived.domain,
        labels=[str(name) for name in config.get("id2label", {}).values()],
        max_length=derived.spec.max_length,
        truncate=Truncate(derived.spec.truncate),
        report=derived.report,
        before=_shown(derived),
        after={name: scores.accuracy for name, scores in derived.after.items()},
        lost=lost,
    )
    path = work / MODEL.readme
    _, begin, section = path.read_text(encoding="utf-8").partition(BEGIN) if path.is_file() else ("", "", "")
    path.write_text(f"{card}\n{begin}{section}" if begin else card, encoding="utf-8")


def _shown(derived: Derived) -> dict[str, tuple[int, float]]:
    """Return rows and accuracy of the student by domain: as scored here, else as its record says."""
    if derived.before:
        return {name: (scores.n, scores.accuracy) for name, scores in derived.before.items()}
    results = read_json_or_empty(derived.student / MODEL.run).get("results") or {}
    domains = ((results.get("best") or {}).get("dev") or {}).get("domains") or {}
    wanted = domains if derived.domain is None else {k: v for k, v in domains.items() if k == derived.domain}
    return {name: (int(scores["n"]), float(scores["accuracy"])) for name, scores in wanted.items()}
