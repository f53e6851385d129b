"""What `study.py` compares: methods (rows), columns (data and sizes) and plans (sets of columns)."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

# Values that the command line gives; results are stored with these marks, not with paths of a machine.
STUDENT, TEXTS = "@student", "@unlabelled"
EACH = "@each"  # as the value of `domains`: one student per domain

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "labels": ("labels only, no teacher", {"method": "labels"}),
    "logits": ("logits only", {"method": "logits"}),
    "uniform": ("hidden states too, uniform ratios", {"graph": "uniform"}),
    "frozen": ("HRKD, frozen graph", {"graph": "frozen"}),
    "learned": ("HRKD, learned graph", {"graph": "learned"}),
    "no-hierarchy": ("HRKD, frozen graph, without hierarchy", {"graph": "frozen", "hierarchy": False}),
    "one-domain": ("TinyBERT, a student for each domain", {"method": "tinybert", "domains": EACH}),
    "meta-kd": ("uniform ratios, Meta-KD's instance weights", {"graph": "uniform", "instance_weights": "meta-kd"}),
    "paper": ("the released recipe", {"recipe": "paper"}),
    "plain": ("float32, teachers run at every step", {"precision": "fp32", "cache_teacher": "off"}),
    "label-loss": ("uniform ratios, label loss mixed in", {"label_weight": 1.0}),
    "logits+labels": ("logits and labels", {"method": "logits", "label_weight": 1.0}),
    "texts": ("uniform ratios, unlabelled texts", {"unlabelled": TEXTS}),
    "logits+texts": ("logits only, unlabelled texts", {"method": "logits", "unlabelled": TEXTS}),
    "all": ("uniform ratios, unlabelled texts, label loss", {"unlabelled": TEXTS, "label_weight": 1.0}),
    "slower": ("uniform ratios, 1e-4", {"graph": "uniform", "learning_rate": 1e-4}),
    "logits-slower": ("logits only, 1e-4", {"method": "logits", "learning_rate": 1e-4}),
    "from-teacher+logits": ("logits only, student cut from the teacher", {"student": "3x384", "method": "logits"}),
    "from-teacher+uniform": ("uniform ratios, student cut from the teacher", {"student": "3x384", "graph": "uniform"}),
    "from-teacher+frozen": ("frozen graph, student cut from the teacher", {"student": "3x384", "graph": "frozen"}),
    "from-teacher+learned": ("learned graph, student cut from the teacher", {"student": "3x384", "graph": "learned"}),
    "from-teacher+texts": (
        "uniform ratios, unlabelled texts, student cut from the teacher",
        {"student": "3x384", "unlabelled": TEXTS},
    ),
    "strong-predictions": (
        "uniform ratios, prediction loss x 20, attention x 0.1",
        {"prediction_weight": 20.0, "attention_weight": 0.1},
    ),
}
"""What tables call a method, and its options of ``DistillSettings``; they go before those of the column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A dataset, its size, and what all methods have in common on it.

    Attributes:
        says: what a table calls it.
        source: name of the option with the data (``amazon`` for ``--amazon``); ``sample`` is built in.
        few_shot: share of the train split that is kept; None for all.
        max_length: tokens.
        truncate: how longer texts are cut; None leaves the option out.
        teacher_epochs: epochs of the teacher.
        teacher_rate: its learning rate.
        epochs: epochs of the student.
        options: more options of all students.
        methods: names in METHODS.
        large: whether ``--large-teacher`` is taught, not ``--teacher-model``.
        shuffled: domains whose train labels are dealt out anew: what they teach is noise. Not scored.
    """

    says: str
    source: str
    few_shot: float | None = None
    max_length: int = 128
    truncate: str | None = None
    teacher_epochs: int
    teacher_rate: float = 5e-5
    epochs: int
    options: Mapping[str, Any] = field(default_factory=dict)
    methods: Sequence[str] = ("labels", "logits", "uniform", "frozen", "learned")
    large: bool = False
    shuffled: Sequence[str] = ()

    def shared(self) -> dict[str, Any]:
        """Return the options that teacher and students have in common."""
        cut = {} if self.truncate is None else {"truncate": self.truncate}
        return {"max_length": self.max_length, **cut}

    def teaching(self) -> dict[str, Any]:
        """Return the teacher's options. Its seed is one for all: only the students are drawn anew."""
        return {**self.shared(), "epochs": self.teacher_epochs, "learning_rate": self.teacher_rate, "seed": 1}

    def distilling(self, method: str) -> dict[str, Any]:
        """Return a student's options but for its seed, with marks for what the command line gives."""
        return {**self.shared(), "epochs": self.epochs, "student": STUDENT, **self.options, **METHODS[method][1]}

    def to_json(self) -> dict[str, Any]:
        """Return what a stored teacher and its data depend on."""
        others = ("says", "epochs", "options", "methods")
        found = {name: value for name, value in asdict(self).items() if name not in others}
        if not self.shuffled:
            del found["shuffled"]  # columns were stored before there was such a thing
        return found


