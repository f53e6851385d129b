"""A student with one head baked in, with a trimmed vocabulary, or both: a model folder of its own."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from hrkd_cli.choices import Truncate
from hrkd_cli.command_settings import ExportSettings
from hrkd_cli.data.dataset import Dataset
from hrkd_cli.errors import DataError, ModelError
from hrkd_cli.evaluation.metrics import scores_to_json
from hrkd_cli.evaluation.provenance import read_provenance
from hrkd_cli.events import Note, OnEvent
from hrkd_cli.json_files import read_json_or_empty
from hrkd_cli.layout import ModelFiles
from hrkd_cli.machine import versions
from hrkd_cli.models.loading import load_tokenizer, output_layer, quiet_transformers
from hrkd_cli.models.model_folder import PORTABLE_TOKENIZER, is_stage_folder, model_card, model_fingerprint, write_json
from hrkd_cli.models.torch_backend import TorchBackend, input_names, load_encoder_parts
from hrkd_cli.onnx_export.gate import SPLIT, AccuracyGate
from hrkd_cli.onnx_export.record import Gate
from hrkd_cli.onnx_export.trace import TOLERANCE, Arrays, largest_difference, probes
from hrkd_cli.onnx_export.trimming import TrimReport, trim_embeddings, trim_tokenizer
from hrkd_cli.outputs import check_no_overlap, check_output, relative_path
from hrkd_cli.predict.heads import FloatArray
from hrkd_cli.predict.model_spec import ModelSpec, single_domain

STAGE = "export"
# Vocabularies that older tokenizers read: after trimming, tokenizer.json alone is right.
_OLD_VOCABULARIES = ("vocab.*", "merges.txt", "added_tokens.json", "*.model")
# Weights and records of the model folder, which a folder with graphs alone does not need.
_NOT_COPIED = (ModelFiles.weights, ModelFiles.weights_index, ModelFiles.run, ModelFiles.metrics, ModelFiles.readme)
_COPIED_SUFFIXES = (".json", ".txt", ".model")


def variant_folder(settings: ExportSettings) -> Path:
    """Return the folder to write; refuse one that exists, or that would replace the student."""
    student = settings.student if settings.student.name not in ("", "..") else settings.student.resolve()
    name = student.name
    if settings.domain is not None:
        name += f"-{settings.domain}"
    if settings.trims:
        name += "-trimmed"
    root = settings.out or student.with_name(name)
    check_no_overlap(root, {"student": student})
    check_output(root, kind="model", is_ours=lambda folder: is_stage_folder(folder, STAGE), force=settings.force)
    return root


def make_variant(
    settings: ExportSettings,
    own: TorchBackend,
    data: tuple[Dataset, str] | None,
    work: Path,
    out: Path,
    *,
    on_event: OnEvent,
) -> tuple[TorchBackend, AccuracyGate | None, TrimReport | None]:
    """Write the smaller model into ``work``, which will lie at ``out``, and check that it answers as the student does.

    ``data`` is that of the gate and, for trimming, of the tokens, and what to call it; None where none is needed.

    Returns:
        The smaller model; its gate, where there is data; and what trimming kept and dropped, None without it.

    Raises:
        ModelError: a student without that domain, or that cannot be cut.
        DataError: data that does not fit.
    """
    domain = settings.domain
    model = copy.deepcopy(own.model)
    columns = list(range(int(model.config.num_labels)))
    if domain is not None:
        columns = bake_head(model, own.spec, domain, str(settings.student))
        on_event(Note(f"keeping the head of {domain}"))
    tokenizer = report = None
    rows: Sequence[int] = range(int(model.config.vocab_size))
    if settings.trims and data is not None:
        _check_rows(*data, domain)
        on_event(Note("counting the tokens of the train split"))
        _, whole = load_encoder_parts(settings.student)
        config = model.config.to_dict()
        tokenizer, rows, report = trim_tokenizer(whole, config, data[0], settings.vocabulary_size, domain=domain)
        trim_embeddings(model, rows)
        on_event(Note(f"keeping {report.after:,} of {report.before:,} tokens"))
    _write_model(model, tokenizer, settings.student, work, max_length=own.spec.max_length)
    new = TorchBackend(work, device="cpu")
    old_ids = np.array(rows)

    def expected(arrays: Arrays) -> FloatArray:
        ids = np.where(arrays["attention_mask"], old_ids[arrays["input_ids"]], own.tokenizer.pad_id)
        return own.forward({**arrays, "input_ids": ids})[:, columns]

    # Without segments: only one of the two tokenizer configurations may name them.
    batches = ({**arrays, "token_type_ids": np.zeros_like(arrays["input_ids"])} for arrays in probes(new))
    difference = largest_difference(batches, expected, new.forward)
    if difference > TOLERANCE:
        raise ModelError(
            f"the smaller model's logits differ from the student's by {difference:.2g}; nothing was written"
        )
    gate = None
    if data is not None:
        gate = AccuracyGate(settings, new, *data, student=own if report else None, on_event=on_event)
    if gate is not None and report is not None:
        report = replace(report, accuracy_drop=gate.lost(gate.scores))
    _write_record(settings, report, data[0] if report and data else None, work, out)
    return new, gate, report


def variant_card(
    settings: ExportSettings,
    model: TorchBackend,
    gate: AccuracyGate | None,
    report: TrimReport | None,
    *,
    title: str,
    lost: Gate | None,
) -> str:
    """Write the README.md of a smaller model; ``lost`` is what trimming and quantizing cost together."""
    spec, domain = model.spec, settings.domain
    what = [f"Made from the student `{settings.student.resolve().name}` with hrkd-cli."]
    if domain is not None:
        labels = ", ".join(spec.all_heads.labels[domain])
        what.append(f"The head of the domain `{domain}` alone: one output for each of its labels ({labels}).")
        what += ["It gives the student's own logits."] if report is None else []
    trimming: dict[str, Any] = {}
    if report is not None and gate is not None:
        what.append(f"Vocabulary trimmed from {report.before:,} to {report.after:,} tokens.")
        scores = scores_to_json(gate.scores)["domains"]
        trimming = {"before": gate.student_scores, "lost": lost, "vocabulary": report}
    else:  # the student's own, where its record has them
        results = read_json_or_empty(settings.student / ModelFiles.run).get("results") or {}
        domains = ((results.get("best") or {}).get("dev") or {}).get("domains") or {}
        scores = {name: one for name, one in domains.items() if domain in (None, name)}
    return model_card(
        title=title,
        what=" ".join(what),
        heads=spec.all_heads,
        scores=scores,
        max_length=spec.max_length,
        truncate=Truncate(spec.truncate),
        baked=domain,
        **trimming,
    )


def copy_description(student: Path, folder: Path) -> list[str]:
    """Copy the student's configuration and tokenizer files, and return their names."""
    names = sorted(
        file.name
        for file in student.iterdir()
        if file.is_file() and file.suffix in _COPIED_SUFFIXES and file.name not in _NOT_COPIED
    )
    for name in names:
        shutil.copyfile(student / name, folder / name)
    return names


