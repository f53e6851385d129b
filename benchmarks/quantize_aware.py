"""Whether a last stretch of distillation with int8 rounding simulated pays: the same steps with and without it.

    python benchmarks/quantize_aware.py --data hrkd-out/dataset --teacher hrkd-out/teacher --student ENCODER --epochs 3

For each seed three students of the same steps, rows and learning rates: ``plain``, and one for each int8 recipe (a
scale a ``column``, a scale a ``matrix``) in which the last ``--finish-epochs`` of the epochs see the rounding of that
recipe (``rounding.py``). Each is exported without a gate in fp32 and by both recipes, and labels dev and
test one text at a time. The weights of the last step are taken, which no dev score has picked; with ``--pick best``
those of the best dev score, which with rounding is that of the rounded student.

Prints accuracy (mean over domains) by seed and, for each recipe, int8 finished against int8 plain: the mean difference
and its 95 % interval, seeds and rows drawn anew together. A student or a score that is there already in ``--out`` is
not made again. The data must be a folder made by ``hrkd prepare``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from accuracy_price import paired

RECIPES = ("column", "matrix")
SIDES = ("plain", *RECIPES)
SPLITS = ("test", "dev")
NEVER = 10**9  # steps between two dev scores: only the last step is scored

Right = dict[str, dict[str, list[int]]]
"""By split and domain: 1 for each row that is right."""


def main() -> None:
    """Make the runs, then compare them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="prepared dataset folder")
    parser.add_argument("--teacher", required=True, help="teacher folder")
    parser.add_argument("--student", required=True, help="as in hrkd distill")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--finish-epochs", type=float, default=1.0, help="of them, with rounding")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--sides", default=",".join(SIDES), help="plain and the recipes that are trained for")
    parser.add_argument("--pick", choices=("last", "best"), default="last", help="which step's weights are taken")
    parser.add_argument("--target", default="avx512-vnni", help="CPU that the int8 files are for (hrkd export)")
    scored = "int8 by onnxruntime, or simulated; auto: simulated where this CPU would saturate"
    parser.add_argument("--score", choices=("auto", "onnx", "simulated"), default="auto", help=scored)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--options", default="{}", help="more options of distill, as JSON")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--out", default="quantize-aware", help="folder for the runs")
    options = parser.parse_args()
    seeds, sides = [int(seed) for seed in options.seeds.split(",")], options.sides.split(",")
    if "plain" not in sides or set(sides) - set(SIDES):
        parser.error(f"--sides: plain, and others of {', '.join(RECIPES)}")
    if not 0 < options.finish_epochs <= options.epochs:
        parser.error("--finish-epochs: more than 0, at most --epochs")
    jobs = [(vars(options), side, seed) for seed in seeds for side in sides]
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        found = dict(zip([job[1:] for job in jobs], pool.starmap(run, jobs, chunksize=1), strict=True))
    for split in SPLITS:
        for recipe in RECIPES:
            if recipe in sides:
                compare(found, seeds, recipe, split)


def run(options: dict[str, Any], side: str, seed: int) -> dict[str, Right]:
    """Distil, export and score one student; return what each of its files gets right."""
    out = Path(options["out"]) / f"{side}-{seed}"
    result = out.with_suffix(".json")
    if not result.exists():
        if not (out / "hrkd.json").exists():  # written last: the folder appears whole
            with finishing(side, options) if side != "plain" else nullcontext():
                train(options, out, seed)
        found = right(out, options)
        draft = result.with_suffix(".part")
        draft.write_text(json.dumps(found))
        draft.replace(result)
        test = {name: round(mean(rows["test"]), 2) for name, rows in found.items()}
        print(f"{side}, seed {seed}: test {test}", flush=True)
    return json.loads(result.read_text())


def train(options: dict[str, Any], out: Path, seed: int) -> None:
    """Distil one student."""
    from hrkd_cli import distill

    distill(
        options["teacher"],
        data=options["data"],
        out=out,
        force=True,
        student=options["student"],
        epochs=options["epochs"],
        seed=seed,
        device=options["device"],
        **({"eval_every": NEVER} if options["pick"] == "last" else {}),
        **json.loads(options["options"]),
    )


@contextmanager
def finishing(recipe: str, options: dict[str, Any]) -> Iterator[None]:
    """Let distillations inside the context round in their last stretch, and score the rounded student on dev."""
    import hrkd_cli.distillation.distill as engine
    from hrkd_cli.onnx_export.targets import weights_for
    from rounding import Rounding

    share = options["finish_epochs"] / options["epochs"]
    largest = weights_for(options["target"]).largest
    tasks: list[Any] = []
    plain = engine.DistillTask, engine.Run, engine.score

    class Task(engine.DistillTask):
        def __init__(self, side: Any, student: Any, *rest: Any, **named: Any) -> None:
            super().__init__(side, student, *rest, **named)
            self.rounding = Rounding(student, per_channel=recipe == "column", largest=largest)
            self.on = False
            tasks.append(self)

        def loss(self, batch: Any) -> Any:
            with self.rounding.on() if self.on else nullcontext():
                return super().loss(batch)

    class Run(engine.Run):
        def _restore(self) -> tuple[int, int]:
            self._switch(0)  # a run of this benchmark starts at the first step
            return super()._restore()

        def _consume(self, step: Any, interruption: Any) -> bool:
            self._switch(step.number)
            return super()._consume(step, interruption)

        def _switch(self, done: int) -> None:
            self.task.on = done >= self.steps - round(self.steps * share)

    def score(models: Any, *rest: Any) -> Any:
        with tasks[0].rounding.on() if tasks and models is tasks[0].student.model else nullcontext():
            return plain[2](models, *rest)

    engine.DistillTask, engine.Run, engine.score = Task, Run, score
    try:
        yield
    finally:
        engine.DistillTask, engine.Run, engine.score = plain


