"""Writing of model folders that other transformers tools can open, and model cards."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hrkd_cli.cards import code_span, render_card
from hrkd_cli.choices import Truncate
from hrkd_cli.json_files import read_json_or_empty
from hrkd_cli.layout import ModelFiles
from hrkd_cli.models.loading import quiet_libraries
from hrkd_cli.predict.heads import DomainHeads

CONFIG_FORMAT = 1
# transformers 5 writes class names that 4.57 does not know; both know this one.
PORTABLE_TOKENIZER = "PreTrainedTokenizerFast"
NEW_TOKENIZERS = ("TokenizersBackend",)
# Padding and truncation settings left in a tokenizer, and settings of loading it.
LOCAL_SETTINGS = (
    "max_length",
    "pad_to_multiple_of",
    "stride",
    "truncation_side",
    "truncation_strategy",
    "is_local",
    "local_files_only",
)


def save_model(
    model: Any,
    tokenizer: Any,
    path: Path,
    heads: DomainHeads,
    *,
    max_length: int,
    has_pairs: bool,
    truncate: Truncate = Truncate.HEAD,
    **facts: Any,
) -> None:
    """Write config, weights (safetensors) and the fast tokenizer into ``path``.

    The config also records domains, maximum length, truncation and whether a row has two texts, for later stages.
    ``facts`` are recorded too: ``encoder_length``, the encoder's own maximum length if a wide branch reads more, and
    ``domain_posterior`` if the softmax over all outputs is p(domain, label | text).
    """
    path.mkdir(parents=True, exist_ok=True)
    model.config.hrkd = {
        "format": CONFIG_FORMAT,
        "domains": heads.to_config()["domains"],
        "max_length": max_length,
        "truncate": str(truncate),
        "pair": has_pairs,
        **facts,
    }
    with quiet_libraries():
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
    config = read_json_or_empty(path / ModelFiles.tokenizer_config)
    config = {name: value for name, value in config.items() if name not in LOCAL_SETTINGS}
    if config.get("tokenizer_class") in NEW_TOKENIZERS:
        config["tokenizer_class"] = PORTABLE_TOKENIZER
    if truncate is Truncate.TAIL:  # other tools know only head and tail; they use the head for head-tail
        config["truncation_side"] = "left"
    write_json(path / ModelFiles.tokenizer_config, config)


def model_card(
    *,
    title: str,
    description: str,
    heads: DomainHeads,
    scores: Mapping[str, Mapping[str, Any]],
    single_domain: str | None = None,
    **facts: Any,
) -> str:
    """Return the README.md of a model folder: how the model was made, its scores, how to use it.

    Args:
        title: one line.
        description: a sentence or two on how the model was made.
        heads: its domain heads.
        scores: dev scores by domain, each with ``n``, ``accuracy`` and ``macro_f1``; empty if unknown.
        single_domain: the domain of a single-domain export; None for all heads.
        **facts: other variables of ``templates/model.md.j2``: ``max_length``, ``truncate``, ``encoder_length`` and
            ``domain_posterior`` (see ``save_model``); for a trimmed vocabulary also ``student_scores``, ``gate`` (drop
            and max_drop) and ``vocabulary``.
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
        tags=["hrkd", "knowledge-distillation", *(["onnx", single_domain] if single_domain else ["multi-domain"])],
        eval_results=results or None,
    )
    domain = heads.domains[0]
    facts |= {
        "domain_code": code_span(domain),
        "domain_word": shlex.quote(domain),
        "columns": heads.columns[domain],
        "labels": heads.labels[domain],
    }
    facts |= {"title": title, "description": description, "scores": scores, "single_domain": single_domain}
    return render_card("model.md.j2", metadata, **facts)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write an indented JSON file."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