# Sizes: a student trains about 37 Amazon or 80 MNLI examples/s on two CPU cores. Dev is as large in few-shot, where it
# would cost more than the training if it were scored twice an epoch.
COLUMNS: dict[str, Column] = {
    "amazon": Column(says="Amazon, all rows", source="amazon", teacher_epochs=2, epochs=3),
    "amazon-5": Column(
        says="Amazon, 5 % of train",
        source="amazon",
        few_shot=0.05,
        teacher_epochs=10,
        epochs=30,
        options={"eval_every": 40},  # 8 steps an epoch
    ),
    "mnli-5": Column(
        says="MNLI, 5 % of train",
        source="mnli",
        few_shot=0.05,
        teacher_epochs=10,
        epochs=15,
        options={"eval_every": 45, "allow_weak_teacher": True},  # 16 steps an epoch
    ),
    "amazon-5-texts": Column(
        says="Amazon, 5 % of train and unlabelled texts",
        source="amazon",
        few_shot=0.05,
        teacher_epochs=10,
        epochs=30,  # an epoch is that of the labelled rows: the texts are seen about once
        options={"eval_every": 40, "unlabelled": TEXTS},
        methods=("logits", "uniform", "frozen", "learned"),
    ),
    "amazon-20": Column(
        says="Amazon, 20 % of train",
        source="amazon",
        few_shot=0.2,
        teacher_epochs=5,
        epochs=10,
        options={"eval_every": 50},  # 32 steps an epoch
    ),
    "mnli": Column(
        says="MNLI, all rows", source="mnli", teacher_epochs=3, epochs=3, options={"allow_weak_teacher": True}
    ),
    "reviews12-20": Column(
        says="12 kinds of reviews, 20 % of train",
        source="reviews12",
        few_shot=0.2,
        teacher_epochs=5,
        epochs=5,
        options={"eval_every": 30},  # 32 steps an epoch
    ),
    "long": Column(
        says="Amazon, 256 tokens, 12-layer teacher",
        source="amazon",
        max_length=256,
        teacher_epochs=3,
        epochs=8,
        large=True,
        methods=("logits", "uniform", "learned", "texts", "logits+texts", "all", "strong-predictions"),
    ),
    "long-cut": Column(
        says="Amazon, 256 tokens, 12-layer teacher, student cut from it",
        source="amazon",
        max_length=256,
        teacher_epochs=3,
        epochs=8,
        large=True,
        options={"student": "3x384"},
        methods=("logits+texts", "texts"),
    ),
    "long-ends": Column(
        says="Amazon, 256 tokens from both ends, 12-layer teacher",
        source="amazon",
        max_length=256,
        truncate="head-tail",
        teacher_epochs=3,
        epochs=8,
        large=True,
        methods=("logits", "uniform", "texts", "strong-predictions"),
    ),
    "ends": Column(
        says="Amazon, 128 tokens from both ends, 12-layer teacher",
        source="amazon",
        truncate="head-tail",
        teacher_epochs=3,
        epochs=8,
        large=True,
        methods=("logits", "uniform", "texts", "strong-predictions"),
    ),
    "amazon-texts": Column(
        says="Amazon, all rows and unlabelled texts, ten epochs, student cut from the teacher",
        source="amazon",
        teacher_epochs=2,
        epochs=10,
        options={"student": "3x384", "unlabelled": TEXTS},
        methods=("uniform", "logits"),
    ),
    "amazon-5-noise": Column(
        says="Amazon, 5 % of train, labels of books and dvd shuffled, student cut from the teacher",
        source="amazon",
        few_shot=0.05,
        teacher_epochs=10,
        epochs=30,
        options={"student": "3x384", "eval_every": 40, "allow_weak_teacher": True},
        methods=("uniform", "frozen", "learned"),
        shuffled=("books", "dvd"),
    ),
    "sample": Column(
        says="the built-in sample",
        source="sample",
        max_length=32,
        teacher_epochs=2,
        epochs=2,
        options={"allow_weak_teacher": True},
        methods=("logits", "uniform", "frozen"),
    ),
}

PLANS: dict[str, tuple[str, ...]] = {
    "first": ("amazon", "amazon-5", "mnli-5", "amazon-5-texts"),
    "later": ("amazon-20", "mnli", "reviews12-20"),
    "best": ("amazon-texts",),
    "noise": ("amazon-5-noise",),
    "recipe": ("amazon", "amazon-5", "long", "long-cut", "long-ends", "ends"),
    "sample": ("sample",),  # a minute or two, to see that it works
}


class PlanError(Exception):
    """Something that cannot be run, one line each."""


def choose(plan: str, only: Sequence[str]) -> dict[str, list[str]]:
    """Return the methods of each column of a plan.

    Args:
        plan: a name in PLANS.
        only: patterns (``amazon-5``, ``amazon-5/frozen``, ``*/learned``); none for all. A column and a method that are
            named in full go together even where the column does not have the method by itself.

    Raises:
        PlanError: a pattern fits nothing.
    """
    rows = [(column, method) for column in PLANS[plan] for method in COLUMNS[column].methods]
    named = [tuple(pattern.split("/", 1)) for pattern in only if "/" in pattern]
    rows += [(c, m) for c, m in named if c in PLANS[plan] and m in METHODS and (c, m) not in rows]
    patterns = [pattern if "/" in pattern else f"{pattern}/*" for pattern in only]
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(f"{column}/{method}", pattern) for column, method in rows):
            raise PlanError(f"--only {pattern}: nothing in plan {plan}; its columns: {', '.join(PLANS[plan])}")
    chosen: dict[str, list[str]] = {}
    for column, method in rows:
        if not patterns or any(fnmatch.fnmatchcase(f"{column}/{method}", pattern) for pattern in patterns):
            chosen.setdefault(column, []).append(method)
    return chosen
