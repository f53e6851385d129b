"""The folder of a stage: what may be written, what a run resumes from, and the trained model that it becomes."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hrkd_cli.data.dataset import Dataset
from hrkd_cli.errors import OutputError, TrainingError, UsageError
from hrkd_cli.events import Note
from hrkd_cli.json_files import read_json_or_empty
from hrkd_cli.layout import ModelFiles, partial_folder
from hrkd_cli.machine import package_versions
from hrkd_cli.models.model_folder import is_stage_folder, model_card, save_model, write_json
from hrkd_cli.options import option_name
from hrkd_cli.outputs import atomic_folder, check_output, relative_path
from hrkd_cli.training.best_weights import AVERAGE
from hrkd_cli.training.checkpoint import Checkpointer, has_checkpoint, latest_checkpoint_step, remove_checkpoints
from hrkd_cli.training.context import TrainContext

if TYPE_CHECKING:
    from hrkd_cli.training.trainer import Trainer

STAGE_OUTPUTS = {"teach": "teacher", "distill": "student"}


@contextlib.contextmanager
def run_folder(
    out: Path, *, key: str, options: Mapping[str, Any], resume: bool, context: TrainContext
) -> Iterator[Checkpointer]:
    """Give a run its working folder and checkpoints; the former becomes ``out`` when the block ends.

    Raises:
        TrainingError: the checkpoint is of another run, or of another precision.
        OutputError: the folder cannot be written.
    """
    processes = context.processes
    with contextlib.ExitStack() as stack:
        if processes.is_main:
            stack.enter_context(atomic_folder(out, is_resumable=has_checkpoint, resume=resume))
        processes.barrier()
        header: dict[str, Any] = {"key": key, "options": {**options, "precision": str(context.precision.mode)}}
        checkpoint = Checkpointer(out, processes, header, resume=resume)
        if checkpoint.resumed is not None and any(checkpoint.resumed[name] != own for name, own in header.items()):
            difference = describe_changed_options(checkpoint.resumed["options"], header["options"])
            raise TrainingError(
                f"{out}: the run that was cut off was made {difference or 'with other data or another model'}; go on "
                "with what it had, or start over with --force"
            )
        yield checkpoint
        if processes.is_main:
            remove_checkpoints(checkpoint.work)
    processes.barrier()


def check_stage_output(out: Path, stage: str, *, force: bool, resume: bool) -> None:
    """Refuse an output that may not be written, and a run that would forget one that was cut off.

    Raises:
        UsageError: ``force`` and ``resume`` together.
        OutputError: the output exists, or a checkpoint of a run that was cut off does.
    """
    if force and resume:
        raise UsageError("--force --resume: one starts over, the other goes on; leave one out")
    if not (resume and is_stage_folder(out, stage)):
        is_ours = functools.partial(is_stage_folder, stage=stage)
        check_output(out, kind=STAGE_OUTPUTS[stage], is_ours=is_ours, force=force)
    step = latest_checkpoint_step(partial_folder(out.resolve()))
    if step is not None and not (force or resume):
        raise OutputError(
            f"{out}: a run that was cut off left a checkpoint after step {step}; go on with --resume, or start over "
            "with --force"
        )


def data_folder(data: str | Path | Dataset) -> dict[str, Path]:
    """Return the folder of the data, by what it is, for ``check_no_overlap``; nothing for a dataset in memory."""
    return {} if isinstance(data, Dataset) else {"data": Path(data)}


def describe_changed_options(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say with which other options a run was made than ``now``; empty where they are the same."""
    other = [f"{option_name(n)} {before.get(n)}" for n, value in now.items() if before.get(n) != value]
    return f"with {', '.join(other)}" if other else ""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A finished teach or distill run.

    Attributes:
        stage: ``"teach"`` or ``"distill"``.
        out: the folder written.
        steps: optimizer steps done.
        seconds: wall time of the training.
        examples_per_second: training speed.
        best_step: the step whose weights were kept.
        dev: dev scores of that step, in the shape of ``hrkd eval --json`` (domains and average).
    """

    stage: str
    out: Path
    steps: int
    seconds: float
    examples_per_second: float
    best_step: int
    dev: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``--json`` prints."""
        return {
            "out": str(self.out),
            "steps": self.steps,
            "seconds": self.seconds,
            "examples_per_second": self.examples_per_second,
            "best": {"step": self.best_step, "dev": self.dev},
        }


