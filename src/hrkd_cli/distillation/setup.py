"""Setup of a distillation: loads and checks the models, and tokenizes the data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hrkd_cli.choices import Init, InstanceWeights, Truncate
from hrkd_cli.data.dataset import Dataset, TextRows
from hrkd_cli.data.sampler import unlabeled_per_labeled
from hrkd_cli.data.unlabeled import UnlabeledTexts
from hrkd_cli.distillation.distill_collator import DistillCollator
from hrkd_cli.distillation.instance_weights import instance_weights
from hrkd_cli.distillation.loss_config import LossConfig
from hrkd_cli.distillation.objective import DistillObjective
from hrkd_cli.distillation.online_teacher import OnlineTeacher
from hrkd_cli.distillation.prerequisites import check_models
from hrkd_cli.distillation.teacher_cache import Teacher, cached_or_online
from hrkd_cli.distillation.teachers import Teachers, check_teachers, open_teachers
from hrkd_cli.distillation.wide_fit import KeptColumns, fit_wide_branch
from hrkd_cli.events import Note, Progress
from hrkd_cli.formatting import join_names
from hrkd_cli.json_files import read_json
from hrkd_cli.layout import TEACHER_CACHE, ModelFiles
from hrkd_cli.method import Requirement
from hrkd_cli.models.mean_pooling import encoder_layers
from hrkd_cli.models.model_tokenizer import ModelTokenizer
from hrkd_cli.models.student_init import build_student
from hrkd_cli.models.wide import ScoredWideBranch, WideBranch
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.settings import DistillSettings
from hrkd_cli.training.checkpoint import Checkpointer
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.dev_scoring import predict_split
from hrkd_cli.training.plan import DISTILL, TrainingPlan, check_length, token_limit
from hrkd_cli.training.tokenized_split import TokenizedSplit, tokenize_split


@dataclass(frozen=True, slots=True)
class DistillSetup:
    """Teachers, student and tokenized data of a distillation.

    Attributes:
        settings: resolved settings.
        teacher_train: the training data in the teachers' tokenization.
        heads: the student's outputs by domain.
        old_branch: the wide branch of the student that is extended; that student is then the only teacher.
        texts: unlabeled texts by domain.
        train: the training data in the student's tokenization: for each domain the train split, then unlabeled texts.
        dev: the dev split in the student's tokenization.
    """

    settings: DistillSettings
    dataset: Dataset
    plan: TrainingPlan
    context: TrainContext
    teachers: Teachers
    teacher_train: TokenizedSplit
    student: Any
    heads: DomainHeads
    old_branch: WideBranch | None
    texts: dict[str, TextRows]
    train: TokenizedSplit
    dev: TokenizedSplit

    @classmethod
    def open(
        cls,
        path: Path,
        dataset: Dataset,
        settings: DistillSettings,
        *,
        tokenizer: Any | None,
        unlabeled: UnlabeledTexts | None,
        name: str,
        context: TrainContext,
    ) -> DistillSetup:
        """Load and check the teachers, create the student, tokenize the data.

        ``path`` is the teacher's folder, ``name`` its name in messages; ``tokenizer`` is the student's, None for the
        teacher's.

        Raises:
            HrkdError: teacher, student and data do not fit together.
        """
        context.on_event(Progress("loading the teacher"))
        checkpoints, device = settings.teacher_checkpoints, context.device
        extending = settings.extend is not None
        known = dataset
        if extending:
            known = dataset.select_domains(*read_json(path / ModelFiles.config)["hrkd"]["domains"])
        teachers = open_teachers(path, known, checkpoints=checkpoints, device=device, name=name)
        config = teachers.primary.config
        heads, new = DomainHeads.build(dataset.labels), sorted(set(dataset.domains) - set(known.domains))
        student, text = build_student(
            f"{encoder_layers(config)}x{config.hidden_size}" if extending else settings.student,
            teachers.primary,
            heads,
            teacher_heads=teachers.heads,
            init=settings.init or Init.TEACHER,
            seed=settings.seed,
        )
        if text:
            context.on_event(Note(f"new in {name}: {join_names(new)}" if extending else text))
        context.on_event(Progress("tokenizing the texts"))
        pretrained = tokenizer or teachers.tokenizer
        limit = min(token_limit(student, pretrained), token_limit(teachers.primary, teachers.tokenizer))
        labeled = dataset.without_new_domains
        plan = TrainingPlan.make(settings, DISTILL, labeled, student.config, pretrained, limit, context.on_event)
        check_length(plan.max_length, student, pretrained, "the student")
        check_models(teachers.primary, student, teachers.tokenizer, pretrained, settings)
        teacher_tokenizer = check_teachers(
            teachers, dataset, settings, max_length=plan.max_length, name=name, context=context
        )
        student_tokenizer = ModelTokenizer(student, pretrained, plan.max_length, settings.truncate)
        student.to(device)
        texts = unlabeled.rows if unlabeled is not None else {}
        train = teacher_train = tokenize_split(dataset, "train", student_tokenizer, texts)
        if tokenizer is not None or student_tokenizer.input_names != teacher_tokenizer.input_names:
            teacher_train = tokenize_split(dataset, "train", teacher_tokenizer, texts)
        dev = tokenize_split(dataset, "dev", student_tokenizer)
        branch = None
        if extending and (path / ModelFiles.wide).is_file():
            branch = WideBranch.load(path, student.config.vocab_size)
        return cls(settings, dataset, plan, context, teachers, teacher_train, student, heads, branch, texts, train, dev)

    def objective(self, checkpointer: Checkpointer, out: Path) -> DistillObjective:
        """Create the objective, with cached teacher outputs and instance weights if the settings require them.

        Cached teacher outputs are stored next to ``out``, the student's folder.
        """
        settings, context = self.settings, self.context
        if len(self.heads.domains) == 1:
            settings = replace(settings, domain_weight=0.0)  # its posterior is always 1
        if missing := [domain for domain in self.heads.domains if domain not in self.train.examples]:
            settings = replace(settings, domain_weight=0.0)
            text = (
                f"no texts of {join_names(missing)}: their accuracy is not checked, and the student does not learn to"
            )
            context.on_event(Note(f"{text} find the domain of a text; add rows or --unlabelled texts", warning=True))
        loss_config = LossConfig.from_settings(
            settings, self.teachers.primary.config, self.student.config, self.plan.max_length
        )
        weigh_instances = settings.instance_weights is not InstanceWeights.NONE
        teacher: Teacher | None = None
        if loss_config.requires(Requirement.HIDDEN_STATES, Requirement.QUERIES_KEYS, Requirement.LOGITS):
            online = OnlineTeacher(self.teachers, loss_config, self.teacher_train, context.device)
            teacher = cached_or_online(
                online,
                settings.cache_teacher,
                root=out.resolve().parent / TEACHER_CACHE,
                reads_per_row=self._epoch_fraction() * self.plan.epochs + weigh_instances,
                checkpointer=checkpointer,
                context=context,
            )
        collator = DistillCollator(teacher, self.train, context, pad_to=loss_config.pad_to)
        if weigh_instances:
            collator.row_weights = instance_weights(collator, loss_config.teacher_width)
        extended = (self.teachers.primary, self.teachers.heads) if settings.extend is not None else None
        return DistillObjective(collator, self.student, self.heads, settings, loss_config, extended)

    def wide_branch(self, *, domain_posterior: bool) -> ScoredWideBranch | None:
        """Fit a wide branch for the trained student; None if it does not help or on other processes."""
        if not self.settings.wide or self.settings.truncate is not Truncate.HEAD:
            return None
        dev_logits = predict_split(self.student, self.dev, self.context)
        if not self.context.processes.is_main:
            return None
        return fit_wide_branch(
            self.student,
            self.train,
            self.dataset,
            self.heads,
            dev_logits,
            self.context.on_event,
            domain_texts={d: self.texts[d] for d in self.dataset.new_domains} if domain_posterior else None,
            kept=self._kept_columns(),
        )

    def _kept_columns(self) -> KeptColumns | None:
        """Return the columns of the old domains that have no rows; None if there are none."""
        if self.settings.extend is None or not self.dataset.new_domains:
            return None
        old, new = self.teachers.heads.columns, self.heads.columns
        pairs = (pair for domain in self.dataset.new_domains for pair in zip(new[domain], old[domain], strict=True))
        return KeptColumns(dict(pairs), self.old_branch)

    def _epoch_fraction(self) -> float:
        """Return the fraction of all rows that an epoch reads, at most 1."""
        unlabeled_rate = unlabeled_per_labeled(self.settings.unlabelled_share)
        rows_read = 0.0
        largest = max(map(len, self.train.labels.values()))  # about as many rows of a domain without labels are read
        for domain, labels in self.train.labels.items():
            rows_read += len(labels) * (1 + unlabeled_rate * (domain in self.train.unlabeled)) or largest
        return min(1.0, rows_read / self.train.count)
