"""What a distillation refuses before anything slow."""

from __future__ import annotations

from pathlib import Path

from hrkd_cli.choices import Graph
from hrkd_cli.data.dataset import Dataset
from hrkd_cli.distillation.general import general_root
from hrkd_cli.errors import ModelError, UsageError
from hrkd_cli.layout import DATASET_OUT, TEACHER_OUT
from hrkd_cli.models.loading import resolve
from hrkd_cli.models.student import student_spec_is_path
from hrkd_cli.outputs import check_apart
from hrkd_cli.settings import DistillSettings


def chosen_domains(dataset: Dataset, domains: str | None) -> Dataset:
    """Keep the named domains; all where none is named.

    Raises:
        UsageError: the data has no such domain.
    """
    if domains is None:
        return dataset
    names = [name.strip() for name in domains.split(",")]
    for name in names:
        if name not in dataset.domains:
            raise UsageError(f"--domains: there is no domain {name!r} in the data; it has {', '.join(dataset.domains)}")
    return dataset.only(*names)


def check_graph(settings: DistillSettings, dataset: Dataset) -> None:
    """Refuse a graph that has nothing to weigh.

    Raises:
        UsageError: there is one domain.
    """
    if settings.graph is Graph.LEARNED and len(dataset.domains) == 1:
        raise UsageError("--graph learned: there is one domain, and nothing to weigh; use --graph uniform")


def check_places(teacher: str | Path, data: str | Path, out: Path, settings: DistillSettings) -> Path:
    """Refuse what cannot be, before anything slow; return the teacher's folder.

    Raises:
        UsageError: ``out`` would replace what the run reads, or ``--init`` comes with a student that has weights.
        ModelError: there is no teacher.
    """
    own_weights = student_spec_is_path(settings.student)
    if own_weights and settings.init is not None:
        raise UsageError(f"--init: --student {settings.student} has weights of its own; leave --init out")
    if Path(teacher) == TEACHER_OUT and not TEACHER_OUT.exists():
        raise ModelError(f"--teacher: there is no {TEACHER_OUT} yet; run hrkd teach first, or name an encoder to teach")
    path = resolve(teacher, "teacher")
    others = {"teacher": path, "data": Path(data), "dataset": DATASET_OUT, "taught teacher": TEACHER_OUT}
    if own_weights:
        others["start of the student"] = resolve(str(settings.student), "student")
    if settings.unlabelled is not None:
        others["unlabelled texts"] = Path(settings.unlabelled)
    if settings.general is not None:
        others |= {"general texts": Path(settings.general), "general distillations": general_root(out)}
    check_apart(out, others)
    return path
