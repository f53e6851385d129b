"""``--extend``: new domains for a finished student, and what becomes of its old ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hrkd_cli.choices import Split
from hrkd_cli.data.dataset import Dataset
from hrkd_cli.distillation.setup import DistillSetup
from hrkd_cli.distillation.wide_fit import branch_logits
from hrkd_cli.errors import DataError, GateError, UsageError
from hrkd_cli.formatting import join_names
from hrkd_cli.json_files import read_json
from hrkd_cli.layout import ModelFiles
from hrkd_cli.models.model_tokenizer import ModelTokenizer
from hrkd_cli.models.wide import ScoredWideBranch, WideBranch
from hrkd_cli.predict.heads import DomainHeads, FloatArray, domain_probabilities, predict_label_indices
from hrkd_cli.predict.model_spec import build_spec
from hrkd_cli.settings import DistillSettings
from hrkd_cli.training.dev_scoring import predict_split
from hrkd_cli.training.plan import token_limit


def extend_dataset(dataset: Dataset, path: Path, settings: DistillSettings) -> tuple[Dataset, DistillSettings]:
    """Return the data with the domains of the student in ``path``, and the settings with its maximum length.

    Old domains that the data lacks have no rows; the others keep the student's labels.

    Raises:
        DataError: the data has no new domain, other labels in an old one, or another number of texts per row.
        UsageError: another maximum length or truncation than the student's.
    """
    spec = build_spec(read_json(path / ModelFiles.config), {})
    old, name = spec.all_heads.labels, f"--extend {settings.extend}"
    if not set(dataset.domains) - set(old):
        raise DataError(f"{name}: it knows all domains of the data ({join_names(dataset.domains, 20)}); add a new one")
    for domain in sorted(set(dataset.domains) & set(old)):
        if other := sorted(set(dataset.labels[domain]) - set(old[domain])):
            raise DataError(
                f"{name}: in domain {domain!r} the data has labels that the student does not know: "
                f"{join_names(other, 20)}; correct them with hrkd prepare --rename-label, or distill a new student"
            )
    if spec.pair is not None and spec.pair != dataset.has_pairs:
        expected, actual = ("two texts", "one") if spec.pair else ("one text", "two")
        raise DataError(f"{name}: the student reads {expected} per row, but the data has {actual}")
    length = spec.config["hrkd"].get("encoder_length") or spec.max_length
    if settings.max_length not in (None, length):
        raise UsageError(f"--max-length {settings.max_length}: {name} reads {length} tokens; leave it out")
    if settings.truncate != spec.truncate:
        raise UsageError(f"--truncate {settings.truncate}: {name} needs --truncate {spec.truncate}, as before")
    return dataset.with_labels(old), replace(settings, max_length=length)


def check_old_domains(setup: DistillSetup, wide: ScoredWideBranch | None) -> dict[str, Any]:
    """Return the accuracy of every old domain before and after the training, in the main process.

    Each has ``n`` texts, ``before``, ``after``, and ``by``: ``labels`` if the texts are the domain's dev rows.
    Otherwise the accuracy is the one that the extended student's own probabilities promise, on the domain's unlabeled
    texts (``student``), or on the dev rows of all other domains (``other domains``).

    Raises:
        GateError: a domain lost more than ``--max-drop`` on texts of its own.
    """
    processes, old = setup.context.processes, setup.teachers.heads
    texts = {d: setup.train.examples[d] for d in old.domains if d in setup.texts and d not in setup.dev.examples}
    probe = replace(setup.dev, examples=setup.dev.examples | texts)
    encoders = [predict_split(model, probe, setup.context) for model in (setup.teachers.primary, setup.student)]
    scores: dict[str, Any] = {}
    problem = ""
    if processes.is_main:
        branches = (setup.old_branch, wide.branch if wide is not None else None)
        before, after = (_add_branch(*pair, setup) for pair in zip(encoders, branches, strict=True))
        scores = {domain: _score(domain, setup, before, after) for domain in old.domains}
        problem = describe_drop(scores, setup.settings.max_drop)
    if problem := processes.all_gather(problem)[0]:
        raise GateError(problem, result={"old_domains": scores})
    return scores


def _add_branch(
    logits: Mapping[str, FloatArray], branch: WideBranch | None, setup: DistillSetup
) -> Mapping[str, FloatArray]:
    """Add a wide branch's logits, which read the whole texts, to those of the encoder."""
    if branch is None:
        return logits
    pretrained = setup.train.tokenizer.pretrained
    tokenizer = ModelTokenizer(setup.student, pretrained, token_limit(setup.student, pretrained))
    rows = {domain: setup.dataset.split(domain, Split.DEV) or setup.texts[domain] for domain in logits}
    return {d: own + branch_logits(branch, tokenizer.encode_rows(rows[d])) for d, own in logits.items()}


def _score(
    domain: str, setup: DistillSetup, before: Mapping[str, FloatArray], after: Mapping[str, FloatArray]
) -> dict[str, Any]:
    old, labels = setup.teachers.heads, setup.dev.labels.get(domain)
    if labels is not None:
        by, parts, targets = "labels", [domain], np.eye(len(old.labels[domain]))[labels]
    else:
        by, parts = ("student", [domain]) if domain in before else ("other domains", list(setup.dev.examples))
        targets = np.concatenate([domain_probabilities(before[part], old, domain) for part in parts])

    def accuracy(logits: Mapping[str, FloatArray], heads: DomainHeads) -> float:
        answers = np.concatenate([predict_label_indices(logits[part], heads, domain) for part in parts])
        return float(targets[np.arange(len(targets)), answers].mean())

    scores = {"before": accuracy(before, old), "after": accuracy(after, setup.heads)}
    return {"n": len(targets), **scores, "by": by}


def describe_drop(scores: Mapping[str, Mapping[str, Any]], max_drop: float) -> str:
    """Return an error message if a domain lost more than ``max_drop`` points on its own texts, else an empty text.

    On texts of other domains answers change easily, because none of them is right (docs/results.md).
    """
    # Rounded, so that 0.9 - 0.895 is exactly half a point.
    drops = {d: round(100 * (s["before"] - s["after"]), 6) for d, s in scores.items() if s["by"] != "other domains"}
    worst = max(drops, key=lambda domain: drops[domain], default="")
    if not drops or drops[worst] <= max_drop:
        return ""
    before, after = (100 * scores[worst][name] for name in ("before", "after"))
    return (
        f"domain {worst!r} falls from {before:.1f}% to {after:.1f}%, by {drops[worst]:.2f} points, more than "
        f"--max-drop {max_drop:g}: no student was written; accept that with --resume and a larger --max-drop, or start "
        f"over (--force) with a larger --retention-weight or more texts of the domain"
    )
