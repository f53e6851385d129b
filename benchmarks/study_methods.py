"""What `study.py` compares: columns (data sets of some size) and methods (students, their teacher, and peers)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

PEERS = Path(__file__).parent / "peers"
STUDENT_SCRIPT = Path(__file__).parent / "student.py"
LENGTHS = (16, 64, 128, 256)
"""Tokens of the timed texts."""


class StudyError(Exception):
    """A study that cannot run or be tabulated; the message is one line."""


@dataclass(frozen=True, slots=True)
class Column:
    """A data set of some size.

    Attributes:
        title: heading in tables.
        source: path in the data folder.
        few_shot: fraction of the train split to use; None for all of it.
    """

    title: str
    source: str
    few_shot: float | None = None


COLUMNS = {
    "products": Column("Product reviews, sentences", "product_reviews"),
    "intents": Column("Intents, each domain with labels of its own", "intents5"),
    "intents-5": Column("Intents, 5% of train", "intents5", 0.05),
    "amazon": Column("Amazon reviews", "amazon"),
    "amazon-5": Column("Amazon reviews, 5% of train", "amazon", 0.05),
    "mnli": Column("MNLI, pairs", "mnli/MNLI"),
    "reviews12": Column("Reviews of 12 kinds", "reviews12"),
}


@dataclass(frozen=True, slots=True)
class Method:
    """A way to make a classifier.

    Attributes:
        label: name in tables.
        script: program that trains and times it.
        options: fields of ``DistillSettings`` that differ from their defaults, for students.
        deterministic: whether all seeds give the same model.
        few_rows_only: whether it is only for columns with few rows.
    """

    label: str
    script: Path
    options: dict[str, Any] | None = None
    deterministic: bool = False
    few_rows_only: bool = False

    @property
    def requirements(self) -> Path | None:
        """Its requirements file; None if it runs in the environment of hrkd-cli."""
        stem = self.script.stem.removesuffix("_peer")
        return None if self.script == STUDENT_SCRIPT else self.script.with_name(f"{stem}.txt")


STUDENT, TEACHER = "student", "teacher"
ENCODER_ONLY = {"wide": False, "augment": 0}  # what methods have in common would blur their differences
METHODS = {
    STUDENT: Method("**hrkd student, int8**", STUDENT_SCRIPT, {}),
    TEACHER: Method("its teacher, torch", STUDENT_SCRIPT),
    "tfidf": Method("TF-IDF, linear", PEERS / "tfidf_peer.py", deterministic=True),
    "frozen": Method("frozen encoder, linear", PEERS / "frozen_peer.py", deterministic=True),
    "model2vec": Method("model2vec, linear", PEERS / "model2vec_peer.py", deterministic=True),
    "fasttext": Method("fastText", PEERS / "fasttext_peer.py"),
    "optimum": Method("fine-tuned on labels, optimum int8", PEERS / "optimum_peer.py"),
    "setfit": Method("SetFit", PEERS / "setfit_peer.py", few_rows_only=True),
    # Students with other options, int8.
    "labels": Method("student without a teacher", STUDENT_SCRIPT, {**ENCODER_ONLY, "method": "labels"}),
    "logits": Method("student from logits only", STUDENT_SCRIPT, {**ENCODER_ONLY, "method": "logits"}),
    "uniform-graph": Method("student, uniform ratios", STUDENT_SCRIPT, {**ENCODER_ONLY, "graph": "uniform"}),
    "frozen-graph": Method("student, frozen graph", STUDENT_SCRIPT, {**ENCODER_ONLY, "graph": "frozen"}),
    "learned-graph": Method("student, learned graph", STUDENT_SCRIPT, {**ENCODER_ONLY, "graph": "learned"}),
    "base": Method("student of the teacher's width", STUDENT_SCRIPT, {"student": "base"}),
    "plain": Method("student, float32, no cache", STUDENT_SCRIPT, {"precision": "fp32", "cache_teacher": "off"}),
}
DEFAULT_METHODS = tuple(name for name, method in METHODS.items() if not method.options)


def select(names: str | None, known: dict[str, Any], default: tuple[str, ...], option: str) -> list[str]:
    """Return the names in a comma-separated option.

    Raises:
        StudyError: a name is unknown.
    """
    selected = names.split(",") if names else list(default)
    for name in selected:
        if name not in known:
            raise StudyError(f"{option}: {name!r} is not one of {', '.join(known)}")
    return selected