def load_finished_result(out: Path, stage: str, key: str, context: TrainContext) -> TrainResult | None:
    """Return the result of the very same run where it is finished already; None when there is none.

    Raises:
        OutputError: the output is of another run.
    """
    record = read_json_or_empty(out / ModelFiles.run)
    if record.get("stage") != stage:
        return None
    if record.get("key") != key:
        raise OutputError(
            f"{out} exists already, from a run with other options or data; it is no run to go on with: "
            f"replace this {STAGE_OUTPUTS[stage]} with --force or choose another --out"
        )
    context.on_event(Note(f"{out} is finished already"))
    found, best = record["results"], record["results"]["best"]
    rate = found["examples_per_second"]
    return TrainResult(stage, out, found["steps"], found["seconds"], rate, best["step"], best["dev"])


def write_model_folder(
    trainer: Trainer,
    dataset: Dataset,
    *,
    what: str,
    models: Mapping[str, Any],
    sources: Mapping[str, str] | None,
    unlabeled: Mapping[str, Any] | None = None,
) -> TrainResult:
    """Write the folder of a trained model, and remove the weights kept during training.

    Where each domain's best weights were kept, those of other steps than the best average go to ``best/DOMAIN``.

    Args:
        trainer: has run.
        dataset: what it was trained on.
        what: how the model was made, in a sentence.
        models: what the run started from, with fingerprints; the first one gives the card its title.
        sources: where each option came from: "flag", "environment", "file"; what is missing is a default.
        unlabeled: description of the unlabeled texts, for ``hrkd.json``.
    """
    best, run, settings = trainer.best.best[AVERAGE], trainer.checkpoint, trainer.settings
    result = TrainResult(
        trainer.stage, run.out, trainer.done, trainer.seconds, trainer.metrics.rate, best["step"], best["dev"]
    )
    if not trainer.context.processes.is_main:
        return result
    heads, tokenizer = trainer.objective.heads, trainer.objective.collator.split.tokenizer.pretrained
    cut: dict[str, Any] = {"max_length": settings.max_length, "truncate": settings.truncate}
    others = [domain for domain, saved in trainer.best.best.items() if saved["step"] != best["step"]]
    for key in (*others, AVERAGE):
        trainer.best.load(key)
        folder = run.work / ModelFiles.best / key if key in others else run.work
        save_model(trainer.model, tokenizer, folder, heads, pair=dataset.has_pairs, **cut)
    title = f"{run.out.name}: from {Path(next(iter(models.values()))['name']).name}"
    what = f"{what} {sum(p.numel() for p in trainer.model.parameters()) / 1e6:.1f} million parameters."
    card = model_card(title=title, what=what, heads=heads, scores=best["dev"]["domains"], **cut)
    (run.work / ModelFiles.readme).write_text(card, encoding="utf-8")
    options = settings.to_json().items()
    record = {
        "format": 1,
        "stage": trainer.stage,
        "options": {name: {"value": v, "from": (sources or {}).get(name, "default")} for name, v in options},
        "models": dict(models),
        "data": {
            "path": relative_path(dataset.path, run.out),
            "fingerprint": dataset.fingerprint,
            **({"unlabelled": unlabeled} if unlabeled else {}),
        },
        "versions": package_versions(),
        "precision": str(trainer.context.precision.mode),
        "key": run.header["key"],
        "results": {name: value for name, value in result.to_json().items() if name != "out"},
    }
    write_json(run.work / ModelFiles.run, record)
    for file in run.work.glob("weights-*.safetensors"):
        file.unlink()
    return result


def run_key(**parts: Any) -> str:
    """Return a hash of everything that a run's result depends on: equal keys, equal results."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
