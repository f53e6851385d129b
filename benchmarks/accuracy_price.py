"""What speed costs in accuracy: the fast path against the plain one, seed by seed.

    python benchmarks/accuracy_price.py --data hrkd-out/dataset --teacher hrkd-out/teacher --student ENCODER --epochs 3

``fast``: what ``hrkd distill`` does by itself (bf16 where there is hardware for it, kept teacher outputs, steps of rows
of similar length). ``plain``: float32, the teachers asked at every step, steps as they are drawn. Prints test accuracy
(mean over domains) of both for each seed, and the mean difference with its 95 % interval: seeds and test rows drawn
anew together, 10,000 times. A run that is there already in ``--out`` is not made again. The data must be a folder made
by ``hrkd prepare``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np

SIDES = ("plain", "fast")
PLAIN = {"precision": "fp32", "cache_teacher": "off"}
DRAWS = 10_000


def main() -> None:
    """Make the runs, then compare them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="prepared dataset folder")
    parser.add_argument("--teacher", required=True, help="teacher folder")
    parser.add_argument("--student", required=True, help="as in hrkd distill")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--out", default="accuracy-price", help="folder for the runs")
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    jobs = [(vars(options), side, seed) for seed in seeds for side in SIDES]
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        found = dict(zip([job[1:] for job in jobs], pool.starmap(run, jobs, chunksize=1), strict=True))
    compare(found, seeds)


def run(options: dict[str, Any], side: str, seed: int) -> dict[str, list[int]]:
    """Distil and score one student; return for each domain which test rows it gets right."""
    out = Path(options["out"]) / f"{side}-{seed}"
    result = out.with_suffix(".json")
    if not result.exists():
        import hrkd_cli.distillation.distill as engine
        from hrkd_cli import distill

        if side == "plain":  # no option: nobody wants slower steps, this comparison apart
            make = engine.make_sampler
            engine.make_sampler = lambda *args, **more: make(*args[:-1], None, **more)
        distill(
            options["teacher"],
            data=options["data"],
            out=out,
            force=out.exists(),
            student=options["student"],
            epochs=options["epochs"],
            seed=seed,
            device=options["device"],
            **(PLAIN if side == "plain" else {}),
        )
        if side == "plain":
            engine.make_sampler = make
        result.write_text(json.dumps(right(out, options["data"], options["device"])))
    return json.loads(result.read_text())


def right(folder: Path, data: str, device: str) -> dict[str, list[int]]:
    """Return 1 for each test row that a model gets right, by domain."""
    from hrkd_cli.config import Precision
    from hrkd_cli.data.opening import load_for_training
    from hrkd_cli.models.backend import pick_device
    from hrkd_cli.models.encoding import make_encoder
    from hrkd_cli.models.loading import load_classifier, load_tokenizer
    from hrkd_cli.models.precision import Arithmetic
    from hrkd_cli.predict.heads import DomainHeads
    from hrkd_cli.training.scoring import encode_split, predict_labels

    arithmetic = Arithmetic(Precision.FP32, pick_device(device))
    dataset = load_for_training(data, force=False, on_event=lambda _: None)
    model = load_classifier(folder, None).to(arithmetic.device).eval()
    heads = DomainHeads.from_config(model.config.to_dict())
    length = json.loads((folder / "hrkd.json").read_text())["options"]["max_length"]["value"]
    encoder = make_encoder(model, load_tokenizer(folder), length)
    split = encode_split(dataset, "test", encoder)
    return {
        domain: (predict_labels(model, encoded, heads.columns[domain], encoder, arithmetic) == split.labels[domain])
        .astype(int)
        .tolist()
        for domain, encoded in split.encoded.items()
    }


def compare(found: dict[tuple[str, int], dict[str, list[int]]], seeds: list[int]) -> None:
    """Print a table and the paired difference."""
    domains = list(found[SIDES[0], seeds[0]])
    # For each domain (seeds, rows): the difference of fast and plain, row by row.
    gaps = [np.array([np.subtract(found["fast", seed][d], found["plain", seed][d]) for seed in seeds]) for d in domains]
    print("seed   plain    fast  difference")
    for number, seed in enumerate(seeds):
        plain, fast = (100 * np.mean([np.mean(found[side, seed][d]) for d in domains]) for side in SIDES)
        print(f"{seed:4d}  {plain:6.2f}  {fast:6.2f}  {100 * np.mean([gap[number].mean() for gap in gaps]):+10.2f}")
    mean, low, high = paired(gaps, len(seeds))
    print(f"mean difference {mean:+.2f} points, 95 % interval [{low:+.2f}, {high:+.2f}]")


def paired(gaps: list[np.ndarray], seeds: int) -> tuple[float, float, float]:
    """Return mean and 95 % interval, in points, of differences by domain, (seeds, rows) each: both are drawn anew."""
    rng = np.random.default_rng(0)
    drawn = np.empty(DRAWS)
    for n in range(DRAWS):
        chosen = rng.integers(seeds, size=seeds)
        drawn[n] = np.mean([gap[chosen][:, rng.integers(gap.shape[1], size=gap.shape[1])].mean() for gap in gaps])
    low, high = 100 * np.percentile(drawn, [2.5, 97.5])
    return float(100 * np.mean([gap.mean() for gap in gaps])), float(low), float(high)


if __name__ == "__main__":
    main()
