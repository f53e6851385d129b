"""Single-domain and trimmed exports: a model folder with one head, a smaller vocabulary, or both."""

from __future__ import annotations

import copy
import html
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from hrkd_cli.cards import code_span
from hrkd_cli.choices import Truncate
from hrkd_cli.command_settings import ExportSettings
from hrkd_cli.data.dataset import Dataset
from hrkd_cli.errors import DataError, ModelError, UsageError
from hrkd_cli.evaluation.metrics import scores_to_json
from hrkd_cli.evaluation.provenance import read_provenance
from hrkd_cli.evaluation.scoring import select_split
from hrkd_cli.events import Note, OnEvent, Progress
from hrkd_cli.json_files import read_json_or_empty
from hrkd_cli.layout import ModelFiles
from hrkd_cli.machine import package_versions
from hrkd_cli.models.fingerprint import model_fingerprint
from hrkd_cli.models.loading import load_backend_tokenizer, load_tokenizer, output_layer, quiet_libraries
from hrkd_cli.models.model_folder import PORTABLE_TOKENIZER, model_card, write_json
from hrkd_cli.models.model_tokenizer import input_names
from hrkd_cli.models.torch_backend import TorchBackend
from hrkd_cli.onnx_export.export_result import Gate
from hrkd_cli.onnx_export.gate import GATE_SPLIT, AccuracyGate
from hrkd_cli.onnx_export.graph_editor import ModelInputs
from hrkd_cli.onnx_export.trace import PARITY_TOLERANCE, max_logit_difference, random_inputs
from hrkd_cli.onnx_export.trimming import TrimReport, trim_embeddings, trim_tokenizer
from hrkd_cli.outputs import check_no_overlap, check_output, is_stage_folder, relative_path
from hrkd_cli.predict.heads import FloatArray
from hrkd_cli.predict.model_spec import ModelSpec, single_domain
from hrkd_cli.predict.name_validation import validate_names

STAGE = "export"
# Vocabulary files of slow tokenizers, which are wrong after trimming; only tokenizer.json is rewritten.
_SLOW_TOKENIZER_FILES = ("vocab.*", "merges.txt", "added_tokens.json", "*.model")


def variant_folder(settings: ExportSettings) -> Path:
    """Return the output folder; raise OutputError if it exists, UsageError if it would replace the student."""
    student = settings.student if settings.student.name not in ("", "..") else settings.student.resolve()
    name = student.name
    if settings.domain is not None:
        validate_names([settings.domain], (), "--domain", UsageError)
        name += f"-{settings.domain}"
    if settings.trims:
        name += "-trimmed"
    root = settings.out or student.with_name(name)
    check_no_overlap(root, {"student": student})
    is_ours = partial(is_stage_folder, stage=STAGE)
    check_output(root, kind="model", is_ours=is_ours, written=ModelFiles.written, force=settings.force)
    return root


def make_variant(
    settings: ExportSettings,
    student: TorchBackend,
    data: tuple[Dataset, str] | None,
    work: Path,
    out: Path,
    *,
    on_event: OnEvent,
) -> tuple[TorchBackend, AccuracyGate | None, TrimReport | None]:
    """Write the smaller model into ``work``, which will be moved to ``out``; its logits must be the student's.

    ``data`` is the dataset for the gate and the trimming, and its name; None if neither is needed.

    Returns:
        The smaller model, its gate (None without data), and the report on trimming (None without trimming).

    Raises:
        ModelError: the student does not have the domain, or cannot be changed.
        DataError: the data does not fit.
    """
    domain = settings.domain
    model = copy.deepcopy(student.model)
    columns = list(range(int(model.config.num_labels)))
    if domain is not None:
        columns = extract_head(model, student.spec, domain, str(settings.student))
        on_event(Note(f"keeping the head of {domain}"))
    trimmed_tokenizer = report = None
    old_ids: Sequence[int] = range(int(model.config.vocab_size))
    if settings.trims and data is not None:
        _check_splits(*data, domain)
        on_event(Progress("counting the tokens of the train split"))
        _, tokenizer = load_backend_tokenizer(settings.student)
        trimmed_tokenizer, old_ids, report = trim_tokenizer(
            tokenizer, model.config.to_dict(), data[0], settings.vocabulary_size, domain=domain
        )
        trim_embeddings(model, old_ids)
        on_event(Note(f"keeping {report.after:,} of {report.before:,} tokens"))
    _write_model(model, trimmed_tokenizer, settings.student, work, max_length=student.spec.max_length)
    if student.wide is not None:
        student.wide.select(old_ids, columns).save(work)
    variant = TorchBackend(work, device="cpu")
    _check_parity(student, variant, np.array(old_ids), columns)
    gate = None
    if data is not None:
        gate = AccuracyGate(settings, variant, *data, student=student if report else None, on_event=on_event)
    if gate is not None and report is not None:
        report = replace(report, accuracy_drop=gate.accuracy_drop(gate.scores))
    _write_run_file(settings, report, data[0] if report and data else None, work, out)
    return variant, gate, report


