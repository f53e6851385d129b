"""What teach and distill do alike around a run: checks before it, a finished folder after it."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hrkd_cli.choices import ClassWeights
from hrkd_cli.data.batching import Sampler
from hrkd_cli.data.dataset import Dataset
from hrkd_cli.errors import DataError, OutputError, TrainingError, UsageError
from hrkd_cli.layout import MODEL, partial
from hrkd_cli.models.backend import pick_device
from hrkd_cli.models.card import model_card
from hrkd_cli.models.encoding import Encoded
from hrkd_cli.models.folder import save_model, write_json
from hrkd_cli.models.loading import max_tokens
from hrkd_cli.models.precision import Arithmetic
from hrkd_cli.options import option_name
from hrkd_cli.outputs import check_output, whole_folder
from hrkd_cli.predict.folder import read_json_or_empty
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.settings import TrainingSettings
from hrkd_cli.training.checkpoint import has_checkpoint, latest, remove_checkpoints
from hrkd_cli.training.process_group import ProcessGroup, join_process_group, local_device
from hrkd_cli.training.result import TrainResult, run_record
from hrkd_cli.training.scoring import SplitLabels, scores_to_json
from hrkd_cli.training.trainer import RunContext, TrainOutput


@dataclass(frozen=True, slots=True)
class Finished:
    """What a stage's folder is made of, once its model is trained.

    Attributes:
        stage: ``"teach"`` or ``"distill"``.
        model: the classifier, with the kept weights.
        tokenizer: its tokenizer.
        heads: its outputs.
        dataset: the training data.
        settings: resolved settings.
        what: a sentence on how it was made, for the model card.
        start: name of the model it was made from.
        models: what the run started from, with fingerprints, for the record.
        key: see run_key.
        sources: where each option came from.
        texts: texts without labels that it learnt from too, for the record.
    """

    stage: str
    model: Any
    tokenizer: Any
    heads: DomainHeads
    dataset: Dataset
    settings: TrainingSettings
    what: str
    start: str
    models: Mapping[str, Any]
    key: str
    sources: Mapping[str, str]
    texts: Mapping[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write config, weights and tokenizer."""
        save_model(
            self.model,
            self.tokenizer,
            folder,
            self.heads,
            max_length=self.settings.max_length,
            truncate=self.settings.truncate,
            pair=self.dataset.pair,
        )

    def write(self, place: RunContext, trained: TrainOutput) -> TrainResult:
        """Write the whole folder (model, card, record) and drop the weights kept while training."""
        work, speed, best = place.work, trained.examples_per_second, trained.best
        dev = scores_to_json(best.scores)
        result = TrainResult(self.stage, place.out, trained.steps, trained.seconds, speed, best.step, dev)
        if not place.processes.is_main:
            return result
        trained.load_best(self.model)
        self.save(work)
        card = model_card(
            title=f"{place.out.name}: from {Path(self.start).name}",
            what=self.what,
            heads=self.heads,
            dev=result.dev,
            max_length=self.settings.max_length,
            truncate=self.settings.truncate,
            parameters=sum(p.numel() for p in self.model.parameters()),
        )
        (work / MODEL.readme).write_text(card, encoding="utf-8")
        record = run_record(
            result,
            options=self.settings.to_json(),
            sources=self.sources,
            dataset=self.dataset,
            texts=self.texts,
            models=self.models,
            key=self.key,
            precision=str(place.arithmetic.precision),
        )
        write_json(work / MODEL.run, record)
        for file in work.glob("weights-*.safetensors"):
            file.unlink()
        return result


def class_weights(
    train: SplitLabels, heads: DomainHeads, settings: TrainingSettings, device: torch.device
) -> dict[str, torch.Tensor | None]:
    """Return each domain's (C,) class weights, rows / (C x rows of the class); None where all count the same."""
    if settings.class_weights is ClassWeights.NONE:
        return dict.fromkeys(heads.domains)
    weights: dict[str, torch.Tensor | None] = {}
    for domain, names in heads.labels.items():
        counts = np.bincount(train.labels[domain], minlength=len(names)).clip(min=1)
        balanced = counts.sum() / (len(names) * counts)
        weights[domain] = torch.tensor(balanced, dtype=torch.float32, device=device)
    return weights


