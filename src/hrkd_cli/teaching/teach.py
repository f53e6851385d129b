"""The teach stage: fine-tunes one encoder on all domains, with one head per domain (paper, section 4.1)."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hrkd_cli.cards import code_span
from hrkd_cli.data.dataset import Dataset
from hrkd_cli.data.dataset_loading import load_for_training
from hrkd_cli.events import OnEvent, Progress, StageDone, ignore
from hrkd_cli.layout import DATASET_OUT, TEACHER_OUT
from hrkd_cli.models.feature_capture import FeatureCapture, check_forward
from hrkd_cli.models.fingerprint import model_fingerprint
from hrkd_cli.models.label_gather import LabelGather
from hrkd_cli.models.loading import load_classifier, load_tokenizer
from hrkd_cli.models.model_source import resolve_model
from hrkd_cli.models.model_tokenizer import ModelTokenizer
from hrkd_cli.outputs import check_no_overlap, check_stage_output
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.settings import TrainingSettings
from hrkd_cli.teaching.linear_probe import start_from_probe
from hrkd_cli.training.collator import Collator, TrainBatch
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.loop import LossOutput, Objective
from hrkd_cli.training.plan import TEACH, TrainingPlan, check_length, check_trainable, token_limit
from hrkd_cli.training.stage_folder import (
    TrainResult,
    data_folder,
    load_finished_result,
    run_folder,
    run_key,
    write_model_folder,
)
from hrkd_cli.training.tokenized_split import TokenizedSplit, tokenize_split
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
    plan, tokenizer = _plan_training(classifier, pretrained, name, dataset, settings, context)
    train, dev = (tokenize_split(dataset, split, tokenizer) for split in ("train", "dev"))
    with run_folder(out, settings, key=key, resume=resume, context=context) as checkpointer:
        if settings.probe:
            classifier = start_from_probe(classifier, train, dev, heads, context, checkpointer.decisions)
        objective = FineTuningObjective(classifier, train, heads, settings, context)
        trainer = Trainer("teach", objective, settings, plan, checkpointer, dev, best_by_domain=True)
        trainer.run()
        description = f"A multi-domain text classifier, {code_span(name)} fine-tuned with hrkd-cli {__version__}."
        models = {"start": {"name": name, "fingerprint": fingerprint}}
        result = write_model_folder(trainer, dataset, description=description, models=models, sources=sources)
    context.on_event(StageDone("teach", str(out), result.steps, result.seconds, result.dev))
    return result


def _plan_training(
    classifier: Any, pretrained: Any, name: str, dataset: Dataset, settings: TrainingSettings, context: TrainContext
) -> tuple[TrainingPlan, ModelTokenizer]:
    """Choose what the settings leave open, move the classifier to its device, and check that it can be trained."""
    limit = token_limit(classifier, pretrained)
    plan = TrainingPlan.make(settings, TEACH, dataset, classifier.config, pretrained, limit, context.on_event)
    check_length(plan.max_length, classifier, pretrained, name)
    tokenizer = ModelTokenizer(classifier, pretrained, plan.max_length, settings.truncate)
    classifier.to(context.device)
    check_forward(FeatureCapture(classifier, (), attention=False), tokenizer, name)
    return plan, tokenizer


def teach_key(fingerprint: str, dataset: Dataset, settings: TrainingSettings) -> str:
    """Return a hash of everything that the teacher's weights depend on."""
    return run_key("teach", settings, model=fingerprint, data=dataset.fingerprint)


class FineTuningObjective(Objective):
    """The sum over domains of the mean cross-entropy of the domain's rows in a step, with their labels and domains."""

    is_additive = True

    def __init__(
        self, model: Any, train: TokenizedSplit, heads: DomainHeads, settings: TrainingSettings, context: TrainContext
    ) -> None:
        self.modules, self.heads = [model], heads
        self.capture = FeatureCapture(model, (), attention=False)
        self.label_gather = LabelGather(heads, context.device)
        weights = train.class_weights(heads, settings.class_weights)
        self.class_weights = None if weights is None else weights.to(context.device)  # (D, C)
        self.collator = Collator(train, context)
        self.loss_weights = {"label": 1.0}
        self.domain_posterior = settings.domain_weight > 0 and len(heads.domains) > 1
        if self.domain_posterior:
            self.loss_weights["domain"] = settings.domain_weight

    def loss(self, batch: Sequence[TrainBatch]) -> LossOutput:
        """Return the loss of one step's rows, given as length buckets."""
        local = reduce(operator.add, map(self._bucket_losses, batch))
        losses = self.collator.context.processes.all_reduce(local)
        terms = {name: w * loss for (name, w), loss in zip(self.loss_weights.items(), losses, strict=True)}
        return LossOutput(reduce(operator.add, terms.values()), terms if len(terms) > 1 else {})

    def _bucket_losses(self, bucket: TrainBatch) -> Tensor:
        """Return the label loss and, if it has a weight, the domain loss, (1,) or (2,)."""
        logits = self.capture(bucket.tokens).logits.float()
        pairs = [(self.label_gather.take(logits, bucket.domains), bucket.labels.targets)]
        if self.domain_posterior:
            pairs.append((self.label_gather.domain_logits(logits), bucket.domains))
        per_row = torch.stack([F.cross_entropy(*pair, reduction="none") for pair in pairs])
        if self.class_weights is not None:
            per_row[0] *= self.class_weights[bucket.domains, bucket.labels.targets]
        return (per_row * bucket.labels.weights).sum(dim=-1)
