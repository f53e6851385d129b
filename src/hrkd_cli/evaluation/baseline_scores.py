"""Dev accuracy of the linear baselines, as a yardstick for a student that has just been trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hrkd_cli.choices import Split
from hrkd_cli.data.dataset import Dataset, TextRows, sample_rows
from hrkd_cli.errors import one_line
from hrkd_cli.evaluation.linear_baseline import train_linear_baselines
from hrkd_cli.evaluation.metrics import average_scores
from hrkd_cli.evaluation.provenance import find_start_encoder
from hrkd_cli.evaluation.scoring import score_labels
from hrkd_cli.events import Note, OnEvent

SPLITS = (Split.TRAIN, Split.DEV)
MAX_ROWS = 5000
"""Train rows and dev rows of all domains together, so that a frozen BERT-base takes minutes on a CPU."""


def baseline_dev_scores(dataset: Dataset, teacher: Path, device: str, on_event: OnEvent) -> dict[str, float]:
    """Return the dev accuracy of each baseline by name, the unweighted mean over domains; empty if one fails.

    Args:
        dataset: data of the student. Of more than ``MAX_ROWS`` rows of a split, random ones are used.
        teacher: folder that says which encoder to use.
        device: where the encoder runs.
        on_event: receives notes, also about a baseline that cannot be trained.
    """
    rows = {
        domain: {str(split): sampled_rows(dataset, domain, split) for split in SPLITS} for domain in dataset.domains
    }
    train_data = replace(dataset, rows=rows)
    dev = {domain: parts[Split.DEV] for domain, parts in rows.items()}
    encoder = find_start_encoder([teacher], on_event)
    try:
        baselines = train_linear_baselines(
            train_data, dev, Split.DEV, "the data", encoder=encoder, device=device, on_event=on_event
        )
    except Exception as error:  # the student is trained but not yet written, and must not be lost
        on_event(Note(f"not compared with linear baselines: {one_line(error)}", warning=True))
        return {}
    return {
        baseline.features.baseline: average_scores(score_labels(baseline.labels, dataset.labels, dev)).accuracy
        for baseline in baselines
    }


def sampled_rows(dataset: Dataset, domain: str, split: str) -> TextRows:
    """Return random rows of a domain, so that all domains together have at most about ``MAX_ROWS``."""
    rows, total = dataset.split(domain, split), sum(len(dataset.split(name, split)) for name in dataset.domains)
    sample = sample_rows(len(rows), MAX_ROWS / max(total, 1))
    pairs = None if rows.pairs is None else [rows.pairs[n] for n in sample]
    return TextRows([rows.texts[n] for n in sample], pairs, [rows.labels[n] for n in sample])
