"""The teach stage: fine-tunes one encoder on all domains, with one head per domain (paper, section 4.1)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hrkd_cli.cards import code_span
from hrkd_cli.choices import Split
from hrkd_cli.data.dataset import Dataset
from hrkd_cli.data.dataset_loading import load_for_training
from hrkd_cli.events import Note, OnEvent, Progress, StageDone, ignore
from hrkd_cli.layout import DATASET_OUT, TEACHER_OUT
from hrkd_cli.models.feature_capture import FeatureCapture, check_forward
from hrkd_cli.models.fingerprint import model_fingerprint
from hrkd_cli.models.loading import load_classifier, load_tokenizer
from hrkd_cli.models.model_source import resolve_model
from hrkd_cli.models.model_tokenizer import ModelTokenizer
from hrkd_cli.outputs import check_no_overlap, check_stage_output
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.settings import TrainingSettings
from hrkd_cli.teaching.cosine_objective import CosineObjective
from hrkd_cli.teaching.fine_tuning import FineTuningObjective
from hrkd_cli.teaching.linear_probe import start_from_probe
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.plan import (
    FEW_ROWS,
    TEACH,
    TEACH_COSINE,
    Budget,
    TrainingPlan,
    check_length,
    check_trainable,
    token_limit,
)
from hrkd_cli.training.stage_folder import (
    TrainResult,
    data_folder,
    load_finished_result,
    run_folder,
    run_key,
    write_model_folder,
)
from hrkd_cli.training.tokenized_split import tokenize_split
from hrkd_cli.training.trainer import Trainer
from hrkd_cli.version import __version__


def teach(
    model: str | Path,
    *,
    data: str | Path | Dataset = DATASET_OUT,
    out: str | Path = TEACHER_OUT,
    force: bool = False,
    resume: bool = False,
    on_event: OnEvent = ignore,
    sources: Mapping[str, str] | None = None,
    **options: Any,
) -> TrainResult:
    """Fine-tune an encoder on all domains of a dataset.

    Args:
        model: folder or hub id of an encoder.
        data: prepared dataset folder, a raw source (prepared into ``hrkd-out/dataset`` first), or a dataset in memory.
        out: folder to write.
        force: replace an existing output.
        resume: continue an interrupted run; start from the beginning if there is none; return the result if the run is
            finished.
        on_event: called with every event.
        sources: where each option came from ("flag", "file", ...), for ``hrkd.json``; by default, "argument".
        **options: fields of ``hrkd_cli.settings.TrainingSettings``.

    Raises:
        HrkdError: an error that the user can fix, in one line (see ``hrkd_cli.errors``).
    """
    settings, sources = TrainingSettings(**options), sources or dict.fromkeys(options, "argument")
    out = Path(out)
    check_stage_output(out, "teach", force=force, resume=resume)
    path, name = resolve_model(model), str(model)
    check_no_overlap(out, {"model": path, "dataset": DATASET_OUT, **data_folder(data)})
    pretrained = load_tokenizer(path)  # a damaged one is an error before the data is prepared
    context = TrainContext.start(settings, on_event, out if resume else None)
    dataset = context.processes.main_first(lambda: load_for_training(data, force=force, on_event=context.on_event))
    check_trainable(dataset)
    fingerprint = model_fingerprint(path)
    key = teach_key(fingerprint, dataset, settings)
    if resume and (finished := load_finished_result(out, "teach", key, context)):
        return finished
    torch.manual_seed(settings.seed)
    heads = DomainHeads.build(dataset.labels)
    context.on_event(Progress("loading the encoder"))
    classifier = load_classifier(path, heads)
    context.on_event(Progress("tokenizing the texts"))
    budget, make_objective = _choose_loss(settings, dataset, context)
    plan, tokenizer = _plan_training(classifier, pretrained, name, dataset, settings, budget, context)
    train, dev = (tokenize_split(dataset, split, tokenizer) for split in ("train", "dev"))
    with run_folder(out, settings, key=key, resume=resume, context=context) as checkpointer:
        if settings.probe:
            classifier = start_from_probe(classifier, train, dev, heads, context, checkpointer.decisions)
        objective = make_objective(classifier, train, heads, settings, context)
        trainer = Trainer("teach", objective, settings, plan, checkpointer, dev, best_by_domain=True)
        trainer.run()
        description = f"A multi-domain text classifier, {code_span(name)} fine-tuned with hrkd-cli {__version__}."
        models = {"start": {"name": name, "fingerprint": fingerprint}}
        result = write_model_folder(trainer, dataset, description=description, models=models, sources=sources)
    context.on_event(StageDone("teach", str(out), result.steps, result.seconds, result.dev))
    return result


def _choose_loss(
    settings: TrainingSettings, dataset: Dataset, context: TrainContext
) -> tuple[Budget, type[FineTuningObjective]]:
    """Return budget and objective of the loss in the settings; if they leave it open, few rows and a probe decide."""
    cosine = settings.cosine_loss
    if cosine is None:
        rows = dataset.count(Split.TRAIN)
        cosine = settings.probe and rows <= FEW_ROWS
        if cosine:
            context.on_event(Note(f"few rows ({rows:,}): trained on similarities, heads fitted (--cosine-loss)"))
    return (TEACH_COSINE, CosineObjective) if cosine else (TEACH, FineTuningObjective)


def _plan_training(
    classifier: Any,
    pretrained: Any,
    name: str,
    dataset: Dataset,
    settings: TrainingSettings,
    budget: Budget,
    context: TrainContext,
) -> tuple[TrainingPlan, ModelTokenizer]:
    """Choose what the settings leave open, move the classifier to its device, and check that it can be trained."""
    limit = token_limit(classifier, pretrained)
    plan = TrainingPlan.make(settings, budget, dataset, classifier.config, pretrained, limit, context.on_event)
    check_length(plan.max_length, classifier, pretrained, name)
    tokenizer = ModelTokenizer(classifier, pretrained, plan.max_length, settings.truncate)
    classifier.to(context.device)
    check_forward(FeatureCapture(classifier, (), attention=False), tokenizer, name)
    return plan, tokenizer


def teach_key(fingerprint: str, dataset: Dataset, settings: TrainingSettings) -> str:
    """Return a hash of everything that the teacher's weights depend on."""
    return run_key("teach", settings, model=fingerprint, data=dataset.fingerprint)
