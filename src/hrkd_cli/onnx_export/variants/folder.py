"""What lies in the folder of a smaller model: configuration, weights, tokenizer and record."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hrkd_cli import __version__
from hrkd_cli.data.dataset import Dataset
from hrkd_cli.evaluation.inputs import recorded_data
from hrkd_cli.layout import MODEL
from hrkd_cli.models.backend import input_names
from hrkd_cli.models.folder import PORTABLE_TOKENIZER, model_fingerprint, write_json
from hrkd_cli.models.loading import load_tokenizer, quiet_transformers
from hrkd_cli.onnx_export.folder import copy_description
from hrkd_cli.onnx_export.variants.trimming import Trimmed, TrimReport
from hrkd_cli.predict.folder import read_json_or_empty

RECORD_FORMAT = 1
STAGE = "export"
# Vocabularies that older tokenizers read: after trimming, tokenizer.json alone is right.
_OLD_VOCABULARIES = (
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "spm.model",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)
_SPECIAL = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token", "bos_token", "eos_token")
_PACKAGES = ("torch", "transformers", "tokenizers", "onnx", "onnxruntime", "numpy")


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
    if trimmed is not None:
        for name in _OLD_VOCABULARIES:
            (work / name).unlink(missing_ok=True)
        trimmed.tokenizer.save(str(work / MODEL.tokenizer))
        # Classes with a name of their own may build the tokenizer anew from what they think its parts are.
        settings["tokenizer_class"] = PORTABLE_TOKENIZER
        settings |= {name: str(getattr(tokenizer, name)) for name in _SPECIAL if getattr(tokenizer, name, None)}
        if isinstance(old := settings.get("added_tokens_decoder"), dict):
            new_ids = {str(old_id): str(new_id) for new_id, old_id in enumerate(trimmed.rows)}
            settings["added_tokens_decoder"] = {new_ids[key]: entry for key, entry in old.items()}
    elif not (work / MODEL.tokenizer).is_file():
        tokenizer.backend_tokenizer.save(str(work / MODEL.tokenizer))
    settings["model_max_length"] = max_length
    # Explicit, since pipelines pass a model everything that its tokenizer gives.
    settings["model_input_names"] = list(input_names(model, {"model_input_names": list(tokenizer.model_input_names)}))
    write_json(path, settings)


def write_record(
    student: Path, domain: str | None, report: TrimReport | None, dataset: Dataset | None, work: Path, out: Path
) -> None:
    """Write ``hrkd.json``: what the folder was made from, and where the data lies that it can be scored on.

    Args:
        student: the folder that it was made from.
        domain: the baked domain.
        report: what trimming kept and dropped.
        dataset: the data that trimming used; None for what the student was made from.
        work: the folder to write.
        out: where it will lie.
    """
    record: dict[str, Any] = {
        "format": RECORD_FORMAT,
        "stage": STAGE,
        "models": {"student": {"name": str(student), "fingerprint": model_fingerprint(student)}},
        "domain": domain,
        "vocabulary": report.to_json() if report is not None else None,
    }
    recorded = recorded_data(student)
    if dataset is not None and dataset.path is not None:
        record["data"] = {"path": _seen_from(out, dataset.path), "fingerprint": dataset.fingerprint}
    elif recorded is not None and recorded.fingerprint is not None:
        record["data"] = {"path": _seen_from(out, recorded.path), "fingerprint": recorded.fingerprint}
    versions = {"python": platform.python_version(), "hrkd-cli": __version__}
    record["versions"] = versions | {name: version(name) for name in _PACKAGES}
    write_json(work / MODEL.run, record)


def _seen_from(folder: Path, path: Path) -> str:
    try:
        return Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()
    except ValueError:  # another drive
        return str(path.absolute())