def _check_parity(student: TorchBackend, variant: TorchBackend, old_ids: Any, columns: list[int]) -> None:
    """Raise ModelError if a variant's logits differ from those columns of the student's logits."""

    def student_forward(arrays: ModelInputs) -> FloatArray:
        ids = np.where(arrays["attention_mask"], old_ids[arrays["input_ids"]], student.tokenizer.pad_id)
        return student.forward({**arrays, "input_ids": ids})[:, columns]

    # Without segments, which only one of the two tokenizer configurations may name.
    batches = ({**arrays, "token_type_ids": np.zeros_like(arrays["input_ids"])} for arrays in random_inputs(variant))
    difference = max_logit_difference(batches, student_forward, variant.forward)
    if difference > PARITY_TOLERANCE:
        raise ModelError(
            f"the smaller model's logits differ from the student's by {difference:.2g}; nothing was written"
        )


def variant_card(
    settings: ExportSettings,
    model: TorchBackend,
    gate: AccuracyGate | None,
    report: TrimReport | None,
    *,
    title: str,
    gate_result: Gate | None,
) -> str:
    """Return the README.md of a variant; ``gate_result`` covers trimming and quantization together."""
    spec, domain = model.spec, settings.domain
    entry = spec.config.get("hrkd") or {}
    what = [f"Made from the student {code_span(settings.student.resolve().name)} with hrkd-cli."]
    if domain is not None:
        labels = html.escape(", ".join(spec.all_heads.labels[domain]), quote=False)
        what.append(f"It has only the head of the domain {code_span(domain)}, with one output per label ({labels}).")
        what += ["Its logits are the student's."] if report is None and not entry.get("encoder_length") else []
    trimming: dict[str, Any] = {}
    if report is not None and gate is not None:
        what.append(f"Vocabulary trimmed from {report.before:,} to {report.after:,} tokens.")
        scores = scores_to_json(gate.scores)["domains"]
        trimming = {"student_scores": gate.student_scores, "gate": gate_result, "vocabulary": report}
    else:  # the student's scores, if its hrkd.json has them
        results = read_json_or_empty(settings.student / ModelFiles.run).get("results") or {}
        domains = ((results.get("best") or {}).get("dev") or {}).get("domains", {})
        scores = {name: score for name, score in domains.items() if domain in (None, name)}
    return model_card(
        title=title,
        description=" ".join(what),
        heads=spec.all_heads,
        scores=scores,
        max_length=spec.max_length,
        truncate=Truncate(spec.truncate),
        domain_posterior=entry.get("domain_posterior"),
        encoder_length=entry.get("encoder_length"),
        single_domain=domain,
        **trimming,
    )


def config_files(student: Path) -> list[str]:
    """Return the names of the student's configuration and tokenizer files."""
    return sorted(name for name in (ModelFiles.config, *ModelFiles.tokenizers) if (student / name).is_file())


def copy_config_files(student: Path, folder: Path) -> list[str]:
    """Copy the student's configuration and tokenizer files, and return their names."""
    names = config_files(student)
    for name in names:
        shutil.copyfile(student / name, folder / name)
    return names


