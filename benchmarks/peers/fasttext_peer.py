"""fastText's classifier on words and word pairs, one per set of labels, compressed with its own quantizer.

The settings are those of its tutorial. It has one text per row, so the texts of a pair are joined.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import fasttext

from peer import Data, Options, Predict, Text, joined, run_method

LABEL = "__label__"
SETTINGS = {"epoch": 25, "lr": 0.5, "wordNgrams": 2, "dim": 50, "bucket": 200_000, "thread": 1}


def lines(texts: Sequence[Text]) -> list[str]:
    """Return texts in lower case as words and punctuation marks, without line breaks."""
    return [" ".join(re.findall(r"\w+|[^\w\s]", text.lower())) for text in joined(texts)]


def train(data: Data, folder: Path, options: Options) -> None:
    """Train one model, or one per domain."""
    for name, _, rows in data.groups():
        file = folder / f"{name}.train"
        examples = zip(rows.labels, lines(rows.texts), strict=True)
        file.write_text("".join(f"{LABEL}{label} {text}\n" for label, text in examples), encoding="utf-8")
        model = fasttext.train_supervised(str(file), seed=options.seed, verbose=0, **SETTINGS)
        model.quantize()
        model.save_model(str(folder / f"{name}.ftz"))
        file.unlink()


def load(folder: Path) -> Predict:
    """Open the stored models."""
    models = {file.stem: fasttext.load_model(str(file)) for file in folder.glob("*.ftz")}

    def predict(texts: Sequence[Text], domain: str) -> Sequence[str]:
        labels, _ = (models.get("all") or models[domain]).predict(lines(texts))
        return [best[0].removeprefix(LABEL) for best in labels]

    return predict


if __name__ == "__main__":
    run_method(train, load, weights=["*.ftz"])
