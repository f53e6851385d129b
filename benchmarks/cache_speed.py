"""How fast teacher outputs get to the disk when computing them costs nothing, and are looked through again.

    python benchmarks/cache_speed.py --data hrkd-out/dataset --tokenizer ENCODER_FOLDER

Options as for train_speed.py. The outputs of BERT-base's shape are made up once for each batch; what is measured is
everything after the teacher's forward pass: taking rows out of their padding, checksums, writing, waiting for the disk.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from typing import Any

import torch

from hrkd_cli.choices import Precision
from hrkd_cli.distillation.cache import TeacherCache
from hrkd_cli.models.precision import Arithmetic
from train_speed import Bench, arguments, machine

RUNS = 5


def main() -> None:
    """Print both rates."""
    made_up: dict[tuple[int, ...], torch.Tensor] = {}

    def forward(self: TeacherCache, domain: str, rows: Any) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = int(self.lengths[domain][list(rows)].max())
        shape = (len(rows), self.kept.units, tokens, self.kept.width)
        if shape not in made_up:
            made_up[shape] = torch.randint(-(2**15), 2**15, shape, dtype=torch.int16).view(self.arithmetic.stored)
        labels = len(self.teachers.heads.labels[domain])
        return made_up[shape], torch.zeros(len(rows), labels)

    TeacherCache.forward = forward  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as place:
        sys.argv += ["--place", place]
        bench = Bench(arguments())
        arithmetic = Arithmetic(Precision(bench.options.precision), bench.device)
        writing, looking = [], []
        for run in range(RUNS + 1):  # the first makes outputs up
            cache = bench.cache(arithmetic)
            tick = time.perf_counter()
            cache.build(lambda _: None)
            built = time.perf_counter()
            cache.build(lambda _: None)
            if run:
                writing.append(built - tick)
                looking.append(time.perf_counter() - built)
            shutil.rmtree(cache.folder.path)
        size = cache.bytes / 1e9
        print(f"{machine()}; {cache.rows} rows, {size:.2f} GB")
        for what, seconds in (("written", writing), ("looked through", looking)):
            times = ", ".join(f"{s:.2f}" for s in seconds)
            median = statistics.median(seconds)
            print(f"{what}: {cache.rows / median:,.0f} rows/s, {size / median:.2f} GB/s (seconds: {times})")


if __name__ == "__main__":
    main()