def bake_head(model: Any, spec: ModelSpec, domain: str, where: str) -> list[int]:
    """Keep one domain's rows of a model's last linear layer, in place; return them. ``where`` names it in errors."""
    if spec.heads is None:
        only = single_domain(spec.config)
        what = f"it is the head of {only!r} alone already" if only else "it is not a multi-domain classifier of hrkd"
        raise ModelError(f"{where}: {what}; export it without --domain")
    if domain not in spec.heads.labels:
        raise ModelError(f"{where}: no domain {domain!r} (--domain); it has {', '.join(spec.heads.domains)}")
    columns, labels = list(spec.heads.columns[domain]), spec.heads.labels[domain]
    name, layer = output_layer(model)
    if layer.out_features != spec.heads.num_outputs:
        raise ModelError(
            f"a {model.config.model_type} model: its last linear layer ({name}) has {layer.out_features} outputs, not "
            f"the {spec.heads.num_outputs} of its labels; its heads cannot be taken apart"
        )
    layer.weight = torch.nn.Parameter(layer.weight.detach()[columns])
    if layer.bias is not None:
        layer.bias = torch.nn.Parameter(layer.bias.detach()[columns])
    layer.out_features = model.num_labels = len(labels)
    config = model.config
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    config.hrkd = {**{key: value for key, value in config.hrkd.items() if key != "domains"}, "domain": domain}
    return columns


def _check_rows(dataset: Dataset, name: str, domain: str | None) -> None:
    """Refuse data without a train split, which names the tokens, or a dev split, the unseen text."""
    if domain is not None and domain not in dataset.labels:
        raise DataError(f"{name}: no domain {domain!r}; it has {', '.join(dataset.domains)}")
    scored = dataset.select_domains(domain) if domain is not None else dataset
    for split, rows in (("train", dataset), (SPLIT, scored)):
        if not any(len(rows.split(one, split)) for one in rows.domains):
            raise DataError(
                f"{name}: no {split} rows; trimming keeps the tokens of the train split and is judged on the dev "
                "split: divide the data with hrkd prepare, and name that folder with --data"
            )


def _write_model(model: Any, smaller: Tokenizer | None, student: Path, work: Path, *, max_length: int) -> None:
    """Write configuration, weights and tokenizer.

    The tokenizer's own length becomes the one that the student was trained with, so that pipelines of other tools,
    which cut there, give the student's answers on long texts too.
    """
    copy_description(student, work)
    with quiet_transformers():
        model.save_pretrained(work)
    path = work / ModelFiles.tokenizer_config
    settings = read_json_or_empty(path)
    tokenizer = load_tokenizer(student)
    if smaller is not None:
        for pattern in _OLD_VOCABULARIES:
            for file in work.glob(pattern):
                file.unlink()
        smaller.save(str(work / ModelFiles.tokenizer))
        # Classes with a name of their own may build the tokenizer anew from what they think its parts are.
        settings["tokenizer_class"] = PORTABLE_TOKENIZER
        settings |= {name: token for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
        settings.pop("added_tokens_decoder", None)  # old ids; tokenizer.json has the new ones
    elif not (work / ModelFiles.tokenizer).is_file():
        tokenizer.backend_tokenizer.save(str(work / ModelFiles.tokenizer))
    settings["model_max_length"] = max_length
    # Explicit, since pipelines pass a model everything that its tokenizer gives.
    settings["model_input_names"] = list(input_names(model, tokenizer.model_input_names))
    write_json(path, settings)


def _write_record(
    settings: ExportSettings, report: TrimReport | None, dataset: Dataset | None, work: Path, out: Path
) -> None:
    """Write ``hrkd.json``: what the folder was made from, and the data that it can be scored on.

    That is the dataset that trimming used, as seen from ``out``; without one, what the student was made from.
    """
    student = settings.student
    record: dict[str, Any] = {
        "format": 1,
        "stage": STAGE,
        "models": {"student": {"name": str(student), "fingerprint": model_fingerprint(student)}},
        "domain": settings.domain,
        "vocabulary": asdict(report) if report is not None else None,
    }
    data = dataset if dataset is not None and dataset.path is not None else read_provenance(student)
    if data is not None and data.fingerprint is not None:
        record["data"] = {"path": relative_path(data.path, out), "fingerprint": data.fingerprint}
    record["versions"] = versions("onnx", "onnxruntime")
    write_json(work / ModelFiles.run, record)
