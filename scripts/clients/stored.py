"""The predictions that ship with an exported folder, and the comparison with what a client says."""

import json
import math
from pathlib import Path


def read(folder: Path, graph: str) -> list[dict]:
    """Return the cases of a baked folder: text, label (None where it is too close to tell), probability by label."""
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


def compare(client: str, cases: list[dict], found: list[dict]) -> None:
    """Print what a client said; end with exit code 1 where it is not what is stored.

    Args:
        client: its name.
        cases: see ``read``.
        found: ``{"label": ..., "score": ...}`` a case, as text-classification pipelines give it.
    """
    worst = 0.0
    for case, said in zip(cases, found, strict=True):
        # A probability moves by at most half as much as the logits' difference does.
        worst = max(worst, abs(said["score"] - case["scores"][said["label"]]))
        print(f"  {said['label']:10} {said['score']:.4f}  {case['text'][:60]}")
    wrong = [
        case["text"] for case, said in zip(cases, found, strict=True) if case["label"] not in (None, said["label"])
    ]
    passed = not wrong and worst <= max(case["tolerance"] for case in cases)
    print(f"{client}: {len(cases)} texts, {len(wrong)} other labels, probabilities within {worst:.1g}", end=" ")
    print("- passed" if passed else "- FAILED")
    raise SystemExit(0 if passed else 1)
