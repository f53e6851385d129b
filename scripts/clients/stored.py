"""Reads the predictions stored in an exported folder and compares a client's predictions with them."""

import json
import math
from pathlib import Path


def read(folder: Path, graph: str) -> list[dict]:
    """Return the stored cases: text, label (None if too close to tell), score of each label, tolerance."""
    stored = json.loads((folder / "onnx/self_check.json").read_text(encoding="utf-8"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    names = [config["id2label"][str(n)] for n in range(len(config["id2label"]))]
    entry = stored["files"][graph]
    cases = []
    for case, label, logits in zip(stored["cases"], entry["labels"], entry["logits"], strict=True):
        exponentials = [math.exp(value - max(logits)) for value in logits]
        scores = dict(zip(names, (value / sum(exponentials) for value in exponentials), strict=True))
        cases.append({"text": case["text"], "label": label, "scores": scores, "tolerance": entry["tolerance"]})
    return cases


def compare(client: str, cases: list[dict], predictions: list[dict]) -> None:
    """Print a client's predictions; exit with code 1 if they differ from the stored ones.

    Args:
        client: its name.
        cases: see ``read``.
        predictions: ``{"label": ..., "score": ...}`` per case, as text-classification pipelines return it.
    """
    worst, wrong = 0.0, 0
    for case, prediction in zip(cases, predictions, strict=True):
        label, score = prediction["label"], prediction["score"]
        # A score changes by at most half as much as the difference between two logits.
        worst = max(worst, abs(score - case["scores"][label]))
        wrong += case["label"] not in (None, label)
        print(f"  {label:10} {score:.4f}  {case['text'][:60]}")
    passed = not wrong and worst <= max(case["tolerance"] for case in cases)
    print(f"{client}: {len(cases)} texts, {wrong} other labels, probabilities within {worst:.1g}", end=" ")
    print("- passed" if passed else "- FAILED")
    raise SystemExit(0 if passed else 1)