def make_sampler(
    dataset: Dataset,
    settings: TrainingSettings,
    batch_size: int,
    encoded: Mapping[str, Encoded] | None,
    *,
    bare: Mapping[str, int] | None = None,
    share: float = 0.0,
    held_back: Mapping[str, Sequence[int]] | None = None,
) -> Sampler:
    """Make the sampler of a dataset's train rows; ``encoded`` None draws steps of mixed lengths (released code).

    ``bare`` and ``share``: unlabelled texts that ``encoded`` has after the train rows; ``held_back``: train rows that
    are not drawn (see Sampler).
    """
    rows = {domain: len(dataset.split(domain, "train")) for domain in dataset.domains}
    lengths = None if encoded is None else {domain: encoded[domain].lengths().tolist() for domain in rows}
    return Sampler(
        rows,
        batch_size=batch_size,
        sampling=settings.sampling,
        seed=settings.seed,
        lengths=lengths,
        bare=bare,
        share=share,
        held_back=held_back,
    )


def start(settings: TrainingSettings) -> tuple[Arithmetic, ProcessGroup]:
    """Pick device and precision, and meet the other processes of the run.

    Raises:
        UsageError: there is no such device or precision, or other processes than were asked for.
    """
    device = local_device(pick_device(settings.device))
    arithmetic = Arithmetic(settings.precision, device)
    arithmetic.prepare()
    return arithmetic, join_process_group(settings.processes, device)


def check_stage_output(out: Path, *, kind: str, is_ours: Callable[[Path], bool], force: bool, resume: bool) -> None:
    """Refuse an output that may not be written, and a run that would forget one that was cut off.

    Raises:
        UsageError: ``force`` and ``resume`` together.
        OutputError: the output exists, or a checkpoint of a run that was cut off does.
    """
    if force and resume:
        raise UsageError("--force --resume: one starts over, the other goes on; leave one out")
    if not (resume and is_ours(out)):
        check_output(out, kind=kind, is_ours=is_ours, force=force)
    step = has_checkpoint(partial(out.resolve()))
    if step is not None and not (force or resume):
        raise OutputError(
            f"{out}: a run that was cut off left a checkpoint after step {step}; go on with --resume, or start over "
            "with --force"
        )


def finished_before(out: Path, *, key: str, kind: str, is_ours: Callable[[Path], bool]) -> TrainResult | None:
    """Return the result of the very same run where it is finished already; None when there is none.

    Raises:
        OutputError: the output is of another run.
    """
    if not is_ours(out):
        return None
    record = read_json_or_empty(out / MODEL.run)
    if record.get("key") != key:
        raise OutputError(
            f"{out} exists already, from a run with other options or data; it is no run to go on with: "
            f"replace this {kind} with --force or choose another --out"
        )
    return TrainResult.from_record(record, out)


@contextlib.contextmanager
def stage_place(
    out: Path, *, key: str, options: Mapping[str, Any], resume: bool, arithmetic: Arithmetic, processes: ProcessGroup
) -> Iterator[RunContext]:
    """Give a run its working folder, and the checkpoint it goes on from; the folder becomes ``out`` when it is whole.

    Raises:
        TrainingError: the checkpoint is of another run.
        OutputError: the folder cannot be written.
    """
    with contextlib.ExitStack() as stack:
        work = partial(out.resolve())
        if processes.is_main:
            stack.enter_context(whole_folder(out, worth_keeping=_is_worth_keeping, go_on=resume))
        processes.barrier()
        checkpoint = latest(work) if resume else None
        if checkpoint is not None and checkpoint.values["key"] != key:
            raise TrainingError(
                f"{out}: {_difference(checkpoint.values['options'], options)}; go on with what it had, "
                "or start over with --force"
            )
        values = {"key": key, "options": dict(options)}
        yield RunContext(work, out, arithmetic, processes, checkpoint, values)
        if processes.is_main:
            remove_checkpoints(work)
    processes.barrier()


def _is_worth_keeping(work: Path) -> bool:
    return has_checkpoint(work) is not None


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say in what a run that was cut off differs from this one."""
    other = [f"{option_name(n)} {before.get(n)}" for n, value in now.items() if before.get(n) != value]
    what = f"with {', '.join(other)}" if other else "with other data or another model"
    return f"the run that was cut off was made {what}"


def check_trainable(dataset: Dataset) -> None:
    """Make sure that every domain has rows to learn from and rows to be scored on.

    Raises:
        DataError: a domain has none, or has a single label.
    """
    for domain, labels in dataset.labels.items():
        for split in ("train", "dev"):
            if not len(dataset.split(domain, split)):
                raise DataError(f"domain {domain!r} has no {split} rows; add some, or prepare without it (--domains)")
        if len(labels) < 2:
            raise DataError(f"domain {domain!r} has one label only ({labels[0]}); prepare without it (--domains)")


def check_length(max_length: int, model: Any, tokenizer: Any, name: str) -> None:
    """Make sure that the model can take that many tokens.

    Raises:
        UsageError: it cannot.
    """
    limit = max_tokens(model.config, tokenizer)
    if max_length > limit:
        raise UsageError(f"--max-length {max_length}: {name} takes at most {limit} tokens")


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and torch's global generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
