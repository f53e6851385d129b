"""Training speed: the paper's schedule against ours, on the same data and models, one process after the other.

    python benchmarks/train_speed.py --data hrkd-out/dataset --tokenizer ENCODER_FOLDER
    python benchmarks/train_speed.py --data hrkd-out/dataset --teacher hrkd-out/teacher --student 3x384

``paper``: a teacher forward for each domain and step, one student forward for each domain, everything padded to
``--max-length``, float32, T x T attention scores, AdamW parameter by parameter. ``ours``: what ``hrkd distill`` does.
Without ``--teacher`` the teacher has BERT-base's shape and random weights: speed does not depend on what they say.
Rates are measured on real steps after a warm-up and stated for ``--epochs`` epochs, the building of kept teacher
outputs included, which is run in full: ``--steps`` of the paper's schedule, and three runs of four times as many of
ours, which are shorter and take longer to settle (each new length of a batch needs memory of its own). The data must be
a folder made by ``hrkd prepare``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from hrkd_cli.choices import Init, Precision
from hrkd_cli.data.dataset_loading import load_for_training
from hrkd_cli.data.sampler import DomainBatchSampler
from hrkd_cli.distillation.distill_collator import DistillCollator
from hrkd_cli.distillation.loss_config import LossConfig
from hrkd_cli.distillation.objective import DistillObjective
from hrkd_cli.distillation.online_teacher import OnlineTeacher
from hrkd_cli.distillation.teacher_cache import CachedTeacher
from hrkd_cli.distillation.teachers import open_teachers
from hrkd_cli.method import DomainGraph, Outputs, Projections
from hrkd_cli.models.device import pick_device
from hrkd_cli.models.feature_capture import FeatureCapture
from hrkd_cli.models.loading import load_tokenizer, new_classifier, set_heads
from hrkd_cli.models.model_folder import save_model
from hrkd_cli.models.model_tokenizer import ModelTokenizer, token_counts
from hrkd_cli.models.precision import PrecisionPolicy
from hrkd_cli.models.student_init import build_student, layer_map
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.settings import DistillSettings
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.loop import prefetch, train_step
from hrkd_cli.training.optimizer import Optimizer
from hrkd_cli.training.tokenized_split import tokenize_split

SIDES = ("paper", "ours")
WARM_UP = 3
LONGER = 4  # times as many steps in a run of ours


def main() -> None:
    """Run both sides, each in a process of its own, and print a table."""
    options = arguments()
    if options.side:
        print(json.dumps(measure(options)))
        return
    with tempfile.TemporaryDirectory() as place:
        found = {}
        for side in options.sides.split(","):
            command = [sys.executable, __file__, *sys.argv[1:], "--side", side, "--place", place]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found[side] = json.loads(output.splitlines()[-1])
    print(f"{machine()}; torch {torch.__version__}; {options.epochs} epochs, batch {options.batch_size} a domain")
    for side, figures in found.items():
        print(f"\n{side}: {figures['examples_per_second']:.1f} examples/s over {options.epochs} epochs")
        for name, value in figures.items():
            if name != "examples_per_second":
                print(f"  {name}: {value}")
    if len(found) == len(SIDES):
        print(f"\nratio: {found['ours']['examples_per_second'] / found['paper']['examples_per_second']:.2f}")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="prepared dataset folder")
    parser.add_argument("--teacher", help="teacher folder; without it BERT-base's shape with random weights")
    parser.add_argument("--tokenizer", help="folder with a tokenizer, for a teacher of random weights")
    parser.add_argument("--student", default="4x312")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20, help="measured steps")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", help="of our side")
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--place", help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure one side."""
    bench = Bench(options)
    figures = bench.paper() if options.side == "paper" else bench.ours()
    figures["peak memory, MB"] = round(peak_memory(bench.device) / 1e6)
    return figures


