"""The README.md of a folder with a baked head or a trimmed vocabulary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hrkd_cli.choices import Truncate
from hrkd_cli.onnx_export.result import Gate
from hrkd_cli.onnx_export.trimming import TrimReport

_PIPELINE = """Any text-classification pipeline opens this folder:

```python
from transformers import pipeline

classify = pipeline("text-classification", model=".", truncation=True)
classify("a text")
```

`optimum`'s `ORTModelForSequenceClassification` and transformers.js (its default `onnx/model_quantized.onnx`) open it
too, where those files are there."""

_CUT = {
    Truncate.HEAD: "Texts are cut to {} tokens, as in training (`model_max_length` of the tokenizer says so).",
    Truncate.TAIL: "Of longer texts the last {} tokens are read, as in training (`model_max_length` and "
    "`truncation_side` of the tokenizer say so).",
    Truncate.HEAD_TAIL: "Longer texts are cut to {} tokens, half from each end, as in training. **Other tools keep the "
    "head only**, which gives other answers: hand them texts that are cut already, or use `hrkd predict`.",
}

_HEADS = """The model has one output for every (domain, label) pair; a softmax over all of them means nothing. `hrkd
predict` takes one domain's, or the mean over all domains:

    hrkd predict . --domain {domain} "a text\""""


def derived_card(
    *,
    title: str,
    student: str,
    domain: str | None,
    labels: Sequence[str],
    max_length: int,
    report: TrimReport | None,
    before: Mapping[str, tuple[int, float]],
    after: Mapping[str, float],
    lost: Gate | None = None,
    truncate: Truncate = Truncate.HEAD,
) -> str:
    """Write the card.

    Args:
        title: one line.
        student: name of the student it was cut from.
        domain: the baked domain; None for all heads.
        labels: names of the outputs.
        max_length: tokens that texts are cut to.
        report: what trimming kept and dropped; None without it.
        before: rows and dev accuracy of the student by domain; may be empty.
        after: dev accuracy after trimming by domain; empty without it.
        lost: what trimming and quantising cost together; None where that is not known.
        truncate: what is kept of longer texts.
    """
    what = [f"Cut from the student `{student}` with hrkd-cli."]
    if domain is not None:
        what.append(
            f"The head of the domain `{domain}` alone: one output for each of its labels ({', '.join(labels)})."
        )
    if report is not None:
        what.append(f"Vocabulary trimmed from {report.before:,} to {report.after:,} tokens.")
    parts = [_front(title, domain), f"# {title}", " ".join(what), *_accuracy(before, after)]
    if lost is not None:
        parts.append(
            f"Trimming and storing in fewer bits together, the files made with this folder lose at most "
            f"{lost.drop:.2f} points of the student's average, one text at a time (allowed: {lost.max_drop:g})."
        )
    if report is not None:
        parts += ["## Vocabulary", _vocabulary(report)]
    use = _PIPELINE if domain is not None else _HEADS.format(domain=next(iter(before), "NAME"))
    cut = _CUT[truncate].format(max_length)
    return "\n\n".join([*parts, "## Use", use, cut]) + "\n"


def _front(title: str, domain: str | None) -> str:
    """Return the card's YAML, written through a library so that no name can break it."""
    import yaml  # type: ignore[import-untyped]

    front: dict[str, Any] = {
        "pipeline_tag": "text-classification",
        "library_name": "transformers",
        "tags": ["hrkd", "knowledge-distillation", "onnx", *([domain] if domain is not None else [])],
    }
    return "---\n" + str(yaml.safe_dump(front, sort_keys=False, allow_unicode=True)).strip() + "\n---"


def _accuracy(before: Mapping[str, tuple[int, float]], after: Mapping[str, float]) -> list[str]:
    if not before:
        return []
    heads = ["domain", "dev rows", "student", *(["trimmed"] if after else [])]
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    for name, (rows, accuracy) in before.items():
        cells = [name, str(rows), f"{100 * accuracy:.1f}", *([f"{100 * after[name]:.1f}"] if after else [])]
        lines.append("| " + " | ".join(cells) + " |")
    said = "Accuracy on the dev split in %."
    return ["\n".join(lines), said if after else f"{said} A baked head gives the student's own logits."]


def _vocabulary(report: TrimReport) -> str:
    train, dev = report.train, report.dev
    lines = [
        f"- Kept: {report.used:,} tokens that the train split uses, {report.special} special ones, {report.alphabet:,} "
        f"so that every character stays readable, {report.merged:,} that merges pass through.",
        f"- Dropped although the train split uses them: {report.dropped:,}.",
        f"- Train: {train.changed:,} of {train.tokens:,} tokens became others. Dev, unseen: {dev.changed:,} of "
        f"{dev.tokens:,}.",
        f"- Unknown tokens in dev: {dev.unknown:,} before, {dev.unknown_after:,} after. Characters that can no longer "
        f"be read: {report.characters_lost:,}.",
    ]
    return "\n".join(lines)
