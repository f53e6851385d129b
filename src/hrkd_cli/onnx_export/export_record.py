"""Records of exported files: ``onnx/export.json`` and the ONNX section of the README.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime

from hrkd_cli.cards import render_section
from hrkd_cli.evaluation.metrics import DomainScores
from hrkd_cli.evaluation.onnx_inspect import load_onnx
from hrkd_cli.formatting import plural
from hrkd_cli.json_files import read_json_or_empty
from hrkd_cli.layout import ModelFiles, OnnxFiles
from hrkd_cli.onnx_export.export_result import Trial, accuracies, accuracy_drop, best_trial
from hrkd_cli.onnx_export.graph_editor import OnnxFormat
from hrkd_cli.onnx_export.recipes import FORMATS
from hrkd_cli.version import __version__

SECTION_BEGIN = "<!-- hrkd export: begin -->"
SECTION_END = "<!-- hrkd export: end -->"
SLOWDOWN_THRESHOLD = 1.05  # a file counts as slower than fp32 from 5% on; smaller differences are timing noise

FileEntry = dict[str, Any]  # the entry of one file in ``export.json``


def read_record(folder: Path) -> dict[str, FileEntry]:
    """Return the entries of ``export.json`` whose files exist, by file name; empty if it is missing or damaged."""
    files = read_json_or_empty(folder / OnnxFiles.export_record).get("files", {})
    return {name: entry for name, entry in files.items() if (folder / name).is_file()}


def describe_file(
    path: Path,
    onnx_format: OnnxFormat,
    trials: Sequence[Trial],
    scores: Mapping[str, DomainScores] | None,
    max_drop: float,
) -> FileEntry:
    """Return the entry of a file and of the trials for it (empty for fp32).

    Drops are relative to ``scores``, the dev scores of the folder's torch weights; None if nothing was scored.
    """
    model = load_onnx(path)
    entry: FileEntry = {
        "precision": str(onnx_format),
        "bytes": path.stat().st_size,
        "opset": {opset.domain or "ai.onnx": opset.version for opset in model.opset_import},
        "oldest_onnxruntime": FORMATS[onnx_format].oldest_onnxruntime,
        "versions": {"hrkd-cli": __version__, "onnxruntime": onnxruntime.__version__},
    }
    if scores is not None:
        before = accuracies(scores)
        # The fp32 file has the model's logits and therefore its accuracy.
        dev: FileEntry = {"accuracy": before, "drop": 0.0}
        if trials:
            best = best_trial(trials)
            entry["recipe"] = best.recipe
            entry["tries"] = [{**trial.to_json(), "drop": accuracy_drop(before, trial.accuracy)} for trial in trials]
            dev = {"accuracy": dict(best.accuracy), "drop": accuracy_drop(before, best.accuracy)}
            dev |= {"max_drop": max_drop, "padded_drop": best.padded_drop}
        entry["dev"] = dev
    metadata = {item.key: item.value for item in model.metadata_props}
    if target := metadata.get("hrkd.target"):
        entry |= {"target": target, "weight_bits": int(metadata["hrkd.weight_bits"])}
    return entry


def describe_slowdown(entry: FileEntry, fp32: FileEntry) -> str:
    """Return the token counts and threads at which a file is slower than fp32; empty if nowhere, or not timed."""
    fp32_medians = {(cell["tokens"], cell["threads"]): cell["p50"] for cell in fp32.get("latency", ())}
    slower: dict[int, list[str]] = {}
    for cell in entry.get("latency", ()):
        if cell["p50"] > SLOWDOWN_THRESHOLD * fp32_medians.get((cell["tokens"], cell["threads"]), float("inf")):
            slower.setdefault(cell["threads"], []).append(str(cell["tokens"]))
    return "; ".join(f"{', '.join(each)} tokens with {plural(threads, 'thread')}" for threads, each in slower.items())


def read_card(*folders: Path) -> str:
    """Return the README.md of the first folder that has one, else a title; bytes that are not UTF-8 are escaped."""
    for folder in folders:
        if (folder / ModelFiles.readme).is_file():
            return (folder / ModelFiles.readme).read_text(encoding="utf-8", errors="surrogateescape")
    return "# Text classifier\n"


def write_card(folder: Path, card: str, entries: dict[str, FileEntry]) -> None:
    """Write a card from ``read_card`` with the exported files, in its metadata and in a section of its own."""
    card = add_results(insert_section(card, render_onnx_section(entries)), entries)
    (folder / ModelFiles.readme).write_text(card, encoding="utf-8", errors="surrogateescape")


def insert_section(card: str, section: str) -> str:
    """Return a card with the ONNX section, which replaces an earlier one or is appended."""
    marked = f"{SECTION_BEGIN}\n{section.strip()}\n{SECTION_END}"
    before, begin, rest = card.partition(SECTION_BEGIN)
    _, end, after = rest.partition(SECTION_END)
    if begin and end:
        return before + marked + after
    return f"{card.rstrip()}\n\n{marked}\n"


def add_results(card: str, entries: Mapping[str, FileEntry]) -> str:
    """Return a card whose metadata (``model-index``) has the dev accuracy of every file by domain; others stay."""
    import yaml
    from huggingface_hub import EvalResult, ModelCard

    if not card.startswith("---"):
        return card
    try:
        parsed = ModelCard(card, ignore_metadata_errors=True)
    except (ValueError, yaml.YAMLError):  # edited by hand
        return card
    if parsed.data.model_name is None:  # not a card that hrkd wrote
        return card
    prefix = f"accuracy of {ModelFiles.onnx}/"
    results = [each for each in parsed.data.eval_results or () if not (each.metric_name or "").startswith(prefix)]
    results += [
        EvalResult(
            "text-classification",
            domain,
            domain,
            "accuracy",
            round(accuracy, 4),
            dataset_split="dev",
            metric_name=f"{prefix}{name}",
        )
        for name, entry in sorted(entries.items())
        for domain, accuracy in (entry.get("dev") or {}).get("accuracy", {}).items()
    ]
    parsed.data.eval_results = results or None
    return str(parsed)


def render_onnx_section(entries: dict[str, FileEntry]) -> str:
    """Return the card's section on exported files: size, accuracy by domain, latency and requirements."""
    files = sorted(entries.items(), key=lambda item: (item[0] != OnnxFiles.fp32, item[0]))
    timed = [entry for _, entry in files if entry.get("latency")]
    columns = [{(cell["tokens"], cell["threads"]): cell for cell in entry["latency"]} for entry in timed]
    keys = dict.fromkeys(key for column in columns for key in column)
    slowdowns = {entry["precision"]: describe_slowdown(entry, entries.get(OnnxFiles.fp32, {})) for entry in timed}
    return render_section(
        "onnx.md.j2",
        files=files,
        scored=[entry for _, entry in files if "dev" in entry],
        timed=timed,
        latency=[(key, [column.get(key) for column in columns]) for key in keys],
        slowdowns=[f"{name} is slower than fp32 at {where}." for name, where in slowdowns.items() if where],
        nan=float("nan"),
    )
