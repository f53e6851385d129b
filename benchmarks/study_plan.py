"""What `study.py` compares: methods (table rows), columns (datasets of some size) and plans (sets of columns)."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

# Placeholders for values from the command line. Results are stored with them, not with the paths of a machine.
STUDENT, TEXTS = "@student", "@unlabelled"
PER_DOMAIN = "@each"  # as the value of `domains`: one student per domain


@dataclass(frozen=True, slots=True)
class Method:
    """A way to train students.

    Attributes:
        label: name in the tables.
        options: fields of ``DistillSettings``, which go before those of the column.
    """

    label: str
    options: dict[str, Any]


METHODS: dict[str, Method] = {
    "labels": Method("labels only, no teacher", {"method": "labels"}),
    "logits": Method("logits only", {"method": "logits"}),
    "uniform": Method("HRKD, uniform ratios", {"graph": "uniform"}),
    "frozen": Method("HRKD, frozen graph", {"graph": "frozen"}),
    "learned": Method("HRKD, learned graph", {"graph": "learned"}),
    "no-hierarchy": Method("HRKD, frozen graph, no hierarchy", {"graph": "frozen", "hierarchy": False}),
    "one-domain": Method("TinyBERT, one student per domain", {"method": "tinybert", "domains": PER_DOMAIN}),
    "meta-kd": Method("uniform ratios, Meta-KD instance weights", {"graph": "uniform", "instance_weights": "meta-kd"}),
    "paper": Method("the paper's options", {"recipe": "paper"}),
    "plain": Method("float32, no teacher cache", {"precision": "fp32", "cache_teacher": "off"}),
    "label-loss": Method("uniform ratios, label loss", {"label_weight": 1.0}),
    "logits+labels": Method("logits and labels", {"method": "logits", "label_weight": 1.0}),
    "texts": Method("uniform ratios, unlabeled texts", {"unlabelled": TEXTS}),
    "logits+texts": Method("logits only, unlabeled texts", {"method": "logits", "unlabelled": TEXTS}),
    "all": Method("uniform ratios, unlabeled texts, label loss", {"unlabelled": TEXTS, "label_weight": 1.0}),
    "slower": Method("uniform ratios, learning rate 1e-4", {"graph": "uniform", "learning_rate": 1e-4}),
    "logits-slower": Method("logits only, learning rate 1e-4", {"method": "logits", "learning_rate": 1e-4}),
    "from-teacher+logits": Method(
        "logits only, student cut from the teacher", {"student": "3x384", "method": "logits"}
    ),
    "from-teacher+uniform": Method(
        "uniform ratios, student cut from the teacher", {"student": "3x384", "graph": "uniform"}
    ),
    "from-teacher+frozen": Method(
        "frozen graph, student cut from the teacher", {"student": "3x384", "graph": "frozen"}
    ),
    "from-teacher+learned": Method(
        "learned graph, student cut from the teacher", {"student": "3x384", "graph": "learned"}
    ),
    "from-teacher+texts": Method(
        "uniform ratios, unlabeled texts, student cut from the teacher", {"student": "3x384", "unlabelled": TEXTS}
    ),
    "strong-predictions": Method(
        "uniform ratios, prediction loss x 20, attention loss x 0.1",
        {"prediction_weight": 20.0, "attention_weight": 0.1},
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A dataset of some size, and the options that all methods share on it.

    Attributes:
        title: heading of its table.
        source: name of the option with the data (``amazon`` for ``--amazon``); ``sample`` is built in.
        few_shot: fraction of the train split to use; None for all of it.
        max_length: tokens.
        truncate: the option of that name; None for its default.
        teacher_epochs: epochs of the teacher.
        teacher_rate: learning rate of the teacher.
        epochs: epochs of the student.
        options: further options of all students.
        methods: names in METHODS.
        large: whether the teacher starts from ``--large-teacher`` instead of ``--teacher-model``.
        shuffled: domains whose train labels are shuffled (noise). They are not scored.
    """

    title: str
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

    def tokenization_options(self) -> dict[str, Any]:
        """Return the options that teacher and students share."""
        truncate = {} if self.truncate is None else {"truncate": self.truncate}
        return {"max_length": self.max_length, **truncate}

    def teach_options(self) -> dict[str, Any]:
        """Return the teacher's options. Its seed is fixed; only students vary by seed."""
        return {
            **self.tokenization_options(),
            "epochs": self.teacher_epochs,
            "learning_rate": self.teacher_rate,
            "seed": 1,
        }

    def distill_options(self, method: str) -> dict[str, Any]:
        """Return a student's options without the seed, with placeholders for values from the command line."""
        common = {**self.tokenization_options(), "epochs": self.epochs, "student": STUDENT}
        return {**common, **self.options, **METHODS[method].options}

    def to_json(self) -> dict[str, Any]:
        """Return the fields on which a stored teacher and its data depend."""
        others = ("title", "epochs", "options", "methods")
        fields = {name: value for name, value in asdict(self).items() if name not in others}
        if not self.shuffled:
            del fields["shuffled"]  # older stored columns do not have this field
        return fields


