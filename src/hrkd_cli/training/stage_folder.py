"""Output folder of a training stage: checks before a run, its working folder, and the finished model folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hrkd_cli.data.dataset import Dataset
from hrkd_cli.errors import OutputError, TrainingError
from hrkd_cli.events import Note, StageStopped
from hrkd_cli.formatting import plural
from hrkd_cli.json_files import read_json_or_empty
from hrkd_cli.layout import ModelFiles, partial_folder
from hrkd_cli.machine import package_versions, usable_cpus
from hrkd_cli.models.model_folder import model_card, save_model, write_json
from hrkd_cli.models.wide import ScoredWideBranch
from hrkd_cli.options import option_name
from hrkd_cli.outputs import STAGE_OUTPUTS, atomic_folder, latest_checkpoint_step, relative_path
from hrkd_cli.settings import TrainingSettings
from hrkd_cli.training.best_weights import AVERAGE
from hrkd_cli.training.checkpoint import Checkpointer, remove_checkpoints
from hrkd_cli.training.context import TrainContext

if TYPE_CHECKING:
    from hrkd_cli.training.trainer import Trainer


@contextlib.contextmanager
def run_folder(
    out: Path, settings: TrainingSettings, *, key: str, resume: bool, context: TrainContext
) -> Iterator[Checkpointer]:
    """Yield the checkpointer of a run in a working folder, which is renamed to ``out`` when the block ends.

    Raises:
        TrainingError: the checkpoint is from a run with other options, data, model or precision.
        OutputError: the folder cannot be written.
    """
    processes = context.processes
    with contextlib.ExitStack() as stack:
        stack.push(lambda kind, *_: context.on_event(StageStopped()) if kind else None)
        if processes.is_main:
            stack.enter_context(atomic_folder(out, resume=resume))
        processes.barrier()
        options = settings.options_affecting_result() | {"precision": str(context.precision.mode)}
        header: dict[str, Any] = {"key": key, "options": options}
        checkpointer = Checkpointer(out, processes, header, resume=resume)
        resumed = checkpointer.resumed
        if resumed is not None and any(resumed[name] != value for name, value in header.items()):
            difference = describe_changed_options(resumed["options"], options)
            difference = difference or "with other data or another model, or with another --precision"
            raise TrainingError(
                f"{out}: the interrupted run was made {difference}; resume it with the same options, data and "
                "model, or start over with --force"
            )
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        _set_threads(context, checkpointer)
        yield checkpointer
        if processes.is_main:
            remove_checkpoints(checkpointer.work)
            for file in checkpointer.work.glob("weights-*.safetensors"):  # not before: they belong to a checkpoint
                file.unlink()
    processes.barrier()


def _set_threads(context: TrainContext, checkpointer: Checkpointer) -> None:
    """Set the number of CPU threads: as given, else as before the interruption, because sums depend on it."""
    default: int = torch.get_num_threads()
    before = checkpointer.decisions.get("threads", default)
    threads = context.threads or (before if before <= max(default, usable_cpus()) else default)
    if checkpointer.resumed is not None and threads != before:
        text = f"the run had {plural(before, 'thread')} before, and has {threads} now"
        context.on_event(Note(f"{text}: the weights can differ by rounding", warning=True))
    checkpointer.decisions["threads"] = threads
    torch.set_num_threads(threads)


def data_folder(data: str | Path | Dataset) -> dict[str, Path]:
    """Return the input folder of the data for ``check_no_overlap``; empty for a dataset in memory."""
    return {} if isinstance(data, Dataset) else {"data": Path(data)}


def describe_changed_options(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return "with --OPTION VALUE, ..." for changed options and their values before; empty if none changed."""
    changed = {name: before.get(name) for name, value in now.items() if before.get(name) != value}
    flags = [option_name(n, old) if isinstance(old, bool) else f"{option_name(n)} {old}" for n, old in changed.items()]
    return f"with {', '.join(flags)}" if flags else ""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A finished teach or distill run.

    Attributes:
        stage: ``"teach"`` or ``"distill"``.
        out: output folder.
        steps: number of optimizer steps.
        seconds: wall time of the training.
        examples_per_second: training speed.
        best_step: step with the best weights, which are the ones saved.
        dev: dev scores of that step, as in ``hrkd eval --json`` (domains and average).
        baselines: dev accuracy of linear baselines by name; empty for ``teach``.
        old_domains: with ``--extend``, texts and accuracy before and after of each old domain.
    """

    stage: str
    out: Path
    steps: int
    seconds: float
    examples_per_second: float
    best_step: int
    dev: dict[str, Any]
    baselines: Mapping[str, float] = field(default_factory=dict)
    old_domains: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``--json`` prints."""
        more = {"baselines": dict(self.baselines), "old_domains": dict(self.old_domains)}
        return {
            "out": str(self.out),
            "steps": self.steps,
            "seconds": self.seconds,
            "examples_per_second": self.examples_per_second,
            "best": {"step": self.best_step, "dev": self.dev},
            **{name: values for name, values in more.items() if values},
        }


