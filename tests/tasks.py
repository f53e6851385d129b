"""A distillation task of small models, for tests of what one step does."""

import torch

from hrkd_cli.choices import Precision, TeacherCheckpoints
from hrkd_cli.distillation.task import Comparison, DistillTask
from hrkd_cli.distillation.teacher_outputs import OnlineTeacher
from hrkd_cli.distillation.teachers import open_teachers
from hrkd_cli.models.encoding import make_encoder
from hrkd_cli.models.loading import new_classifier
from hrkd_cli.models.precision import Arithmetic
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.settings import DistillSettings
from hrkd_cli.training.scoring import encode_split


def make_task(teacher, dataset, **options):
    """Return a task whose student is a random model of the teacher's shape."""
    device = torch.device("cpu")
    teachers = open_teachers(teacher, dataset, checkpoints=TeacherCheckpoints.AVERAGE, device=device, name="t")
    heads = DomainHeads.build(dataset.labels)
    encoder = make_encoder(teachers.root, teachers.tokenizer, 16)
    rows = (encoder, encode_split(dataset, "train", encoder).encoded)
    torch.manual_seed(0)
    student = new_classifier(teachers.root.config)
    settings = DistillSettings(**options).resolved()
    comparison = Comparison.of(settings, teachers.root.config, student.config)
    pad_to = 16 if comparison.padded else None
    side = OnlineTeacher(
        teachers,
        comparison.layers,
        attention=comparison.attention,
        rows=rows,
        own_tokenizer=False,
        pad_to=pad_to,
        device=device,
    )
    task = DistillTask(
        side,
        student,
        heads,
        settings,
        comparison,
        teacher=teachers.root.config,
        rows=rows,
        class_weights=dict.fromkeys(heads.domains),
        arithmetic=Arithmetic(Precision.FP32, device),
    )
    return task, teachers.root, student
