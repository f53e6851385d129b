"""The README.md of a teacher's or student's folder: a model card with its scores in the hub's model-index form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hrkd_cli.choices import Truncate
from hrkd_cli.predict.heads import DomainHeads

CARD = """---
{front}
---

# {title}

{what}

| domain | rows | accuracy | macro-F1 |
| --- | ---: | ---: | ---: |
{rows}

Scores are on the dev split, which chose the step that was kept; `hrkd eval` scores the test split.

## Use

The model has one output for every (domain, label) pair. `hrkd predict` takes the softmax over one domain's outputs, or
the mean over all domains:

    hrkd predict . --domain {domain} "a text"

With transformers alone, `AutoModelForSequenceClassification.from_pretrained` opens this folder; domain `{domain}` is
the outputs {columns} ({labels}).

{cut} Options, versions and data fingerprint: `hrkd.json`. Every step: `metrics.jsonl`.
"""


KEPT = {Truncate.HEAD: "", Truncate.TAIL: ", the last ones", Truncate.HEAD_TAIL: ", half from each end"}
"""What a card says of longer texts, after the number of tokens."""


def model_card(
    *,
    title: str,
    what: str,
    heads: DomainHeads,
    dev: Mapping[str, Any],
    max_length: int,
    parameters: int,
    truncate: Truncate = Truncate.HEAD,
) -> str:
    """Write the card.

    Args:
        title: one line.
        what: a sentence or two on how the model was made.
        heads: its outputs.
        dev: dev scores in the shape of ``hrkd eval --json``.
        max_length: tokens inputs are cut to.
        parameters: number of parameters.
        truncate: what was kept of longer texts.
    """
    rows = [f"| {name} | {s['n']} | {s['accuracy']:.3f} | {s['macro_f1']:.3f} |" for name, s in dev["domains"].items()]
    rows.append(f"| average | | {dev['average']['accuracy']:.3f} | {dev['average']['macro_f1']:.3f} |")
    domain = heads.domains[0]
    return CARD.format(
        front=_front_matter(title, heads, dev),
        title=title,
        what=f"{what} {parameters / 1e6:.1f} million parameters.",
        rows="\n".join(rows),
        domain=domain,
        columns=", ".join(map(str, heads.columns[domain])),
        labels=", ".join(heads.labels[domain]),
        cut=f"Texts were cut to {max_length} tokens{KEPT[truncate]}.",
    )


def _front_matter(title: str, heads: DomainHeads, dev: Mapping[str, Any]) -> str:
    """Return the card's YAML, written through a library so that no domain name can break it."""
    import yaml  # type: ignore[import-untyped]

    results = [
        {
            "task": {"type": "text-classification"},
            "dataset": {"name": name, "type": name, "split": "dev"},
            "metrics": [
                {"type": "accuracy", "value": round(dev["domains"][name]["accuracy"], 4)},
                {"type": "f1", "name": "macro-F1", "value": round(dev["domains"][name]["macro_f1"], 4)},
            ],
        }
        for name in heads.domains
    ]
    front = {
        "pipeline_tag": "text-classification",
        "library_name": "transformers",
        "tags": ["hrkd", "knowledge-distillation", "multi-domain"],
        "model-index": [{"name": title, "results": results}],
    }
    return str(yaml.safe_dump(front, sort_keys=False, allow_unicode=True)).strip()