def right(folder: Path, options: dict[str, Any]) -> dict[str, Right]:
    """Export a student without a gate and return what it gets right in fp32 and by each int8 recipe."""
    from hrkd_cli.config import Target
    from hrkd_cli.models.backend import TorchBackend
    from hrkd_cli.onnx_export.plain import write_fp32
    from hrkd_cli.onnx_export.quantize import write_smaller
    from hrkd_cli.onnx_export.recipes import Precision, Recipe
    from hrkd_cli.onnx_export.targets import detect, weights_for
    from hrkd_cli.predict.onnx_backend import OnnxBackend
    from rounding import Rounding

    weights = weights_for(Target(options["target"]))
    student = TorchBackend(folder, device="cpu")
    graphs = folder.with_name(f"{folder.name}-onnx")
    graphs.mkdir(exist_ok=True)
    write_fp32(student, graphs / "fp32.onnx")
    simulated = options["score"] == "simulated"
    if options["score"] == "auto":
        simulated = weights.bits == 8 and detect() is Target.AVX2
    found = {"fp32": answers(OnnxBackend(folder, graphs / "fp32.onnx", threads=1), options["data"])}
    for name in RECIPES:
        recipe = Recipe(precision=Precision.INT8, per_channel=name == "column")
        if simulated:
            backend = TorchBackend(folder, device=options["device"])
            with Rounding(backend.model, per_channel=recipe.per_channel, largest=weights.largest).on():
                found[name] = answers(backend, options["data"])
        else:
            write_smaller(graphs / "fp32.onnx", graphs / f"{name}.onnx", recipe, weights=weights)
            found[name] = answers(OnnxBackend(folder, graphs / f"{name}.onnx", threads=1), options["data"])
    shutil.rmtree(graphs)
    return found


def answers(backend: Any, data: str) -> Right:
    """Return 1 for each row that a backend gets right, by split and domain."""
    from hrkd_cli.data.opening import load_for_training
    from hrkd_cli.evaluation.scoring import predict_labels

    dataset = load_for_training(data, force=False, on_event=lambda _: None)
    heads = backend.spec.heads
    found: Right = {}
    for split in SPLITS:
        predicted = predict_labels(backend, heads, dataset, split)
        found[split] = {
            domain: [
                int(heads.labels[domain][label] == truth)
                for label, truth in zip(labels, dataset.split(domain, split).labels, strict=True)
            ]
            for domain, labels in predicted.items()
        }
    return found


def mean(rows: dict[str, list[int]]) -> float:
    """Return accuracy in points, each domain counted alike."""
    return float(100 * np.mean([np.mean(values) for values in rows.values()]))


def compare(found: dict[tuple[str, int], dict[str, Right]], seeds: list[int], recipe: str, split: str) -> None:
    """Print a table and the paired difference of one recipe on one split."""
    print(f"\n{split}, a scale a {recipe}")
    print("seed  plain fp32    int8   then fp32    int8  int8 gains")
    for seed in seeds:
        plain, finished = found["plain", seed], found[recipe, seed]
        cells = [mean(side[name][split]) for side in (plain, finished) for name in ("fp32", recipe)]
        before, after = (f"{cells[n]:12.2f}  {cells[n + 1]:6.2f}" for n in (0, 2))
        print(f"{seed:4d}{before}{after}  {cells[3] - cells[1]:+10.2f}")
    pairs = {
        "int8 finished - int8 plain": ((recipe, recipe), ("plain", recipe)),
        "fp32 finished - fp32 plain": ((recipe, "fp32"), ("plain", "fp32")),
        "int8 - fp32, plain": (("plain", recipe), ("plain", "fp32")),
        "int8 - fp32, finished": ((recipe, recipe), (recipe, "fp32")),
    }
    for words, (one, other) in pairs.items():
        gaps = [
            np.array(
                [np.subtract(*(found[side, seed][name][split][d] for side, name in (one, other))) for seed in seeds]
            )
            for d in found["plain", seeds[0]]["fp32"][split]
        ]
        middle, low, high = paired(gaps, len(seeds))
        print(f"{words}: {middle:+.2f} points, 95 % interval [{low:+.2f}, {high:+.2f}]")


if __name__ == "__main__":
    main()
