"""The README.md of a model's folder: how it was made, its scores, how to use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hrkd_cli.cards import render_card
from hrkd_cli.choices import Truncate
from hrkd_cli.predict.heads import DomainHeads


def model_card(
    *,
    title: str,
    what: str,
    heads: DomainHeads,
    scores: Mapping[str, Mapping[str, Any]],
    max_length: int,
    truncate: Truncate,
    baked: str | None = None,
    before: Mapping[str, Mapping[str, Any]] | None = None,
    lost: Mapping[str, Any] | None = None,
    vocabulary: Mapping[str, Any] | None = None,
) -> str:
    """Write the card.

    Args:
        title: one line.
        what: a sentence or two on how the model was made.
        heads: its outputs.
        scores: dev scores by domain, each with ``n``, ``accuracy`` and ``macro_f1``; empty where they are not known.
        max_length: tokens that texts are cut to.
        truncate: what is kept of longer texts.
        baked: the domain whose head alone this is; None for all heads.
        before: scores of the student that a vocabulary was trimmed from.
        lost: ``drop`` and ``max_drop`` of trimming and quantizing together.
        vocabulary: what trimming kept and dropped, as ``hrkd export --json`` has it.
    """
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="text-classification",
            dataset_type=name,
            dataset_name=name,
            dataset_split="dev",
            metric_type=metric,
            metric_name=shown,
            metric_value=round(one[key], 4),
        )
        for name, one in scores.items()
        for metric, shown, key in (("accuracy", None, "accuracy"), ("f1", "macro-F1", "macro_f1"))
    ]
    metadata = ModelCardData(
        model_name=title,
        pipeline_tag="text-classification",
        library_name="transformers",
        tags=["hrkd", "knowledge-distillation", *(["onnx", baked] if baked else ["multi-domain"])],
        eval_results=results or None,
    )
    domain = heads.domains[0]
    return render_card(
        "model.md.j2",
        metadata,
        title=title,
        what=what,
        scores=scores,
        domain=domain,
        columns=heads.columns[domain],
        labels=heads.labels[domain],
        max_length=max_length,
        truncate=str(truncate),
        baked=baked,
        before=before,
        lost=lost,
        vocabulary=vocabulary,
    )