def load_finished_result(out: Path, stage: str, key: str, context: TrainContext) -> TrainResult | None:
    """Return the result of the same run if it is already finished, else None.

    Raises:
        OutputError: the output is from another run, and there is no checkpoint to resume.
    """
    run_json = read_json_or_empty(out / ModelFiles.run)
    if run_json.get("stage") != stage:
        return None
    if run_json.get("key") != key:
        if latest_checkpoint_step(partial_folder(out.resolve())) is not None:  # of a run with --force
            return None
        raise OutputError(
            f"{out} is from a run with other options or data, so there is nothing to resume; replace this "
            f"{STAGE_OUTPUTS[stage]} with --force or choose another --out"
        )
    context.on_event(Note(f"{out} is already finished"))
    try:
        results = dict(run_json["results"])
        best = results.pop("best")
        return TrainResult(stage, out, best_step=best["step"], dev=best["dev"], **results)
    except (KeyError, TypeError):
        raise OutputError(f"{out / ModelFiles.run}: its results are damaged; replace the folder with --force") from None


def write_model_folder(
    trainer: Trainer,
    dataset: Dataset,
    *,
    description: str,
    models: Mapping[str, Any],
    sources: Mapping[str, str],
    unlabeled: Mapping[str, Any] | None = None,
    results: Mapping[str, Mapping[str, Any]] | None = None,
    wide: ScoredWideBranch | None = None,
) -> TrainResult:
    """Write the model folder of a finished run.

    If each domain's best weights were saved, those of other steps than the best on average go to ``best/DOMAIN``.
    ``models`` are the models that the run started from; the card's title names the first one. Options that are not in
    ``sources`` are recorded as defaults. ``results`` are ``baselines`` and ``old_domains`` of the result.
    ``wide`` is saved with the best weights on average, and its dev scores are the result's.
    """
    best_weights, checkpointer, settings = trainer.best_weights, trainer.checkpointer, trainer.settings
    work, best = checkpointer.work, best_weights.best[AVERAGE]
    result = TrainResult(
        trainer.stage,
        checkpointer.out,
        steps=trainer.step,
        seconds=trainer.seconds,
        examples_per_second=trainer.metrics.rate,
        best_step=best["step"],
        dev=wide.dev if wide is not None else best["dev"],
        **(results or {}),
    )
    if not trainer.context.processes.is_main:
        return result
    heads, tokenizer = trainer.objective.heads, trainer.objective.collator.split.tokenizer.pretrained
    facts: dict[str, Any] = {"max_length": trainer.plan.max_length, "truncate": settings.truncate}
    if trainer.objective.domain_posterior:
        facts["domain_posterior"] = True
    if wide is not None:
        wide.branch.save(work)
        facts |= {"max_length": wide.max_length, "encoder_length": trainer.plan.max_length}
    domains = [domain for domain, saved in best_weights.best.items() if saved["step"] != best["step"]]
    for key in (*domains, AVERAGE):
        best_weights.load(key)
        folder = work / ModelFiles.best / key if key in domains else work
        save_model(trainer.model, tokenizer, folder, heads, has_pairs=dataset.has_pairs, **facts)
    title = f"{checkpointer.out.name}: from {Path(next(iter(models.values()))['name']).name}"
    description = f"{description} {sum(p.numel() for p in trainer.model.parameters()) / 1e6:.1f} million parameters."
    card = model_card(title=title, description=description, heads=heads, scores=result.dev["domains"], **facts)
    (work / ModelFiles.readme).write_text(card, encoding="utf-8")
    record = _run_record(trainer, dataset, result, models=models, sources=sources, unlabeled=unlabeled)
    write_json(work / ModelFiles.run, record)
    return result


def _run_record(
    trainer: Trainer,
    dataset: Dataset,
    result: TrainResult,
    *,
    models: Mapping[str, Any],
    sources: Mapping[str, str],
    unlabeled: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return the content of ``hrkd.json``."""
    options = trainer.settings.to_json().items()
    return {
        "format": 1,
        "stage": trainer.stage,
        "options": {name: {"value": v, "from": sources.get(name, "default")} for name, v in options},
        "plan": asdict(trainer.plan),
        "models": dict(models),
        "data": {
            "path": relative_path(dataset.path, trainer.checkpointer.out),
            "fingerprint": dataset.fingerprint,
            **({"unlabelled": unlabeled} if unlabeled else {}),
        },
        "versions": package_versions(),
        "precision": str(trainer.context.precision.mode),
        "key": trainer.checkpointer.header["key"],
        "results": {name: value for name, value in result.to_json().items() if name != "out"},
    }


def run_key(stage: str, settings: TrainingSettings, **inputs: Any) -> str:
    """Return a hash of everything that determines the result of a run; ``inputs`` are fingerprints by name."""
    parts = {"stage": stage, "options": settings.options_affecting_result(), **inputs}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
