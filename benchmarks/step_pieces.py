"""What it saves on a CPU to run a step's rows side by side, and its short and long ones apart.

    python benchmarks/step_pieces.py --data hrkd-out/dataset --tokenizer ENCODER_FOLDER

The same steps of `hrkd distill` each way, in turns, in one process: a machine that is busy for a while slows both.
Options as for train_speed.py: ``--steps`` different steps, each run three times after a round that warms up.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from itertools import islice

from hrkd_cli.choices import Precision
from hrkd_cli.models.precision import Arithmetic
from hrkd_cli.training import rows as step_rows
from hrkd_cli.training.optimizer import Optimizer
from train_speed import Bench, arguments

ROUNDS = 3
TOGETHER, APART = (float("inf"), 0.0), (step_rows.SPARED_TOKENS, step_rows.SPARED_SHARE)
WAYS = {  # whether rows stand side by side, and from which padding on there are groups
    "padded to the longest": (False, TOGETHER),
    "padded, short and long rows apart": (False, APART),
    "side by side, attention padded to the longest": (True, TOGETHER),
    "side by side, attention of short and long rows apart": (True, APART),
}


def main() -> None:
    """Print all."""
    with tempfile.TemporaryDirectory() as place:
        sys.argv += ["--place", place]
        bench = Bench(arguments())
        arithmetic = Arithmetic(Precision(bench.options.precision), bench.device)
        arithmetic.prepare()
        cache = bench.cache(arithmetic)
        cache.build(lambda _: None)
        task = bench.task(cache, arithmetic)
        optimizer = Optimizer([bench.student, task.projections], bench.settings, 10**6, arithmetic=arithmetic)
        found = task.side_by_side
        steps = list(islice(bench.sampler(), bench.options.steps))
        spent: dict[str, list[float]] = {way: [] for way in WAYS}
        tokens = dict.fromkeys(WAYS, 0)
        for number in range(ROUNDS + 1):
            for rows in steps:
                for way, (beside, (least, share)) in WAYS.items():
                    task.side_by_side = found if beside else None
                    step_rows.SPARED_TOKENS, step_rows.SPARED_SHARE = least, share
                    tick = time.perf_counter()
                    batch = task.collate(rows)
                    with arithmetic.forward():
                        loss = task.loss(batch)
                    arithmetic.backward(loss.total)
                    optimizer.step()
                    if number:
                        spent[way].append(time.perf_counter() - tick)
                        tokens[way] += sum(piece.batch.mask.numel() for piece in batch)
        examples = ROUNDS * sum(len(chosen) for rows in steps for chosen in rows.values())
        for way, seconds in spent.items():
            mean, median = (1e3 * f(seconds) for f in (statistics.mean, statistics.median))
            print(f"{way}: {mean:.0f} ms a step (median {median:.0f}), {tokens[way] / examples:.1f} tokens a row")


if __name__ == "__main__":
    main()
