"""Accuracy against bytes as the vocabulary shrinks: ``python benchmarks/vocabulary.py STUDENT --data DATASET``.

Each size is a ``hrkd export --int8 --vocabulary-size N`` into a folder that is thrown away, scored on dev and on test
one text at a time. Tokens are chosen on train alone. First the whole vocabulary, then all that train uses.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from hrkd_cli import evaluate, export

SIZES = (16000, 12000, 8000, 6000, 4000, 3000, 2500)
HEADS = ("tokens", "int8 MB", "with tokenizer MB", "dev tokens changed %", "unknown in dev", "dev %", "test %")


def accuracy(graph: Path, data: str, split: str) -> float:
    """Return the average accuracy over domains, in points."""
    return 100 * evaluate([graph], data=data, split=split).models[0].average.accuracy


def row(folder: Path, data: str, tokens: int, changed: float, unknown: int) -> list[str]:
    """Return the cells of one exported folder."""
    graph = folder / "onnx/model_quantized.onnx"
    size = graph.stat().st_size
    both = size + (folder / "tokenizer.json").stat().st_size
    scores = [f"{accuracy(graph, data, split):.2f}" for split in ("dev", "test")]
    return [f"{tokens:,}", f"{size / 1e6:.2f}", f"{both / 1e6:.2f}", f"{changed:.2f}", str(unknown), *scores]


def main() -> None:
    """Print the curve as a Markdown table, a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("student", type=Path, help="student folder")
    parser.add_argument("--data", required=True, help="prepared dataset with train, dev and test")
    parser.add_argument("--domain", help="bake this head, too")
    parser.add_argument("--sizes", type=lambda text: [int(n) for n in text.split(",")], default=list(SIZES))
    given = parser.parse_args()
    print("| " + " | ".join(HEADS) + " |\n|" + " ---: |" * len(HEADS))
    with tempfile.TemporaryDirectory() as place:
        options = {"int8": True, "latency": False, "max_drop": 100.0, "data": given.data, "domain": given.domain}
        whole = Path(place) / "whole"
        export(given.student, out=whole, **options)
        tokens = json.loads((whole / "config.json").read_text(encoding="utf-8"))["vocab_size"]
        print("| " + " | ".join(row(whole, given.data, tokens, 0, 0)) + " |", flush=True)
        for size in [None, *given.sizes]:
            out = Path(place) / str(size)
            found = export(given.student, out=out, trim_vocabulary=True, vocabulary_size=size, **options).vocabulary
            changed = 100 * found.dev.changed / found.dev.tokens
            cells = row(out, given.data, found.after, changed, found.dev.unknown_after)
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
