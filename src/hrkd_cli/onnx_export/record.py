"""What an export returns, and what it writes about its files: ``onnx/export.json`` and a part of the README.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnxruntime

from hrkd_cli.cards import render_section
from hrkd_cli.evaluation.latency import Latency
from hrkd_cli.evaluation.metrics import DomainScores
from hrkd_cli.evaluation.onnx_inspect import load_onnx
from hrkd_cli.json_files import read_json_or_empty
from hrkd_cli.layout import ModelFiles, OnnxFiles
from hrkd_cli.models.model_folder import write_json
from hrkd_cli.onnx_export.recipes import FORMATS, Precision
from hrkd_cli.version import __version__

if TYPE_CHECKING:
    from hrkd_cli.onnx_export.trimming import TrimReport

FORMAT = 1
BEGIN = "<!-- hrkd export: begin -->"
END = "<!-- hrkd export: end -->"
NOISE = 1.05
"""A file counts as slower than fp32 from 5 % on: less is noise of the clock."""

Entry = dict[str, Any]
"""What is known of one file."""


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """One file in ``onnx/``: the recipe in words (empty for fp32), latency by number of tokens and threads."""

    path: str
    precision: str
    bytes: int
    recipe: str = ""
    latency: tuple[Latency, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the entry as plain values; what is empty is left out."""
        entry = asdict(self) | {"latency": [figure.to_json() for figure in self.latency]}
        return {name: value for name, value in entry.items() if value}


@dataclass(frozen=True, slots=True)
class Gate:
    """What smaller models cost on the dev split.

    Attributes:
        max_drop: points of average accuracy that may be lost.
        drop: points that were lost, the student's minus the file's one text at a time; of several files the most.
        passed: whether each of them lost no more than that.
    """

    max_drop: float
    drop: float
    passed: bool


@dataclass(frozen=True, slots=True)
class Try:
    """One recipe that was tried, in words, and what it cost.

    Attributes:
        drop: points of average dev accuracy that were lost.
        accuracy: on dev by domain, 0..1.
        kept: whether this is the file that was written.
        padded_drop: points lost in padded batches; None where it was not kept.
    """

    precision: str
    recipe: str
    bytes: int
    drop: float
    passed: bool
    accuracy: Mapping[str, float]
    kept: bool = False
    padded_drop: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain values."""
        names = ("precision", "recipe", "bytes", "drop", "passed", "kept")
        return {name: getattr(self, name) for name in names}


def best_try(tries: Sequence[Try]) -> Try:
    """Return the try that was kept, else the one that lost least."""
    return min(tries, key=lambda entry: (not entry.kept, entry.drop))


@dataclass(frozen=True, slots=True)
class ExportResult:
    """Files written, and what is in them; docs/outputs.md describes the fields.

    Attributes:
        files: the graphs asked for that now lie in ``onnx/``, one that was kept included.
        quantized_ops, bytes_by_part: of the smallest file; empty where the gate failed.
        gate: None when only fp32 was asked for.
        target: the CPU that int8 files are for; empty without one.
        machine: what the latencies were measured on; empty without them.
        out: the new folder of a baked head or a trimmed vocabulary; empty in the student's own.
    """

    files: tuple[ExportedFile, ...] = ()
    quantized_ops: dict[str, int] = field(default_factory=dict)
    bytes_by_part: dict[str, int] = field(default_factory=dict)
    gate: Gate | None = None
    tries: tuple[Try, ...] = ()
    target: str = ""
    machine: str = ""
    out: str = ""
    domain: str | None = None
    vocabulary: TrimReport | None = None

    @property
    def trim_drop(self) -> float:
        """Points of average dev accuracy that trimming cost; 0 without it."""
        return self.vocabulary.accuracy_drop if self.vocabulary is not None else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain values; what is empty and not part of every export is left out."""
        result: dict[str, Any] = {
            "files": [file.to_json() for file in self.files],
            "quantized_ops": self.quantized_ops,
            "bytes_by_part": self.bytes_by_part,
            "gate": asdict(self.gate) if self.gate else None,
        }
        if self.out:
            result["domain"] = self.domain
        others = {
            "tries": [entry.to_json() for entry in self.tries],
            "target": self.target,
            "machine": self.machine,
            "out": self.out,
            "vocabulary": asdict(self.vocabulary) if self.vocabulary is not None else None,
        }
        return result | {name: value for name, value in others.items() if value}


def accuracies(scores: Mapping[str, DomainScores]) -> dict[str, float]:
    """Return the accuracy by domain."""
    return {domain: one.accuracy for domain, one in scores.items()}