class Bench:
    """Data and models that both sides work on."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = pick_device(options.device)
        self.dataset = load_for_training(options.data, force=False, on_event=lambda _: None)
        folder = Path(options.teacher) if options.teacher else self._random_teacher()
        settings = {"batch_size": options.batch_size, "max_length": options.max_length, "student": options.student}
        self.settings = DistillSettings(**settings, precision=options.precision).resolve()
        checkpoints = self.settings.teacher_checkpoints
        self.teachers = open_teachers(folder, self.dataset, checkpoints=checkpoints, device=self.device, name="teacher")
        self.heads = DomainHeads.build(self.dataset.labels)
        student, _ = build_student(
            options.student,
            self.teachers.primary,
            self.heads,
            teacher_heads=self.teachers.heads,
            init=self.settings.init or Init.TEACHER,
            seed=1,
        )
        self.student = student.to(self.device)
        self.tokenizer = ModelTokenizer(self.student, self.teachers.tokenizer, options.max_length)
        self.rows = tokenize_split(self.dataset, "train", self.tokenizer)
        self.tokenized = self.rows.examples
        self.loss_config = LossConfig.from_settings(
            self.settings, self.teachers.primary.config, self.student.config, options.max_length
        )
        self.student.train()

    def _random_teacher(self) -> Path:
        from transformers import BertConfig

        folder = Path(self.options.place) / "teacher"
        if not folder.exists():
            heads = DomainHeads.build(self.dataset.labels)
            tokenizer = load_tokenizer(Path(self.options.tokenizer))
            config = BertConfig(vocab_size=len(tokenizer))
            set_heads(config, heads)
            torch.manual_seed(1)
            model = new_classifier(config)
            save_model(
                model, tokenizer, folder, heads, max_length=self.options.max_length, has_pairs=self.dataset.has_pairs
            )
        return folder

    @property
    def examples(self) -> int:
        """Rows that an epoch runs, those seen again included."""
        sampler = self.sampler()
        rows: int = sampler.batches_per_epoch * self.options.batch_size * len(self.heads.domains)
        return rows

    def sampler(self) -> Any:
        """Return the rows of each step."""
        lengths = {domain: token_counts(encoded).tolist() for domain, encoded in self.tokenized.items()}
        rows = {domain: len(own) for domain, own in lengths.items()}
        size, settings = self.options.batch_size, self.settings
        return DomainBatchSampler(rows, batch_size=size, seed=settings.seed, lengths=lengths)

    def paper(self) -> dict[str, Any]:
        """Train as the released code does."""
        layers = layer_map(self.teachers.primary.config.num_hidden_layers, self.student.config.num_hidden_layers)
        captures = {d: FeatureCapture(m, layers, attention=True) for d, m in self.teachers.models.items()}
        shown = FeatureCapture(self.student, range(1, len(layers) + 1), attention=True)
        width = self.teachers.primary.config.hidden_size
        projections = Projections(self.student.config.hidden_size, width, len(layers)).to(self.device)
        graph = DomainGraph(width, len(layers), len(self.heads.domains)).requires_grad_(False).to(self.device)
        trained = [p for m in (self.student, projections) for p in m.parameters()]
        adamw = torch.optim.AdamW(trained, lr=5e-5, foreach=False, fused=False)
        parts: defaultdict[str, float] = defaultdict(float)
        seconds = []
        for number, rows in enumerate(islice(self.sampler(), WARM_UP + self.options.steps)):
            if number == WARM_UP:
                parts.clear()
            begun = self._now()
            by_layer, predictions, prototypes = [], [], []
            for domain, indices in rows.items():
                batch = self.tokenizer.collate(
                    [self.tokenized[domain][row] for row in indices], self.device, pad_to=self.options.max_length
                )
                tick = self._now()
                with torch.no_grad():
                    theirs = captures[domain](batch)
                parts["teacher"] += self._now() - tick
                own = shown(batch)
                projected = projections(own.hidden)
                by_layer.append(released_losses(theirs, own, projected, batch.mask))
                logits = [
                    seen.logits[:, list(heads.columns[domain])]
                    for seen, heads in ((theirs, self.teachers.heads), (own, self.heads))
                ]
                predictions.append((-logits[0].softmax(dim=-1) * logits[1].log_softmax(dim=-1)).mean())
                prototypes.append(projected.mean(dim=(1, 2)))
            ratios = graph(torch.stack(prototypes, dim=1)).domain
            ((torch.stack(by_layer, dim=1) * ratios).sum() + torch.stack(predictions).mean()).backward()
            tick = self._now()
            torch.nn.utils.clip_grad_norm_(trained, 1.0, foreach=False)
            adamw.step()
            adamw.zero_grad()
            parts["optimizer"] += self._now() - tick
            seconds.append(self._now() - begun)
        step = statistics.median(seconds[WARM_UP:])
        rows_a_step = self.options.batch_size * len(self.heads.domains)
        return {
            "examples_per_second": rows_a_step / step,
            "step, ms (median)": round(1e3 * step, 1),
            **{f"{name}, ms a step": round(1e3 * s / self.options.steps, 1) for name, s in parts.items()},
        }

    def cache(self, policy: PrecisionPolicy) -> CachedTeacher:
        """Return the teacher's outputs, to be built."""
        online = OnlineTeacher(self.teachers, self.loss_config, self.rows, device=self.device)
        return CachedTeacher(Path(self.options.place) / "cache", online, TrainContext(policy))

    def objective(self, cache: CachedTeacher) -> DistillObjective:
        """Return what hrkd distill trains, with outputs that are there."""
        return DistillObjective(
            DistillCollator(cache, self.rows, cache.context),
            self.student,
            self.heads,
            self.settings,
            self.loss_config,
        )

    def ours(self) -> dict[str, Any]:
        """Train as hrkd distill does; measure the steps, then once more with a clock around each part."""
        policy = PrecisionPolicy(Precision(self.options.precision), self.device)
        policy.configure_process()
        cache = self.cache(policy)
        tick = self._now()
        rows = cache.build()
        building = self._now() - tick
        objective = self.objective(cache)
        modules = [self.student, objective.projections]
        sampler = self.sampler()
        optimizer = Optimizer(modules, self.settings, 10**6, cache.context, learning_rate=4e-4)

        def run(steps: int, *, ahead: bool) -> float:
            batches = prefetch(iter(sampler), objective.collator, ahead=ahead)
            total, begun = WARM_UP + steps, 0.0
            for number in range(1, total + 1):
                train_step(objective, batches, optimizer, number=number)
                if number == WARM_UP:
                    begun = self._now()
            return (self._now() - begun) / steps

        # Whole windows of steps, so that lengths are those of the data: medians of single steps would not be.
        repeats = [run(LONGER * self.options.steps, ahead=self.device.type == "cuda") for _ in range(3)]
        step = statistics.median(repeats)
        rows_a_step = self.options.batch_size * len(self.heads.domains)
        epochs = self.options.epochs
        rate = self.examples * epochs / (building + epochs * self.examples / rows_a_step * step)
        parts = self._parts(objective, optimizer, run)
        real = sum(int(token_counts(e).sum()) for e in self.tokenized.values())
        return {
            "examples_per_second": rate,
            "precision": str(policy.mode),
            "step, ms (median of the runs)": round(1e3 * step, 1),
            "runs, ms": [round(1e3 * r, 1) for r in repeats],
            "training alone, examples/s": round(rows_a_step / step, 1),
            **{f"{name}, ms a step": round(1e3 * s, 1) for name, s in parts.items()},
            "teacher outputs, s": round(building, 1),
            "teacher outputs, examples/s": round(rows / building, 1),
            "teacher outputs, GB": round(cache.bytes / 1e9, 2),
            "tokens a row": round(real / sum(len(e) for e in self.tokenized.values()), 1),
            **self._utilisation(real, building, step, rows_a_step),
        }

    def _parts(self, objective: Any, optimizer: Any, run: Any) -> dict[str, float]:
        """Return seconds a step of each part, waiting for the device after each one."""
        spent: dict[str, float] = defaultdict(float)

        def clocked(name: str, function: Any) -> Any:
            def call(*args: Any, **kwargs: Any) -> Any:
                tick = self._now()
                found = function(*args, **kwargs)
                spent[name] += self._now() - tick
                return found

            return call

        objective.collator.batch = clocked("collate", objective.collator.batch)
        objective.student = clocked("student forward", objective.student)
        objective.loss = clocked("loss", objective.loss)
        optimizer.step = clocked("optimizer", optimizer.step)
        total = run(self.options.steps, ahead=False)
        steps = self.options.steps + WARM_UP
        found = {name: seconds / steps for name, seconds in spent.items()}
        found["losses"] = found.pop("loss") - found["student forward"]
        found["backward"] = total - sum(found.values())
        return found

    def _utilisation(self, tokens: int, building: float, step: float, rows: int) -> dict[str, Any]:
        """Return which share of the device's own matrix rate is reached."""
        dtype = PrecisionPolicy(Precision(self.options.precision), self.device).dtype
        size = 8192 if self.device.type == "cuda" else 2048
        left, right = (torch.randn(size, size, device=self.device, dtype=dtype) for _ in range(2))
        times = []
        for _ in range(8):
            tick = self._now()
            _ = left @ right
            times.append(self._now() - tick)
        peak = 2 * size**3 / statistics.median(times[3:])
        per_token = {
            name: 2 * sum(p.numel() for n, p in model.named_parameters() if p.dim() == 2 and "embedding" not in n)
            for name, model in (("teacher", self.teachers.primary), ("student", self.student))
        }
        rows_in_all = sum(len(e) for e in self.tokenized.values())
        teacher = per_token["teacher"] * tokens / building
        student = 3 * per_token["student"] * tokens / rows_in_all * rows / step
        return {
            "matrix rate, TFLOP/s": round(peak / 1e12, 3),
            "teacher's pass, share of it": round(teacher / peak, 3),
            "student's step, share of it": round(student / peak, 4),
        }

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def released_losses(teacher: Outputs, student: Outputs, projected: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the released code's hidden-state and attention losses of one domain, (L+1,), by way of T x T scores."""
    assert teacher.hidden is not None
    hidden = (teacher.hidden - projected).square().mean(dim=(1, 2, 3))
    gaps = attention_scores(teacher) - attention_scores(student)
    squares = torch.where(mask[:, None, None, :], gaps, 0.0).square()
    return hidden + torch.nn.functional.pad(squares.mean(dim=(1, 2, 3, 4)), (1, 0))


def attention_scores(outputs: Outputs) -> torch.Tensor:
    """Return the scores of all pairs of tokens, (L, R, A, T, T)."""
    assert outputs.queries is not None
    assert outputs.keys is not None
    return outputs.queries @ outputs.keys.mT


def peak_memory(device: torch.device) -> int:
    """Return the most bytes in use: the GPU's, or this process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def machine() -> str:
    """Return what it ran on."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


if __name__ == "__main__":
    main()