# A student trains on about 37 Amazon or 80 MNLI examples/s on two CPU cores. The few-shot columns keep the whole dev
# split, so they set `eval_every`: scoring dev twice per epoch would take longer than training.
COLUMNS: dict[str, Column] = {
    "amazon": Column(title="Amazon, all rows", source="amazon", teacher_epochs=2, epochs=3),
    "amazon-5": Column(
        title="Amazon, 5% of train",
        source="amazon",
        few_shot=0.05,
        teacher_epochs=10,
        epochs=30,
        options={"eval_every": 40},  # 8 steps per epoch
    ),
    "mnli-5": Column(
        title="MNLI, 5% of train",
        source="mnli",
        few_shot=0.05,
        teacher_epochs=10,
        epochs=15,
        options={"eval_every": 45, "allow_weak_teacher": True},  # 16 steps per epoch
    ),
    "amazon-5-texts": Column(
        title="Amazon, 5% of train and unlabeled texts",
        source="amazon",
        few_shot=0.05,
        teacher_epochs=10,
        epochs=30,  # epochs of the labeled rows; the texts are seen about once
        options={"eval_every": 40, "unlabelled": TEXTS},
        methods=("logits", "uniform", "frozen", "learned"),
    ),
    "amazon-20": Column(
        title="Amazon, 20% of train",
        source="amazon",
        few_shot=0.2,
        teacher_epochs=5,
        epochs=10,
        options={"eval_every": 50},  # 32 steps per epoch
    ),
    "mnli": Column(
        title="MNLI, all rows", source="mnli", teacher_epochs=3, epochs=3, options={"allow_weak_teacher": True}
    ),
    "reviews12-20": Column(
        title="12 kinds of reviews, 20% of train",
        source="reviews12",
        few_shot=0.2,
        teacher_epochs=5,
        epochs=5,
        options={"eval_every": 30},  # 32 steps per epoch
    ),
    "long": Column(
        title="Amazon, 256 tokens, 12-layer teacher",
        source="amazon",
        max_length=256,
        teacher_epochs=3,
        epochs=8,
        large=True,
        methods=("logits", "uniform", "learned", "texts", "logits+texts", "all", "strong-predictions"),
    ),
    "long-cut": Column(
        title="Amazon, 256 tokens, 12-layer teacher, student cut from it",
        source="amazon",
        max_length=256,
        teacher_epochs=3,
        epochs=8,
        large=True,
        options={"student": "3x384"},
        methods=("logits+texts", "texts"),
    ),
    "long-ends": Column(
        title="Amazon, 256 tokens from both ends, 12-layer teacher",
        source="amazon",
        max_length=256,
        truncate="head-tail",
        teacher_epochs=3,
        epochs=8,
        large=True,
        methods=("logits", "uniform", "texts", "strong-predictions"),
    ),
    "ends": Column(
        title="Amazon, 128 tokens from both ends, 12-layer teacher",
        source="amazon",
        truncate="head-tail",
        teacher_epochs=3,
        epochs=8,
        large=True,
        methods=("logits", "uniform", "texts", "strong-predictions"),
    ),
    "amazon-texts": Column(
        title="Amazon, all rows and unlabeled texts, ten epochs, student cut from the teacher",
        source="amazon",
        teacher_epochs=2,
        epochs=10,
        options={"student": "3x384", "unlabelled": TEXTS},
        methods=("uniform", "logits"),
    ),
    "amazon-5-noise": Column(
        title="Amazon, 5% of train, labels of books and dvd shuffled, student cut from the teacher",
        source="amazon",
        few_shot=0.05,
        teacher_epochs=10,
        epochs=30,
        options={"student": "3x384", "eval_every": 40, "allow_weak_teacher": True},
        methods=("uniform", "frozen", "learned"),
        shuffled=("books", "dvd"),
    ),
    "sample": Column(
        title="the built-in sample",
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
    "sample": ("sample",),  # a smoke test of a minute or two
}


class PlanError(Exception):
    """A study that cannot run; the message is one line."""


def select_methods(plan: str, only: Sequence[str]) -> dict[str, list[str]]:
    """Return the methods to run for each column of a plan.

    Args:
        plan: a name in PLANS.
        only: patterns (``amazon-5``, ``amazon-5/frozen``, ``*/learned``); all if empty. COLUMN/METHOD without wildcards
            selects a method even if the column does not list it.

    Raises:
        PlanError: a pattern matches nothing.
    """
    candidates = [(column, method) for column in PLANS[plan] for method in COLUMNS[column].methods]
    for pattern in only:
        column, _, method = pattern.partition("/")
        if column in PLANS[plan] and method in METHODS and (column, method) not in candidates:
            candidates.append((column, method))
    patterns = [pattern if "/" in pattern else f"{pattern}/*" for pattern in only] or ["*"]
    selected: dict[str, list[str]] = {}
    matched = set()
    for column, method in candidates:
        matches = {pattern for pattern in patterns if fnmatch.fnmatchcase(f"{column}/{method}", pattern)}
        if matches:
            selected.setdefault(column, []).append(method)
            matched |= matches
    for pattern in patterns:
        if pattern not in matched:
            raise PlanError(f"--only {pattern}: nothing in plan {plan}; its columns: {', '.join(PLANS[plan])}")
    return selected
