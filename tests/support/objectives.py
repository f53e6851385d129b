"""A distillation objective of small models, for tests of what one step does."""

import torch

from hrkd_cli.choices import Precision, TeacherCheckpoints
from hrkd_cli.distillation.distill_collator import DistillCollator
from hrkd_cli.distillation.loss_config import LossConfig
from hrkd_cli.distillation.objective import DistillObjective
from hrkd_cli.distillation.online_teacher import OnlineTeacher
from hrkd_cli.distillation.teachers import open_teachers
from hrkd_cli.models.loading import new_classifier
from hrkd_cli.models.model_tokenizer import ModelTokenizer
from hrkd_cli.models.precision import PrecisionPolicy
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.settings import DistillSettings
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.tokenized_split import tokenize_split


def make_objective(teacher, dataset, *, precision=Precision.FP32, **options):
    """Return an objective whose student is a random model of the teacher's shape."""
    device = torch.device("cpu")
    teachers = open_teachers(teacher, dataset, checkpoints=TeacherCheckpoints.AVERAGE, device=device, name="t")
    heads = DomainHeads.build(dataset.labels)
    tokenizer = ModelTokenizer(teachers.primary, teachers.tokenizer, 16)
    split = tokenize_split(dataset, "train", tokenizer)
    torch.manual_seed(0)
    student = new_classifier(teachers.primary.config)
    settings = DistillSettings(max_length=16, **options).resolve()
    loss_config = LossConfig.from_settings(settings, teachers.primary.config, student.config, 16)
    context = TrainContext(PrecisionPolicy(precision, device))
    online = OnlineTeacher(teachers, loss_config, split, device=device)
    objective = DistillObjective(
        DistillCollator(online, split, context, pad_to=loss_config.pad_to),
        student,
        heads,
        settings,
        loss_config,
    )
    return objective, teachers.primary, student