def extract_head(model: Any, spec: ModelSpec, domain: str, model_name: str) -> list[int]:
    """Reduce a model's last linear layer and its configuration to one domain, in place; return the kept columns."""
    if spec.heads is None:
        only = single_domain(spec.config)
        what = f"it has only the head of {only!r} already" if only else "it is not a multi-domain classifier of hrkd"
        raise ModelError(f"{model_name}: {what}; export it without --domain")
    if domain not in spec.heads.labels:
        raise ModelError(f"{model_name}: no domain {domain!r} (--domain); it has {', '.join(spec.heads.domains)}")
    columns, labels = list(spec.heads.columns[domain]), spec.heads.labels[domain]
    _, layer = output_layer(model)
    layer.weight = torch.nn.Parameter(layer.weight.detach()[columns])
    if layer.bias is not None:
        layer.bias = torch.nn.Parameter(layer.bias.detach()[columns])
    layer.out_features = model.num_labels = len(labels)
    config = model.config
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    kept = {key: value for key, value in config.hrkd.items() if key not in ("domains", "domain_posterior")}
    config.hrkd = {**kept, "domain": domain}
    return columns


def _check_splits(dataset: Dataset, data_name: str, domain: str | None) -> None:
    """Raise DataError without the domain, a train split, whose tokens are kept, or a dev split, for the gate."""
    if domain is not None and domain not in dataset.labels:
        raise DataError(f"{data_name}: no domain {domain!r}; it has {', '.join(dataset.domains)}")
    gate_data = dataset.select_domains(domain) if domain is not None else dataset
    select_split(gate_data, GATE_SPLIT, data_name)
    if not any(len(dataset.split(name, "train")) for name in dataset.domains):
        raise DataError(
            f"{data_name}: no train rows; trimming keeps the tokens of the train split: split the data with hrkd "
            "prepare, and name that folder with --data"
        )


def _write_model(model: Any, trimmed: Tokenizer | None, student: Path, work: Path, *, max_length: int) -> None:
    """Write configuration, weights and tokenizer (``trimmed``, or the student's).

    The tokenizer's ``model_max_length`` becomes the student's maximum length, where pipelines of other tools truncate,
    so that they give the student's predictions for long texts too.
    """
    copy_config_files(student, work)
    with quiet_libraries():
        model.save_pretrained(work)
    path = work / ModelFiles.tokenizer_config
    config = read_json_or_empty(path)
    tokenizer = load_tokenizer(student)
    if trimmed is not None:
        for pattern in _SLOW_TOKENIZER_FILES:
            for file in work.glob(pattern):
                file.unlink()
        trimmed.save(str(work / ModelFiles.tokenizer))
        # A model-specific tokenizer class may rebuild the tokenizer with its own defaults.
        config["tokenizer_class"] = PORTABLE_TOKENIZER
        config |= {name: token for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
        config.pop("added_tokens_decoder", None)  # has old ids; tokenizer.json has the new ones
    elif not (work / ModelFiles.tokenizer).is_file():
        tokenizer.backend_tokenizer.save(str(work / ModelFiles.tokenizer))
    config["model_max_length"] = max_length
    # Pipelines pass everything that the tokenizer returns to the model.
    config["model_input_names"] = list(input_names(model, tokenizer.model_input_names))
    write_json(path, config)


def _write_run_file(
    settings: ExportSettings, report: TrimReport | None, dataset: Dataset | None, work: Path, out: Path
) -> None:
    """Write ``hrkd.json``: the source model, the domain, the trimmed vocabulary, and the data to score it on.

    The data is ``dataset`` if trimming used one, else what the student was made from; its path is relative to ``out``.
    """
    student = settings.student
    content: dict[str, Any] = {
        "format": 1,
        "stage": STAGE,
        "models": {"student": {"name": str(student), "fingerprint": model_fingerprint(student)}},
        "domain": settings.domain,
        "vocabulary": asdict(report) if report is not None else None,
    }
    data = dataset if dataset is not None and dataset.path is not None else read_provenance(student)
    if data is not None and data.fingerprint is not None:
        content["data"] = {"path": relative_path(data.path, out), "fingerprint": data.fingerprint}
    content["versions"] = package_versions("onnx", "onnxruntime")
    write_json(work / ModelFiles.run, content)
