"""Teaching: one encoder fine-tuned on all domains, a head a domain (the paper's section 4.1)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from hrkd_cli import __version__
from hrkd_cli.config import TeachSettings, TrainingSettings
from hrkd_cli.data.dataset import Dataset
from hrkd_cli.data.opening import load_for_training
from hrkd_cli.events import OnEvent, StageDone, ignore
from hrkd_cli.layout import DATASET_OUT, MODEL, TEACHER_OUT
from hrkd_cli.model.backend import pick_device
from hrkd_cli.model.capture import select_columns
from hrkd_cli.model.encoding import Encoder, make_encoder
from hrkd_cli.model.folder import is_stage_folder, model_fingerprint
from hrkd_cli.model.loading import load_classifier, load_tokenizer, resolve
from hrkd_cli.outputs import check_apart, check_output, whole_folder
from hrkd_cli.runtime.heads import DomainHeads
from hrkd_cli.train.loop import Rows, TaskLoss
from hrkd_cli.train.result import TrainResult, run_key
from hrkd_cli.train.run import Run
from hrkd_cli.train.scoring import SplitLabels, encode_split, score
from hrkd_cli.train.stage import Finished, check_length, check_trainable, class_weights, make_sampler, seed_everything


def teach(
    model: str | Path,
    *,
    data: str | Path = DATASET_OUT,
    out: str | Path = TEACHER_OUT,
    force: bool = False,
    on_event: OnEvent = ignore,
    sources: Mapping[str, str] | None = None,
    **options: Any,
) -> TrainResult:
    """Fine-tune an encoder on all domains of a dataset.

    Args:
        model: folder or hub id of an encoder.
        data: prepared dataset folder, or a raw source (prepared into ``hrkd-out/dataset`` first).
        out: folder to write.
        force: replace an existing output.
        on_event: told what happens.
        sources: where each option came from, for the record.
        **options: fields of ``hrkd_cli.config.TeachSettings``.

    Raises:
        HrkdError: a user's error, in one line (see ``hrkd_cli.errors``).
    """
    settings = TeachSettings(**options)
    out = Path(out)
    check_output(out, kind="teacher", is_ours=is_teacher, force=force)
    path = resolve(model)
    check_apart(out, {"model": path, "data": Path(data), "dataset": DATASET_OUT})
    dataset = load_for_training(data, force=force, on_event=on_event)
    return teach_on(path, dataset, settings, out=out, name=str(model), on_event=on_event, sources=sources or {})


def teach_on(
    path: Path,
    dataset: Dataset,
    settings: TeachSettings,
    *,
    out: Path,
    name: str,
    on_event: OnEvent = ignore,
    sources: Mapping[str, str] | None = None,
) -> TrainResult:
    """Fine-tune the encoder in ``path`` on a dataset in memory; see teach."""
    check_trainable(dataset)
    seed_everything(settings.seed)
    device = pick_device(settings.device)
    heads = DomainHeads.build(dataset.labels)
    tokenizer = load_tokenizer(path)
    model = load_classifier(path, heads)
    check_length(settings.max_length, model, tokenizer, name)
    encoder = make_encoder(model, tokenizer, settings.max_length)
    model.to(device)
    task = TeachTask(model, encode_split(dataset, "train", encoder), heads, encoder, settings, device)
    dev = encode_split(dataset, "dev", encoder)
    with whole_folder(out) as work:
        run = Run(
            stage="teach",
            model=model,
            extra=[],
            task=task,
            sampler=make_sampler(dataset, settings),
            score_dev=lambda: score(model, dev, heads, encoder, device),
            dev_rows=dev.rows,
            settings=settings,
            work=work,
            out=out,
            on_event=on_event,
        )
        trained = run.run(heads.domains)
        finished = Finished(
            stage="teach",
            model=model,
            tokenizer=tokenizer,
            heads=heads,
            dataset=dataset,
            settings=settings,
            what=f"A multi-domain text classifier, `{name}` fine-tuned with hrkd-cli {__version__}.",
            start=name,
            models={"start": {"name": name, "fingerprint": model_fingerprint(path)}},
            key=teach_key(path, dataset, settings),
            sources=sources or {},
        )
        for domain, kept in trained.best_by_domain.items():
            if kept.step != trained.best.step:
                kept.load(model)
                finished.save(work / MODEL.best / domain)
        result = finished.write(work, out, trained)
    on_event(StageDone("teach", str(out), result.steps, result.seconds))
    return result


def teach_key(path: Path, dataset: Dataset, settings: TeachSettings) -> str:
    """Return what a teacher depends on, so that an unchanged one can be used again."""
    # The device changes no more than a weight's last digits.
    options = {name: value for name, value in settings.to_json().items() if name != "device"}
    return run_key(stage="teach", model=model_fingerprint(path), data=dataset.fingerprint, options=options)


def is_teacher(folder: Path) -> bool:
    """Tell a folder that ``hrkd teach`` wrote."""
    return is_stage_folder(folder, "teach")


class TeachTask:
    """Cross-entropy of every domain's batch, summed over domains."""

    def __init__(
        self,
        model: Any,
        train: SplitLabels,
        heads: DomainHeads,
        encoder: Encoder,
        settings: TrainingSettings,
        device: torch.device,
    ) -> None:
        self.model = model
        self.train = train
        self.heads = heads
        self.encoder = encoder
        self.device = device
        self.class_weights = class_weights(train, heads, settings, device)

    def loss(self, rows: Rows) -> TaskLoss:
        """Run one batch of every domain through the model."""
        total = torch.zeros((), device=self.device)
        for domain, indices in rows.items():
            batch = self.encoder.collate(self.train.encoded[domain], indices, self.device)
            logits = select_columns(self.model(**batch.inputs).logits, self.heads.columns[domain])
            labels = torch.from_numpy(self.train.labels[domain][list(indices)]).to(self.device)
            total = total + F.cross_entropy(logits, labels, weight=self.class_weights[domain])
        return TaskLoss(total)