def points_lost(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """Return the points of accuracy lost, averaged over domains."""
    lost = sum(before.values()) / len(before) - sum(after.values()) / len(after)
    # Rounded, so that 0.9 - 0.895 is half a point and not a hair more; 0.0 is added to make -0.0 a plain 0.
    return round(100 * lost, 6) + 0.0


def read_record(folder: Path) -> dict[str, Entry]:
    """Read the entries of an ``onnx`` folder by file name; none where the record is absent or foreign."""
    files = read_json_or_empty(folder / OnnxFiles.export_record).get("files")
    known = files.items() if isinstance(files, dict) else ()
    return {name: entry for name, entry in known if isinstance(entry, dict) and (folder / name).is_file()}


def write_record(folder: Path, entries: dict[str, Entry]) -> None:
    """Write the entries into a folder."""
    write_json(folder / OnnxFiles.export_record, {"format": FORMAT, "files": dict(sorted(entries.items()))})


def file_entry(
    path: Path, precision: Precision, tries: Sequence[Try], scores: Mapping[str, DomainScores] | None, max_drop: float
) -> Entry:
    """Describe one file, and the tries that it came from (none for fp32).

    Losses count from ``scores``, the dev scores of the folder's torch weights; None where nothing was scored.
    """
    model = load_onnx(path)
    entry: Entry = {
        "precision": str(precision),
        "bytes": path.stat().st_size,
        "opset": {item.domain or "ai.onnx": item.version for item in model.opset_import},
        "oldest_onnxruntime": FORMATS[precision].oldest_onnxruntime,
        "versions": {"hrkd-cli": __version__, "onnxruntime": onnxruntime.__version__},
    }
    if scores is not None:
        own = accuracies(scores)
        # The fp32 graph gives the model's logits, hence its labels.
        dev: Entry = {"accuracy": own, "drop": 0.0}
        if tries:
            best = best_try(tries)
            drops = [points_lost(own, one.accuracy) for one in tries]
            entry["recipe"] = best.recipe
            entry["tries"] = [{**one.to_json(), "drop": drop} for one, drop in zip(tries, drops, strict=True)]
            dev = {"accuracy": dict(best.accuracy), "drop": points_lost(own, best.accuracy)}
            dev |= {"max_drop": max_drop, "padded_drop": best.padded_drop}
        entry["dev"] = dev
    facts = {item.key: item.value for item in model.metadata_props}
    if target := facts.get("hrkd.target"):
        entry |= {"target": target, "weight_bits": int(facts["hrkd.weight_bits"])}
    return entry


def slower_than(one: Entry, fp32: Entry) -> str:
    """Say at which token counts and threads a file is slower than fp32; empty where it is not, or was not timed."""
    medians = {(cell["tokens"], cell["threads"]): cell["p50"] for cell in fp32.get("latency", ())}
    by_threads: dict[int, list[str]] = {}
    for cell in one.get("latency", ()):
        if cell["p50"] > NOISE * medians.get((cell["tokens"], cell["threads"]), float("inf")):
            by_threads.setdefault(cell["threads"], []).append(str(cell["tokens"]))
    return "; ".join(
        f"{', '.join(tokens)} tokens with {threads} thread{'s' if threads != 1 else ''}"
        for threads, tokens in by_threads.items()
    )


def find_card(*folders: Path) -> str:
    """Return the card of the first folder that has one, else a title."""
    cards = (folder / ModelFiles.readme for folder in folders)
    found = next((card for card in cards if card.is_file()), None)
    return found.read_text(encoding="utf-8") if found is not None else "# Text classifier\n"


def place_section(card: str, text: str) -> str:
    """Put a section into a card, in the place of an earlier one or at the end."""
    marked = f"{BEGIN}\n{text.strip()}\n{END}"
    before, begin, rest = card.partition(BEGIN)
    _, end, after = rest.partition(END)
    if begin and end:
        return before + marked + after
    return f"{card.rstrip()}\n\n{marked}\n"


def onnx_section(entries: dict[str, Entry]) -> str:
    """Describe exported files: size, accuracy by domain, latency, and what they need."""
    files = sorted(entries.items(), key=lambda item: (item[0] != OnnxFiles.fp32, item[0]))
    timed = [entry for _, entry in files if entry.get("latency")]
    columns = [{(cell["tokens"], cell["threads"]): cell for cell in entry["latency"]} for entry in timed]
    rows = dict.fromkeys(key for column in columns for key in column)
    slower = {entry["precision"]: slower_than(entry, entries.get(OnnxFiles.fp32, {})) for entry in timed}
    return render_section(
        "onnx.md.j2",
        files=files,
        scored=[entry for _, entry in files if "dev" in entry],
        timed=timed,
        latency=[(key, [column.get(key) for column in columns]) for key in rows],
        slower=[f"{name} is slower than fp32 at {where}." for name, where in slower.items() if where],
        nan=float("nan"),
    )
