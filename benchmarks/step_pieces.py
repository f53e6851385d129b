"""What it saves on a CPU to run a step's short and long rows apart.

    python benchmarks/step_pieces.py --data hrkd-out/dataset --tokenizer ENCODER_FOLDER

The same steps of `hrkd distill` both ways, in turns, in one process: a machine that is busy for a while slows both.
Options as for train_speed.py: ``--steps`` different steps, each run three times after a round that warms up.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from itertools import islice

from hrkd_cli.config import Precision
from hrkd_cli.model.precision import Arithmetic
from hrkd_cli.train import rows as step_rows
from hrkd_cli.train.optimiser import Optimiser
from train_speed import Bench, arguments

ROUNDS = 3
WAYS = {"together": (float("inf"), 0.0), "apart": (step_rows.SPARED_TOKENS, step_rows.SPARED_SHARE)}


def main() -> None:
    """Print both."""
    with tempfile.TemporaryDirectory() as place:
        sys.argv += ["--place", place]
        bench = Bench(arguments())
        arithmetic = Arithmetic(Precision(bench.options.precision), bench.device)
        arithmetic.prepare()
        cache = bench.cache(arithmetic)
        cache.build(lambda _: None)
        task = bench.task(cache, arithmetic)
        optimiser = Optimiser([bench.student, task.projections], bench.settings, 10**6, arithmetic=arithmetic)
        steps = list(islice(bench.sampler(), bench.options.steps))
        spent: dict[str, list[float]] = {way: [] for way in WAYS}
        tokens = dict.fromkeys(WAYS, 0)
        for number in range(ROUNDS + 1):
            for rows in steps:
                for way, (least, share) in WAYS.items():
                    step_rows.SPARED_TOKENS, step_rows.SPARED_SHARE = least, share
                    tick = time.perf_counter()
                    batch = task.load(rows)
                    with arithmetic.forward():
                        loss = task.loss(batch)
                    arithmetic.backward(loss.total)
                    optimiser.step()
                    if number:
                        spent[way].append(time.perf_counter() - tick)
                        tokens[way] += sum(piece.batch.mask.numel() for piece in batch)
        examples = ROUNDS * sum(len(chosen) for rows in steps for chosen in rows.values())
        for way, seconds in spent.items():
            mean, median = (1e3 * f(seconds) for f in (statistics.mean, statistics.median))
            print(
                f"{way}: {mean:.0f} ms a step (median {median:.0f}), {tokens[way] / examples:.1f} padded tokens a row"
            )


if __name__ == "__main__":
    main()
