"""Texts per second of ``hrkd predict --batch-size``: ``python benchmarks/predict_speed.py MODEL [MODEL...]``.

The texts are the built-in sample (sentences of product reviews, all splits), or those of ``--input``. Each batch size
labels all of them, in turns, and the fastest of three turns counts. ``--clock cpu`` takes the CPU time of the process,
which with one thread is about the time on an idle machine, even if other programs run.
"""

import argparse
import os
import time
from pathlib import Path

from hrkd_cli import Predictor, sample
from hrkd_cli.data.texts import read_texts
from hrkd_cli.predict.records import make_records
from hrkd_cli.predict.text_input import InputRow

BATCH_SIZES = (1, 8, 32, 128)
TURNS = 3


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--input", type=Path, nargs="+", help="files of texts (default: the sample)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    options = parser.parse_args()
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    files = options.input or sorted(Path(sample.__file__).parent.glob("*.jsonl"))
    texts = [row.text for file in files for row in read_texts(file)]
    characters = sum(map(len, texts)) / len(texts)
    load = os.getloadavg()[0]
    print(f"{len(texts)} texts, {characters:.0f} characters on average, load of the machine before: {load:.1f}")
    print(f"\n| texts per second | {' | '.join(map(str, BATCH_SIZES))} |\n| --- |{' ---: |' * len(BATCH_SIZES)}")
    for model in options.models:
        predictor = Predictor(model, threads=options.threads)
        rows = [InputRow(text, predictor.domains[0], {}) for text in texts]
        fastest = dict.fromkeys(BATCH_SIZES, float("inf"))
        for _ in range(TURNS):
            for size in BATCH_SIZES:
                start = clock()
                for _record in make_records(predictor, rows, batch_size=size, as_they_arrive=False):
                    pass
                fastest[size] = min(fastest[size], clock() - start)
        print(f"| {model} | {' | '.join(f'{len(texts) / seconds:.0f}' for seconds in fastest.values())} |", flush=True)


if __name__ == "__main__":
    main()
